package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"uid-nri-plugin/tests/e2e/lab"
)

// database is an image as those of databases are: its entrypoint starts as root, and goes on as a user of the image.
var database = lab.Image{
	Name:  "localhost/database:17",
	Users: []lab.Named{{Name: "postgres", ID: 70000}, {Name: "replica", ID: 71000}},
	Cmd: []string{"sh", "-c", `mkdir /data/db && chown postgres:replica /data/db || exit
exec su postgres -c 'id -un && touch /data/db/file && exec sleep 1000'`},
}

const claims = "claim-uids=70000,71000 claim-gids=70000,71000"

// runsDatabase fails unless a container of the image has all names and numbers that the image gives them.
func runsDatabase(t *testing.T, s *site, image string) {
	t.Helper()
	volume := s.volume(t, "0:0", "755")
	r := start(t, s.pod(t, lab.Pod{}), lab.Container{Image: image, Mounts: []lab.Mount{volume}})
	mapped(t, s, r)
	must(t, lab.Await(5*time.Second, "the entrypoint", func() bool { return strings.TrimSpace(r.Output()) != "" }))
	equal(t, "id -un of the entrypoint", r.Output(), "postgres\n")
	equal(t, "id", sh(t, r, "su postgres -c id"), "uid=70000(postgres) gid=70000(postgres) groups=70000(postgres)")
	equal(t, "ls -l", columns(sh(t, r, "ls -ld /data/db /data/db/file")), "postgres replica /data/db\npostgres postgres /data/db/file")
	sh(t, r, "chown replica:replica /data/db/file")
	equal(t, "ls -l after chown", columns(sh(t, r, "ls -l /data/db/file")), "replica replica /data/db/file")
	equal(t, "the number", sh(t, r, "stat -c %u:%g /data/db/file"), "71000:71000")
	place := careful.place(71000)
	equal(t, "owner on the node", s.owner(t, volume.Node+"/db/file"), fmt.Sprintf("%d:%d", place, place))
}

// columns are those of the owners and the name in what "ls -l" prints.
func columns(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		lines = append(lines, strings.Join([]string{f[2], f[3], f[len(f)-1]}, " "))
	}
	return strings.Join(lines, "\n")
}

func TestClaimsByImage(t *testing.T) {
	// Without the line, and without supervise, the entrypoint fails.
	control := otherContainerd(t, "2.4", options{config: "image localhost/other claim-uids=70000\n"})
	must(t, control.Import(database))
	c := lab.Container{Image: database.Name}
	r := start(t, control.pod(t, lab.Pod{}), c)
	_, err := r.Wait()
	must(t, err)
	contains(t, "what the entrypoint says", r.Output(), "chown: /data/db: Invalid argument")

	s := otherContainerd(t, "2.4", options{config: "log-level = debug\nimage localhost/database:* " + claims + "\n"})
	must(t, s.Import(database))
	runsDatabase(t, s, database.Name)
	s.said(t, "the name of the image", func(e lab.Entry) bool {
		return e["PRIORITY"] == "7" && has(e["MESSAGE"], `image is "localhost/database:17"`)
	})
	// Other images are left alone, and an annotation goes before.
	untouched(t, s, start(t, s.pod(t, lab.Pod{Name: "tools"}), lab.Container{Image: tools}))
	never := annotated("inject=never")
	never.Name = "never"
	untouched(t, s, start(t, s.pod(t, never), lab.Container{Image: database.Name, Command: forever}))
	found, err := s.Run(lab.PluginFile, "explain", "70000")
	must(t, err)
	contains(t, "explain", found, "claimed for image localhost/database:*\n")
}

// Under supervise the image's own files can be of its users.
func TestClaimsByImageSupervised(t *testing.T) {
	image := database
	image.Files = []lab.Owned{{Path: "home/secret", Uid: 70000, Gid: 71000}}

	control := otherContainerd(t, "2.4", options{supervise: true})
	must(t, control.Import(image))
	r := start(t, control.pod(t, lab.Pod{}), lab.Container{Image: image.Name, Command: forever})
	place := careful.place(70000)
	equal(t, "owners without the line", columns(sh(t, r, "ls -l /home/secret")), fmt.Sprintf("%d %d /home/secret", place, careful.place(71000)))
	equal(t, "user without the line", sh(t, r, "su postgres -c 'id -u'"), fmt.Sprint(place))

	s := otherContainerd(t, "2.4", options{supervise: true, config: "image localhost/database " + claims + "\n"})
	must(t, s.Import(image))
	runsDatabase(t, s, image.Name)
	r = start(t, s.pod(t, lab.Pod{Name: "files"}), lab.Container{Image: image.Name, Command: forever})
	equal(t, "owners", columns(sh(t, r, "ls -l /home/secret")), "postgres replica /home/secret")
	equal(t, "user", sh(t, r, "su postgres -c 'id -u; cat /home/secret'"), "70000\nhome/secret")
}

var digest = regexp.MustCompile("sha256:[0-9a-f]{64}")

// A digest is surer than a name: of several names of an image containerd tells one.
func TestClaimsByDigest(t *testing.T) {
	s := otherContainerd(t, "2.4", options{})
	must(t, s.Import(database))
	second := "localhost/a-database:17"
	_, err := s.Run("ctr", "-n", "k8s.io", "images", "tag", "--local", database.Name, second)
	must(t, err)
	must(t, lab.Await(5*time.Second, "the second name", func() bool {
		_, err := s.Run("crictl", "inspecti", "-q", second)
		return err == nil
	}))
	manifest, err := s.Run("ctr", "-n", "k8s.io", "images", "ls", "name=="+database.Name)
	must(t, err)
	config, err := s.Run("crictl", "inspecti", "-o", "go-template", "--template", "{{.status.id}}", database.Name)
	must(t, err)
	for _, c := range []struct {
		name, pattern string
		matches       bool
	}{
		{"manifest", digest.FindString(manifest), true},
		{"config", strings.TrimSpace(config), true},
		{"first name", second, true},
		{"second name", database.Name, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			must(t, s.WriteFile(lab.PluginConfig, []byte("image "+c.pattern+" "+claims+"\n"), 0o644))
			must(t, s.RestartContainerd())
			if c.matches {
				runsDatabase(t, s, database.Name)
				return
			}
			untouched(t, s, start(t, s.pod(t, lab.Pod{}), lab.Container{Image: database.Name, Command: forever}))
		})
	}
}

// containerd 2.3 tells no image: that is said once, and annotations work.
func TestClaimsByImageUntold(t *testing.T) {
	s := configured(t, "image localhost/database claim-uids=70000 claim-gids=70000\n")
	must(t, s.Import(database))
	c := lab.Container{Image: database.Name, Command: forever}
	untouched(t, s, start(t, s.pod(t, lab.Pod{}), c))
	r := start(t, s.pod(t, annotated(claims)), c)
	mapped(t, s, r)
	equal(t, "user", sh(t, r, "su postgres -c 'id -un'"), "postgres")
	s.said(t, "the image that is not told", func(e lab.Entry) bool { return e["PRIORITY"] == "4" && has(e["MESSAGE"], "image lines", "2.4") })
	told := 0
	for _, e := range s.journal.Entries() {
		if has(e["MESSAGE"], "image lines") {
			told++
		}
	}
	equal(t, "times that it is said", told, 1)
}
