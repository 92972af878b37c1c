// End-to-end tests: the real containerd, runc and crictl in nodes of 2048 ids, with and without the plugin.
// tests/run.sh starts them; they need root.
package e2e

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"uid-nri-plugin/tests/e2e/lab"
	"uid-nri-plugin/tests/rule"
)

func TestMain(m *testing.M) {
	lab.Main()
	code := m.Run()
	for _, s := range sites {
		s.close()
	}
	os.Exit(code)
}

// What the runtime says of an id that the node does not map, by which of runc's calls meets it first.
const (
	noSuchOwner  = "unable to setup user: chown /dev/stdout: invalid argument"
	noSuchGroups = "unable to setup user: setgroups: invalid argument"
)

// Images of the tests, all of them busybox.
const (
	tools       = "localhost/tools:test"     // runs as root
	user10001   = "localhost/user10001:test" // USER 10001:10001
	userBig     = "localhost/userbig:test"   // USER 1000660000
	nonroot     = "localhost/nonroot:test"   // USER 65532:65532, with a home of that owner
	pauseStock  = "localhost/pause:test"     // USER 65535:65535, as the stock one
	pauseAsRoot = "localhost/pause-as-root:test"
)

var forever = []string{"sleep", "1000"}

// site is a node and what the tests know about it.
type site struct {
	*lab.Node
	journal *lab.Journal
}

// layout is a way to map ids, and what can run on it.
type layout struct {
	name   string
	uids   []lab.Extent
	gids   []lab.Extent // the same as uids, if nil
	pool   int          // the length of the run of ids from 0
	pause  lab.Image
	images []lab.Image
}

var (
	careful = layout{
		name: "careful", uids: lab.Careful, pool: 2044,
		pause: lab.Image{Name: pauseStock, User: "65535:65535", Cmd: forever},
		images: []lab.Image{
			{Name: tools, Cmd: forever},
			{Name: user10001, User: "10001:10001", Cmd: forever},
			{Name: userBig, User: "1000660000", Cmd: forever},
			{Name: nonroot, User: "65532:65532", Cmd: forever, Owns: []lab.Owned{{Path: "home/nonroot", Uid: 65532, Gid: 65532}}},
		},
	}
	plain = layout{
		name: "plain", uids: lab.Plain, pool: 2048,
		pause:  lab.Image{Name: pauseAsRoot, Cmd: forever},
		images: []lab.Image{{Name: tools, Cmd: forever}, {Name: userBig, User: "1000660000", Cmd: forever}},
	}
)

// place is where the node has an id.
func (l layout) place(id int) int {
	var native []uint32
	if l.pool == careful.pool {
		native = []uint32{65532, 65533, 65534, 65535}
	}
	return int(rule.Place(uint32(l.pool), uint32(id), native...))
}

// peers are the programs of today; another containerd may take the place of the first.
func peers(containerd string) lab.Peers {
	return lab.Peers{
		Containerd: containerd, Runc: os.Getenv("LAB_RUNC"), Crictl: os.Getenv("LAB_CRICTL"),
		FuseOverlayfs: os.Getenv("LAB_FUSE_OVERLAYFS"),
	}
}

func pluginBinary() (string, error) {
	binary := os.Getenv("UID_NRI_PLUGIN")
	if binary == "" {
		return "", errors.New("UID_NRI_PLUGIN is not set: start the tests with tests/run.sh")
	}
	_, err := os.Stat(binary)
	return binary, err
}

// options of a site. The zero value is a node without the plugin, with the containerd of today.
type options struct {
	plugin     bool   // where containerd starts it from
	supervise  bool   // containerd runs below it
	config     string // its configuration file
	other      bool   // another containerd than today's: the next is its folder
	containerd string // empty is an error then, and not today's

	snapshotter string // not containerd's own choice
	rootlessKit bool   // a user started the node, whose map is then RootlessKit's and not the layout's
}

// newSite makes a node with a running containerd.
func newSite(name string, l layout, o options) (*site, error) {
	if !o.other {
		o.containerd = os.Getenv("LAB_CONTAINERD")
	}
	if l.gids == nil {
		l.gids = l.uids
	}
	start := func() (*lab.Node, error) { return lab.StartNode(name, l.uids, l.gids, peers(o.containerd)) }
	if o.rootlessKit {
		start = func() (*lab.Node, error) { return lab.StartRootlessKit(name, peers(o.containerd)) }
	}
	n, err := start()
	if err != nil {
		return nil, err
	}
	s := &site{Node: n}
	if err := s.build(l, o); err != nil {
		s.close()
		return nil, fmt.Errorf("node %s: %w", name, err)
	}
	return s, nil
}

func (s *site) build(l layout, o options) (err error) {
	if o.snapshotter == "" {
		o.snapshotter = os.Getenv("LAB_SNAPSHOTTER") // where containerd's own choice does not work
	}
	if o.snapshotter != "" {
		if err := s.UseSnapshotter(o.snapshotter); err != nil {
			return err
		}
	}
	if err := s.SetUp(l.pause.Name); err != nil {
		return err
	}
	if s.journal, err = s.ListenJournal(); err != nil {
		return err
	}
	if o.config != "" {
		if err := s.WriteFile(lab.PluginConfig, []byte(o.config), 0o644); err != nil {
			return err
		}
	}
	if o.plugin {
		binary, err := pluginBinary()
		if err != nil {
			return err
		}
		if err := s.InstallPlugin(binary); err != nil {
			return err
		}
	}
	if o.supervise {
		binary, err := pluginBinary()
		if err != nil {
			return err
		}
		if err := s.Supervise(binary); err != nil {
			return err
		}
	}
	if err := s.StartContainerd(); err != nil {
		return err
	}
	return s.Import(append(l.images, l.pause)...)
}

func (s *site) close() {
	if s.journal != nil {
		s.journal.Close()
	}
	s.Close()
}

// Nodes that many tests share: nothing but pods is ever changed in them.
var (
	sites    []*site
	bare     = map[string]func() (*site, error){}
	equipped = map[string]func() (*site, error){}
)

func init() {
	for _, l := range []layout{careful, plain} {
		bare[l.name] = sync.OnceValues(func() (*site, error) { return shared(newSite("bare-"+l.name, l, options{})) })
		equipped[l.name] = sync.OnceValues(func() (*site, error) { return shared(newSite(l.name, l, options{plugin: true})) })
	}
}

func shared(s *site, err error) (*site, error) {
	if err == nil {
		sites = append(sites, s)
	}
	return s, err
}

// bareSite is a node without the plugin: the control of every case.
func bareSite(t *testing.T, l layout) *site { return ready(t)(bare[l.name]()) }

// equippedSite is a node that differs from the bare one by one copied file.
func equippedSite(t *testing.T, l layout) *site { return ready(t)(equipped[l.name]()) }

// ownSite is a node for one test to break.
func ownSite(t *testing.T, l layout, o options) *site {
	s := ready(t)(newSite(strings.ToLower(t.Name()), l, o))
	t.Cleanup(s.close)
	return s
}

// ready ends the test if the node could not be had, and shows what the plugin said if the test fails.
func ready(t *testing.T) func(*site, error) *site {
	t.Helper()
	return func(s *site, err error) *site {
		t.Helper()
		must(t, err)
		before := len(s.journal.Entries())
		t.Cleanup(func() {
			if t.Failed() {
				for _, e := range s.journal.Entries()[before:] {
					t.Logf("%s: journal: %v", s.Name, e)
				}
			}
		})
		return s
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func contains(t *testing.T, what, got, want string) {
	t.Helper()
	if !strings.Contains(got, want) {
		t.Errorf("%s: %q is not in:\n%s", what, want, got)
	}
}

// pod makes a pod that goes when the test ends.
func (s *site) pod(t *testing.T, p lab.Pod) *lab.Sandbox {
	t.Helper()
	if p.Name == "" {
		p.Name = podName(t)
	}
	sandbox, err := s.RunPod(p)
	must(t, err)
	t.Cleanup(func() {
		if err := sandbox.Remove(); err != nil {
			t.Errorf("remove pod: %v", err)
		}
	})
	return sandbox
}

var notInNames = regexp.MustCompile(`[^a-z0-9]+`)

// podName is also the pod's host name, and so has a limit.
func podName(t *testing.T) string {
	name := strings.Trim(notInNames.ReplaceAllString(strings.ToLower(t.Name()), "-"), "-")
	return name[max(0, len(name)-50):]
}

// start starts a container that must start.
func start(t *testing.T, s *lab.Sandbox, c lab.Container) *lab.Running {
	t.Helper()
	r, err := s.Start(c)
	must(t, err)
	return r
}

var serial atomic.Int64

// refused starts a container that must not start, for the given reason.
func refused(t *testing.T, s *lab.Sandbox, c lab.Container, reason string) {
	t.Helper()
	c.Name = fmt.Sprintf("refused-%d", serial.Add(1)) // a container that failed keeps its name
	_, err := s.Start(c)
	if err == nil {
		t.Fatalf("the container started, which should have failed with %q", reason)
	}
	contains(t, "the error", err.Error(), reason)
}

// sh runs a shell command line in a container, where it must succeed.
func sh(t *testing.T, r *lab.Running, script string) string {
	t.Helper()
	out, err := r.Sh(script)
	must(t, err)
	return out
}

// mapped fails unless the container is in a user namespace of its own, said so by an annotation.
func mapped(t *testing.T, s *site, r *lab.Running) {
	t.Helper()
	if own := userNamespace(t, s, r); own == s.userNamespace(t) {
		t.Errorf("the container is in the node's user namespace")
	}
	for _, kind := range []string{"uid-mappings", "gid-mappings"} {
		annotation, err := r.Config(`.annotations["uid-mapper.noderesource.dev/` + kind + `"] | fromjson | map([.containerID, .hostID, .size] | join(" ")) | join("\n")`)
		must(t, err)
		equal(t, kind, annotation, idMap(t, r, strings.TrimSuffix(kind, "pings")[:3]+"_map"))
	}
}

// idMap is a container's own view of its uid_map or gid_map, with single spaces.
func idMap(t *testing.T, r *lab.Running, file string) string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(sh(t, r, "cat /proc/self/"+file)) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n")
}

// untouched fails if the plugin did anything to the container.
func untouched(t *testing.T, s *site, r *lab.Running) {
	t.Helper()
	equal(t, "user namespace", userNamespace(t, s, r), s.userNamespace(t))
	config, err := r.Config(".")
	must(t, err)
	for _, trace := range []string{"uid-mapper.noderesource.dev/", lab.StateDir} {
		if strings.Contains(config, trace) {
			t.Errorf("config.json holds %q", trace)
		}
	}
}

// userNamespace is that of a container's first process, as the node sees it.
func userNamespace(t *testing.T, s *site, r *lab.Running) string {
	t.Helper()
	pid, err := r.Pid()
	must(t, err)
	return s.link(t, fmt.Sprintf("/proc/%d/ns/user", pid))
}

func (s *site) userNamespace(t *testing.T) string { return s.link(t, "/proc/1/ns/user") }

func (s *site) link(t *testing.T, path string) string {
	t.Helper()
	out, err := s.Run("readlink", path)
	must(t, err)
	return strings.TrimSpace(out)
}

// owner is the owner of a file as the node sees it.
func (s *site) owner(t *testing.T, path string) string {
	t.Helper()
	out, err := s.Run("stat", "-c", "%u:%g", path)
	must(t, err)
	return strings.TrimSpace(out)
}

// volume is a folder of the node, like an emptyDir.
func (s *site) volume(t *testing.T, owner, mode string) lab.Mount {
	t.Helper()
	path := "/var/lib/kubelet/" + podName(t)
	must(t, s.Mkdir(path))
	_, err := s.Run("sh", "-c", `chown "$1" "$3" && chmod "$2" "$3"`, "sh", owner, mode, path)
	must(t, err)
	return lab.Mount{Node: path, Container: "/data"}
}

// said waits for an entry of the plugin's log.
func (s *site) said(t *testing.T, what string, match func(lab.Entry) bool) {
	t.Helper()
	err := lab.Await(3*time.Second, "the log entry about "+what, func() bool {
		for _, e := range s.journal.Entries() {
			if match(e) {
				return true
			}
		}
		return false
	})
	if err != nil {
		t.Errorf("%v; the log is:", err)
		for _, e := range s.journal.Entries() {
			t.Log(e)
		}
	}
}
