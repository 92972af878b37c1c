package e2e

import (
	"errors"
	"os"
	"strings"
	"sync"
	"testing"

	"uid-nri-plugin/tests/e2e/lab"
)

// A Debian as debootstrap makes it: programs that ask for ids of their own at run time.

const debian = "localhost/debian:test"

func debianSite(name string, l layout, o options) func() (*site, error) {
	return sync.OnceValues(func() (*site, error) {
		root := os.Getenv("LAB_DEBIAN")
		if root == "" {
			return nil, errors.New("LAB_DEBIAN is not set: start the tests with tests/run.sh")
		}
		l.images = []lab.Image{{Name: debian, Root: root, Cmd: forever}}
		return shared(newSite(name, l, o))
	})
}

var (
	debianBare    = debianSite("debian-bare", plain, options{plugin: true}) // which does nothing unless asked
	debianFolded  = debianSite("debian-folded", stock, options{supervise: true, plugin: true})
	debianCareful = debianSite("debian-careful", careful, options{supervise: true})
	debianAll     = debianSite("debian-all", stock, options{supervise: true, plugin: true, config: "inject = all\n"})
)

// debianIn starts a Debian that has its home below /tmp.
func debianIn(t *testing.T, site func() (*site, error), p lab.Pod) *lab.Running {
	t.Helper()
	s := ready(t)(site())
	return start(t, s.pod(t, p), lab.Container{Image: debian})
}

const (
	useradd = "useradd -m -u 50000 app"
	asApp   = `su app -c 'id -u; id -g; touch "$HOME/new"; stat -c %u:%g "$HOME" "$HOME/new"'`
	install = "install -o app -g app -m 640 /etc/hostname /srv/installed && stat -c %u:%g:%a /srv/installed"
)

func TestSupervisedDebian(t *testing.T) {
	control := debianIn(t, debianBare, lab.Pod{})
	sh(t, control, useradd+" || true")
	if home, _ := control.Sh("stat -c %u:%g /home/app"); home == "1744:1744" {
		t.Error("useradd gave the home away without the supervisor")
	}
	contains(t, "su without the supervisor", sh(t, control, "su app -c id 2>&1; echo exit $?"), "Invalid argument\nexit 1")
	contains(t, "install without the supervisor", sh(t, control, "{ "+install+"; } 2>&1; echo exit $?"), "Invalid argument\nexit 1")

	r := debianIn(t, debianFolded, lab.Pod{})
	sh(t, r, useradd)
	equal(t, "su", sh(t, r, asApp), "1744\n1744\n1744:1744\n1744:1744")
	equal(t, "install", sh(t, r, install), "1744:1744:640")
	equal(t, "what is left of root", sh(t, r, `su app -c 'cat /etc/shadow 2>&1; chown root ~/new 2>&1; true'`),
		"cat: /etc/shadow: Permission denied\nchown: changing ownership of '/home/app/new': Operation not permitted")
}

// Three hundred groups in one call, then privileges that are gone for good.
const dropInPerl = `
	my @want = map { 50000 + 3 * $_ } 0 .. 299;
	$) = join " ", 50000, @want; die "setgroups: $!\n" if $!;
	$( = 50000; die "setgid: $!\n" if $!;
	my %real = map { 1000 + $_ % 1048, 1 } @want;
	my @have = split " ", $); shift @have;
	my %have = map { $_, 1 } @have;
	print "groups: ", scalar(@have), ", wrong: ", scalar(grep { !$real{$_} } @have), ", missing: ", scalar(grep { !$have{$_} } keys %real), "\n";
	$< = $> = 1000660000; print "uid $< $>\n";
	$! = 0; $> = 0; print "back: $!\n"; $! = 0; $< = 0; print "back: $!\n"; $! = 0; $) = "0 0"; print "back: $!\n";
	open my $f, "<", "/etc/shadow" or print "shadow: $!\n";`

func TestSupervisedPerl(t *testing.T) {
	out, err := debianIn(t, debianBare, lab.Pod{}).Exec("perl", "-e", dropInPerl)
	if err == nil {
		t.Errorf("it worked without the supervisor: %s", out)
	} else {
		contains(t, "the error", err.Error(), "setgroups: Invalid argument")
	}
	out, err = debianIn(t, debianFolded, lab.Pod{}).Exec("perl", "-e", dropInPerl)
	must(t, err)
	equal(t, "perl", out, "groups: 300, wrong: 0, missing: 0\nuid 1256 1256\n"+
		strings.Repeat("back: Operation not permitted\n", 3)+"shadow: Permission denied")
}

// apt fetches as _apt, of the group 65534, and looks whether it really is so. What it is told is the truth, so on the
// plain map it gives up.
const aptUpdate = `mkdir -p /srv/repository && cd /srv/repository && : >Packages &&
	rm -rf /etc/apt/sources.list* /var/lib/apt/lists/* && echo "deb [trusted=yes] file:/srv/repository ./" >/etc/apt/sources.list &&
	apt-get update 2>&1; echo "exit $?"`

func TestSupervisedApt(t *testing.T) {
	for _, c := range []struct {
		name, want string
		site       func() (*site, error)
		pod        lab.Pod
	}{
		{"nothing", "setgroups", debianBare, lab.Pod{}},
		{"supervisor", "Could not switch group", debianFolded, lab.Pod{}},
		{"supervisor, 65534 in the map", "exit 0", debianCareful, lab.Pod{}},
		{"supervisor, 65534 claimed", "exit 0", debianFolded, annotated("claim-uids=65534 claim-gids=65534")},
		{"65534 claimed", "exit 0", debianBare, annotated("claim-uids=65534 claim-gids=65534")},
		{"inject=always", "exit 0", debianBare, annotated("inject=always")},
		{"supervisor, inject=always", "exit 0", debianFolded, annotated("inject=always")},
		{"supervisor, inject = all", "exit 0", debianAll, lab.Pod{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := debianIn(t, c.site, c.pod)
			out := sh(t, r, aptUpdate)
			contains(t, "apt-get update", out, c.want)
			if c.want != "exit 0" && strings.Contains(out, "exit 0") {
				t.Errorf("apt-get update worked: %s", out)
			}
		})
	}
}
