package e2e

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"uid-nri-plugin/tests/e2e/lab"
)

// A plain node with containerd below "uid-nri-plugin supervise". Every case has its control on one without.

const noLchown = "failed to Lchown"

// stock is the plain node with nothing made easy for it: the pause image runs as 65535:65535.
var stock = layout{
	name: "stock", uids: lab.Plain, pool: 2048,
	pause:  lab.Image{Name: pauseStock, User: "65535:65535", Cmd: forever},
	images: []lab.Image{{Name: tools, Cmd: forever}, {Name: userBig, User: "1000660000", Cmd: forever}},
}

// Folded nodes that many tests share.
var (
	bareStock   = sync.OnceValues(func() (*site, error) { return shared(newSite("bare-stock", stock, options{})) })
	foldedStock = sync.OnceValues(func() (*site, error) { return shared(newSite("folded", stock, options{supervise: true})) })
	bothStock   = sync.OnceValues(func() (*site, error) {
		return shared(newSite("folded-plugin", stock, options{supervise: true, plugin: true}))
	})
)

// withFiles is an image with some folders and, in one of them, files.
func withFiles(name string, owners ...lab.Owned) lab.Image {
	i := lab.Image{Name: "localhost/" + name + ":test", User: "65532:65532", Cmd: forever}
	i.Owns = append(i.Owns, lab.Owned{Path: "home/nonroot", Uid: 65532, Gid: 65532}, lab.Owned{Path: "owned-" + name})
	for n, o := range owners {
		o.Path = fmt.Sprintf("owned-%s/%d", name, n)
		i.Files = append(i.Files, o)
	}
	return i
}

// unpacked fails unless every file of an image of withFiles is on the node's disk, owned as the rule says.
func (s *site) unpacked(t *testing.T, l layout, i lab.Image) {
	t.Helper()
	dir := filepath.Dir(i.Files[0].Path)
	out, err := s.Run("sh", "-c", "find "+s.Snapshots()+`/"$1" -type f -printf '%f %U:%G\n'`, "sh", dir)
	must(t, err)
	found := map[string]string{}
	for line := range strings.Lines(out) {
		name, owner, _ := strings.Cut(strings.TrimSpace(line), " ")
		found[name] = owner
	}
	equal(t, "files on disk", len(found), len(i.Files))
	wrong := 0
	for _, f := range i.Files {
		want := fmt.Sprintf("%d:%d", l.place(f.Uid), l.place(f.Gid))
		if got := found[filepath.Base(f.Path)]; got != want {
			if wrong++; wrong < 10 {
				t.Errorf("owner of a file of %d:%d: got %q, want %s", f.Uid, f.Gid, got, want)
			}
		}
	}
	if wrong > 0 {
		t.Errorf("%d of %d files have the wrong owner", wrong, len(i.Files))
	}
}

// notUnpacked imports an image that a node cannot unpack.
func (s *site) notUnpacked(t *testing.T, i lab.Image) {
	t.Helper()
	err := s.Import(i)
	if err == nil {
		t.Fatalf("%s was unpacked without the supervisor", i.Name)
	}
	contains(t, "the error", err.Error(), noLchown)
	contains(t, "the error", err.Error(), "invalid argument")
}

// process shows what the node sees of a process: user ids, group ids and groups.
func (s *site) process(t *testing.T, pid int) string {
	t.Helper()
	out, err := s.Run("sed", "-n", "/^[UG]id:/p; /^Groups:/p", fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	return strings.Join(strings.Fields(out), " ")
}

func (s *site) sandboxPid(t *testing.T, p *lab.Sandbox) (pid int) {
	t.Helper()
	out, err := s.Run("crictl", "inspectp", "-o", "go-template", "--template", "{{.info.pid}}", p.ID)
	must(t, err)
	_, err = fmt.Sscan(out, &pid)
	must(t, err)
	return pid
}

// Four times the same id, as a status line has it.
func four(id int) string { return strings.TrimSpace(strings.Repeat(fmt.Sprintf("%d ", id), 4)) }

func TestSupervisedPause(t *testing.T) {
	control := ready(t)(bareStock())
	if _, err := control.RunPod(lab.Pod{Name: "stock"}); err == nil {
		t.Error("the stock pause image ran without the supervisor")
	} else {
		contains(t, "the error", err.Error(), noSuchGroups)
	}
	s := ready(t)(foldedStock())
	pod := s.pod(t, lab.Pod{})
	equal(t, "the pause process", s.process(t, s.sandboxPid(t, pod)),
		fmt.Sprintf("Uid: %s Gid: %s Groups: 1559", four(1559), four(1559)))
}

func TestSupervisedUnpack(t *testing.T) {
	control, s := ready(t)(bareStock()), ready(t)(foldedStock())
	for id, place := range map[int]int{65532: 1556, 1185200044: 1076, 4294967294: 1246} {
		t.Run(fmt.Sprint(id), func(t *testing.T) {
			for n, o := range []lab.Owned{{Uid: id, Gid: id}, {Uid: id}, {Gid: id}} {
				i := withFiles(fmt.Sprintf("high-%d-%d", id, n), o)
				i.Owns = i.Owns[1:] // but for the home, which is 65532's
				control.notUnpacked(t, i)
				must(t, s.Import(i))
				s.unpacked(t, stock, i)
			}
			equal(t, "place", stock.place(id), place)
		})
	}
}

// Access control lists and capabilities have ids in them, too.
func TestSupervisedUnpackOfAttributes(t *testing.T) {
	control, s := ready(t)(bareStock()), ready(t)(foldedStock())
	words := func(all ...uint32) (text string) {
		for _, word := range all {
			text += string(binary.LittleEndian.AppendUint32(nil, word))
		}
		return text
	}
	const none = 1<<32 - 1
	// The group that bounds it has no permissions, as the mode of the file will say.
	list := func(id uint32) string {
		return words(2, 6<<16|1, none, 4<<16|2, id, 4<<16|4, none, 16, none, 32, none)
	}
	capability := func(root uint32) string { return words(3<<24, 1<<13, 0, 0, 0, root) }
	const acl, capabilities = "system.posix_acl_access", "security.capability"
	for name, c := range map[string]struct{ kind, value, placed string }{
		"acl":        {acl, list(50000), list(uint32(lab.Plain[0].Machine) + 1744)},
		"capability": {capabilities, capability(100000), capability(uint32(lab.Plain[0].Machine) + 1440)},
	} {
		t.Run(name, func(t *testing.T) {
			i := withFiles("xattr-"+name, lab.Owned{Xattrs: map[string]string{c.kind: c.value}})
			i.Owns = i.Owns[1:] // but for the home, which is 65532's
			if err := control.Import(i); err == nil {
				t.Error("it was unpacked without the supervisor")
			} else {
				contains(t, "the error", err.Error(), "invalid argument")
			}
			must(t, s.Import(i))
			found, err := filepath.Glob(s.Path(s.Snapshots()) + "/" + i.Files[0].Path)
			must(t, err)
			equal(t, "files on disk", len(found), 1)
			value := make([]byte, 100)
			n, err := syscall.Getxattr(found[0], c.kind, value)
			must(t, err)
			equal(t, "the attribute, as the machine sees it", fmt.Sprintf("%x", value[:n]), fmt.Sprintf("%x", c.placed))
		})
	}
}

// Ten thousand files of all kinds of owners, each looked at.
func TestSupervisedUnpackOfMany(t *testing.T) {
	const seed = 2048
	random := rand.New(rand.NewPCG(seed, seed))
	id := func() int {
		switch random.IntN(4) {
		case 0:
			return random.IntN(1<<32 - 1) // all but -1
		case 1:
			return random.IntN(1 << 16)
		case 2:
			return random.IntN(1<<21) * 1048
		default:
			return random.IntN(4096)
		}
	}
	owners := make([]lab.Owned, 10000)
	for n := range owners {
		owners[n].Uid, owners[n].Gid = id(), id()
	}
	i := withFiles("many", owners...)
	ready(t)(bareStock()).notUnpacked(t, i)
	s := ready(t)(foldedStock())
	began := time.Now()
	must(t, s.Import(i))
	t.Logf("unpacked in %v", time.Since(began))
	s.unpacked(t, stock, i)
}

// An image of 65532 runs as 65532, and can write what is its own: under the number that the node has for it without the
// plugin, under its true one with it.
func TestSupervisedNonroot(t *testing.T) {
	i := withFiles("nonroot", lab.Owned{Uid: 65532, Gid: 65532})
	ready(t)(bareStock()).notUnpacked(t, i)
	for _, c := range []struct {
		name string
		site func() (*site, error)
		id   int
	}{{"supervisor", foldedStock, 1556}, {"supervisor and plugin", bothStock, 65532}} {
		t.Run(c.name, func(t *testing.T) {
			s := ready(t)(c.site())
			must(t, s.Import(i))
			s.unpacked(t, stock, i)
			volume := s.volume(t, "0:0", "1777")
			r := start(t, s.pod(t, lab.Pod{}), lab.Container{Image: i.Name, Mounts: []lab.Mount{volume}})
			equal(t, "id", sh(t, r, "id -u; id -G"), fmt.Sprintf("%d\n%d", c.id, c.id))
			equal(t, "owners inside", sh(t, r, "cd /home/nonroot && touch new /data/file && stat -c %u:%g . new"),
				fmt.Sprintf("%d:%d\n%d:%d", c.id, c.id, c.id, c.id))
			equal(t, "owner on the node", s.owner(t, volume.Node+"/file"), "1556:1556")
			pid, err := r.Pid()
			must(t, err)
			equal(t, "the process", s.process(t, pid), fmt.Sprintf("Uid: %s Gid: %s Groups: 1556", four(1556), four(1556)))
		})
	}
}

func TestSupervisedHighUser(t *testing.T) {
	c := lab.Container{Image: userBig}
	refused(t, bareSite(t, plain).pod(t, lab.Pod{}), c, noSuchOwner)
	s := ready(t)(foldedStock())
	pod := s.pod(t, lab.Pod{})
	volume := s.volume(t, "0:0", "1777")
	for n, c := range []lab.Container{c, {Image: tools, User: lab.ID(1000660000), Groups: []int{50000, 65534, 27}}} {
		c.Name, c.Mounts = fmt.Sprintf("c%d", n), []lab.Mount{volume}
		r := start(t, pod, c)
		equal(t, "id -u", sh(t, r, "id -u"), "1256")
		equal(t, "owner of a new file", sh(t, r, fmt.Sprintf("touch /data/%d && stat -c %%u:%%g /data/%d", n, n)), "1256:0")
		if n == 1 {
			equal(t, "groups", groups(t, r), "0 27 1558 1744")
		}
		if out, err := r.Sh("chown 0 /data/0 2>&1 || cat /proc/1/environ 2>&1; su 2>&1"); err == nil {
			t.Errorf("it has rights left: %s", out)
		}
	}
}

// Run-time calls of programs in a container.
func TestSupervisedCalls(t *testing.T) {
	const script = `cd /tmp && touch file && chown 12345:50000 file && stat -c %u:%g file &&
		ln -s file link && chown -h 2048:4096 link && stat -c %u:%g link file &&
		mkdir -p deep/er && chown -R 65532:65532 deep && stat -c %u:%g deep/er`
	control := start(t, bareSite(t, plain).pod(t, lab.Pod{}), lab.Container{Image: tools})
	if out, err := control.Sh(script); err == nil {
		t.Errorf("chown worked without the supervisor: %s", out)
	} else {
		contains(t, "the error", err.Error(), "Invalid argument")
	}
	const want = "1817:1744\n2000:1952\n1817:1744\n1556:1556"
	s := ready(t)(foldedStock())
	equal(t, "owners", sh(t, start(t, s.pod(t, lab.Pod{}), lab.Container{Image: tools}), script), want)
	// In a user namespace of the plugin's, ids that it does not map are folded just so.
	both := ready(t)(bothStock())
	r := start(t, both.pod(t, annotated("claim-uids=10001")), lab.Container{Image: tools})
	mapped(t, both, r)
	equal(t, "chown of a claimed id", sh(t, r, "touch /tmp/own && chown 10001 /tmp/own && stat -c %u /tmp/own"), "10001")
	if out := sh(t, r, "touch /tmp/x && chown 12345:50000 /tmp/x && stat -c %u:%g /tmp/x"); out != "1817:1744" {
		t.Errorf("chown of an unclaimed id: %s", out)
	}
}

// A program of many threads gives its rights away: every thread of it must.
func TestSupervisedDrop(t *testing.T) {
	drop := os.Getenv("LAB_DROP") // where there is no compiler (tests/vm.sh)
	if drop == "" {
		drop = filepath.Join(t.TempDir(), "drop")
		build := exec.Command("go", "build", "-buildvcs=false", "-o", drop, "./cmd/drop")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	run := func(s *site, p lab.Pod) (string, error) {
		must(t, s.CopyIn(drop, "/opt/tests/drop"))
		r := start(t, s.pod(t, p), lab.Container{Image: tools, Mounts: []lab.Mount{{Node: "/opt/tests", Container: "/opt/tests", ReadOnly: true}}})
		sh(t, r, "echo mine >/run/secret && chmod 600 /run/secret")
		return r.Sh("/opt/tests/drop 1000660000 50000 50000 65534 2>&1; true")
	}
	out, err := run(bareSite(t, plain), lab.Pod{})
	must(t, err)
	contains(t, "without the supervisor", out, "setgroups: invalid argument")

	s := ready(t)(foldedStock())
	for range 5 {
		out, err = run(s, lab.Pod{Name: fmt.Sprintf("drop-%d", serial.Add(1))})
		must(t, err)
		equal(t, "after the drop", out, fmt.Sprintf(`Uid: %s; Gid: %s; Groups: 1558 1744; CapEff: 0000000000000000
setuid(0): operation not permitted
setgid(0): operation not permitted
setgroups(0): operation not permitted
open /run/secret: permission denied`, four(1256), four(1744)))
	}
}

// Runtimes that can take no namespace from the plugin, and get along without.
func TestSupervisedOlderContainerd(t *testing.T) {
	for version, variable := range map[string]string{"2.1": "LAB_CONTAINERD_2_1", "1.7": "LAB_CONTAINERD_1_7"} {
		t.Run(version, func(t *testing.T) {
			if os.Getenv(variable) == "" {
				t.Fatalf("%s is not set: start the tests with tests/run.sh", variable)
			}
			old := options{other: true, containerd: os.Getenv(variable)}
			i := withFiles("older", lab.Owned{Uid: 65532, Gid: 65532}, lab.Owned{Uid: 1185200044, Gid: 4294967294})
			control := ownSite(t, stock, old)
			said, err := control.Run("containerd", "--version")
			must(t, err)
			contains(t, "version", strings.ReplaceAll(said, " v", " "), " "+version+".")
			if _, err := control.RunPod(lab.Pod{Name: "stock"}); err == nil {
				t.Error("the stock pause image ran without the supervisor")
			} else {
				contains(t, "the error", err.Error(), noSuchGroups)
			}
			control.notUnpacked(t, i)
			old.supervise = true
			s := ready(t)(newSite("folded-"+version, stock, old))
			t.Cleanup(s.close)
			must(t, s.Import(i))
			s.unpacked(t, stock, i)
			pod := s.pod(t, lab.Pod{})
			r := start(t, pod, lab.Container{Name: "nonroot", Image: i.Name})
			equal(t, "nonroot", sh(t, r, "id -u; touch /home/nonroot/new && stat -c %u:%g /home/nonroot/new"), "1556\n1556:1556")
			equal(t, "runAsUser", sh(t, start(t, pod, lab.Container{Name: "big", Image: userBig}), "id -u"), "1256")
		})
	}
}

// A node with nothing but its own id, as every user has without any preparation: everything is root's.
func TestSupervisedSingleId(t *testing.T) {
	one := layout{
		name: "single", uids: lab.Single, pool: 1,
		pause:  lab.Image{Name: pauseStock, User: "65535:65535", Cmd: forever},
		images: []lab.Image{{Name: tools, Cmd: forever}},
	}
	i := withFiles("single", lab.Owned{Uid: 65532, Gid: 65532}, lab.Owned{Uid: 1}, lab.Owned{Gid: 1}, lab.Owned{Uid: 4294967294, Gid: 4294967294})
	ownSite(t, one, options{}).notUnpacked(t, i)

	s := ready(t)(newSite("single-folded", one, options{supervise: true}))
	t.Cleanup(s.close)
	must(t, s.Import(i))
	s.unpacked(t, one, i)
	pod := s.pod(t, lab.Pod{})
	r := start(t, pod, lab.Container{Image: i.Name})
	equal(t, "id", sh(t, r, "id -u; id -g"), "0\n0")
	equal(t, "owners", sh(t, r, "touch /tmp/new && chown 10001:10001 /tmp/new && stat -c %u:%g /tmp/new /home/nonroot"), "0:0\n0:0")
}
