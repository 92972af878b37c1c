// Package lab makes small Kubernetes-like nodes on one machine: user namespaces with few ids, in which the real
// containerd, runc and crictl run. Everything a node does dies and vanishes with it.
package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"uid-nri-plugin/tests/node"
	"uid-nri-plugin/tests/wait"
)

const (
	oPath    = 0x200000 // O_PATH of open(2), which package syscall lacks
	nodePath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
	base     = node.First // the first of the machine's ids that nodes use
)

// Extent is one line of an id map.
type Extent struct{ Node, Machine, Size int }

// Maps of a user with 2048 subordinate ids: laid out plainly, and by an operator who cares for the ids that images
// are known to use.
var (
	Plain   = []Extent{{0, base, 2048}}
	Careful = []Extent{{0, base, 2044}, {65532, base + 2044, 4}}
	// What a user with all the ids that images are allowed to use has.
	Whole = []Extent{{0, base, 65536}}
	// What everybody has, without any subordinate ids.
	Single = []Extent{{0, base, 1}}
)

// Peers are the folders of the real programs.
type Peers struct {
	Containerd, Runc, Crictl string
	FuseOverlayfs            string // only for nodes that have this snapshotter
}

// binds are the machine's paths by those in a node, besides /usr.
func (p Peers) binds() (map[string]string, error) {
	for what, dir := range map[string]string{"LAB_CONTAINERD": p.Containerd, "LAB_RUNC": p.Runc, "LAB_CRICTL": p.Crictl} {
		if dir == "" {
			return nil, fmt.Errorf("%s is not set: start the tests with tests/run.sh", what)
		}
	}
	binds := map[string]string{
		"/usr/local/bin":   p.Containerd,
		"/usr/local/sbin":  p.Runc,
		"/opt/crictl":      p.Crictl,
		"/opt/cni/bin":     "/usr/lib/cni",
		"/etc/ld.so.cache": "/etc/ld.so.cache",
	}
	if p.FuseOverlayfs != "" {
		binds["/opt/fuse-overlayfs"] = p.FuseOverlayfs
	}
	return binds, nil
}

// Node is a running node.
type Node struct {
	Name    string
	owner   int // the machine's id that is root in the node
	cmd     *exec.Cmd
	pid     int
	life    io.Closer // the node's init ends when this closes
	cgroup  string
	leaf    *os.File
	daemons map[string]*Daemon
	stderr  bytes.Buffer

	supervise    bool   // containerd is started below the supervisor
	hasTerminals bool   // the node maps the group of terminals
	snapshotter  string // for images and containers; containerd's own choice if empty
	user         bool   // every command is started by the user, who has no rights on the machine
}

// StartNode makes a node with the given maps. Its /usr is the machine's, with the peers in /usr/local; everything else
// is its own.
func StartNode(name string, uids, gids []Extent, peers Peers) (*Node, error) {
	n := &Node{Name: name, owner: base, hasTerminals: maps(gids, terminals)}
	return n, n.start(plan{Base: base, Uids: uids, Gids: gids}, peers)
}

// start makes the node of a plan that says whose it is.
func (n *Node) start(p plan, peers Peers) error {
	binds, err := peers.binds()
	if err != nil {
		return err
	}
	p.Binds = binds
	said, err := n.launch(outerName, p)
	if err != nil {
		return err
	}
	if n.pid, err = strconv.Atoi(said); err != nil {
		n.Close()
	}
	return err
}

// launch starts a stage with the plan, beside a cgroup for the node, and returns what it says once it is ready.
func (n *Node) launch(stage string, p plan) (string, error) {
	if os.Geteuid() != 0 {
		return "", errors.New("run as root: a node is a user namespace of ids that only root may map")
	}
	n.daemons = map[string]*Daemon{}
	leaf, err := n.makeCgroup()
	if err != nil {
		return "", err
	}
	p.Name, p.Leaf = n.Name, leaf
	text, err := json.Marshal(p)
	if err != nil {
		return "", err
	}
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if stage != accountName { // which ends all that is in the cgroup
		top, err := os.Open(n.cgroup)
		if err != nil {
			return "", err
		}
		defer top.Close()
		attr.UseCgroupFD, attr.CgroupFD = true, int(top.Fd())
	}
	life, end, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer life.Close()
	n.life = end
	n.cmd = &exec.Cmd{
		Path:        "/proc/self/exe",
		Args:        []string{stage},
		Env:         []string{planEnv + "=" + string(text), "PATH=" + nodePath},
		Stdin:       life,
		Stderr:      &n.stderr,
		SysProcAttr: attr,
	}
	out, err := n.cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := n.cmd.Start(); err != nil {
		return "", err
	}
	said, _ := io.ReadAll(out)
	if len(said) == 0 {
		n.Close()
		return "", fmt.Errorf("%s did not start: %s", n.Name, n.stderr.String())
	}
	return strings.TrimSpace(string(said)), nil
}

// terminals is the group of terminals, with which /dev/pts is mounted.
const terminals = 5

func maps(extents []Extent, id int) bool {
	for _, e := range extents {
		if id >= e.Node && id < e.Node+e.Size {
			return true
		}
	}
	return false
}

// makeCgroup makes a cgroup that the node's root owns, where cgroup v2 is mounted beside v1 or alone, with a leaf for
// the node's processes. What a killed run left is removed on the way.
func (n *Node) makeCgroup() (leaf string, err error) {
	root := "/sys/fs/cgroup/unified"
	if _, err := os.Stat(root + "/cgroup.procs"); err != nil {
		root = "/sys/fs/cgroup"
	}
	left, _ := filepath.Glob(root + "/uid-nri-node-*")
	for _, dir := range left {
		removeCgroup(dir) // refused while a process is in it
	}
	if n.cgroup, err = os.MkdirTemp(root, "uid-nri-node-"); err != nil {
		return "", err
	}
	leaf = n.cgroup + "/init"
	if err := os.Mkdir(leaf, 0o755); err != nil {
		return "", err
	}
	for _, dir := range []string{n.cgroup, leaf} {
		os.Chmod(dir, 0o755)
		for _, name := range []string{"", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"} {
			if err := os.Chown(filepath.Join(dir, name), n.owner, n.owner); err != nil {
				return "", err
			}
		}
	}
	n.leaf, err = os.Open(leaf)
	return leaf, err
}

func removeCgroup(dir string) error {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			removeCgroup(filepath.Join(dir, e.Name()))
		}
	}
	return os.Remove(dir)
}

// Close ends every process of the node.
func (n *Node) Close() {
	n.life.Close()
	done := make(chan struct{})
	go func() {
		n.cmd.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(wait.Scaled(5 * time.Second)):
		n.cmd.Process.Kill()
		<-done
	}
	n.leaf.Close()
	for range 100 {
		if removeCgroup(n.cgroup) == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Path is the machine's path of a file of the node.
func (n *Node) Path(path string) string {
	return fmt.Sprintf("/proc/%d/root%s", n.pid, path)
}

// command is a command that will run as root of the node.
func (n *Node) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	enter := []string{"-t", strconv.Itoa(n.pid), "-U", "-m", "-u", "-i", "-n", "-p", "-C"}
	home := "/root"
	if n.user {
		enter, home = append(enter, "--preserve-credentials"), userHome
	}
	cmd := exec.CommandContext(ctx, "nsenter", append(append(enter, "--", name), args...)...)
	cmd.Env = []string{"PATH=" + nodePath + ":/opt/crictl", "HOME=" + home, "CONTAINER_RUNTIME_ENDPOINT=unix:///run/containerd/containerd.sock"}
	cmd.Dir = "/"
	// nsenter -C enters the cgroup namespace, not the cgroup.
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(n.leaf.Fd())}
	if n.user {
		cmd.SysProcAttr.Credential = userCredential
	}
	return cmd
}

// Run runs a command as root of the node and returns what it wrote to stdout. The error holds what it wrote to stderr.
func (n *Node) Run(name string, args ...string) (string, error) {
	return n.RunInput(nil, name, args...)
}

// RunInput is Run with something on stdin.
func (n *Node) RunInput(stdin []byte, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), wait.Scaled(time.Minute))
	defer cancel()
	cmd := n.command(ctx, name, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	return output(cmd, append([]string{name}, args...))
}

// output runs a command and returns what it wrote to stdout. The error names it as argv.
func output(cmd *exec.Cmd, argv []string) (string, error) {
	var out, bad bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &bad
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, strings.TrimSpace(bad.String()))
	}
	return out.String(), nil
}

// Attached runs a command as root of the node with this program's own stdin, stdout and stderr.
func (n *Node) Attached(name string, args ...string) error {
	cmd := n.command(context.Background(), name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

// WriteFile writes a file of the node that belongs to the node's root.
func (n *Node) WriteFile(path string, content []byte, mode os.FileMode) error {
	if err := n.Mkdir(filepath.Dir(path)); err != nil {
		return err
	}
	// Renamed into place, since the old one may be a program that runs.
	at := n.Path(path)
	return n.asOwner(func() error {
		if err := os.WriteFile(at+".new", content, mode); err != nil {
			return err
		}
		return errors.Join(os.Chmod(at+".new", mode), os.Rename(at+".new", at))
	})
}

// asOwner makes files with the ids of the node's root: a file system that was mounted in the node knows no id of the
// machine's root, and lets it make nothing (EOVERFLOW).
func (n *Node) asOwner(do func() error) error {
	runtime.LockOSThread()
	set := func(id int) {
		// These two calls are of one thread, and tell no errors.
		syscall.RawSyscall(syscall.SYS_SETFSGID, uintptr(id), 0, 0)
		syscall.RawSyscall(syscall.SYS_SETFSUID, uintptr(id), 0, 0)
	}
	set(n.owner)
	err := do()
	set(0)
	runtime.UnlockOSThread()
	return err
}

// Mkdir makes a folder of the node, with its parents, that belongs to the node's root.
func (n *Node) Mkdir(path string) error {
	if _, err := os.Stat(n.Path(path)); err == nil {
		return nil
	}
	if err := n.Mkdir(filepath.Dir(path)); err != nil {
		return err
	}
	return n.asOwner(func() error { return os.Mkdir(n.Path(path), 0o755) })
}

// ReadFile reads a file of the node; an absent one is empty.
func (n *Node) ReadFile(path string) string {
	text, _ := os.ReadFile(n.Path(path))
	return string(text)
}

// Daemon is a long-running program of the node.
type Daemon struct {
	Name string
	Log  string // the path in the node of what it writes to stdout and stderr
	node *Node
	cmd  *exec.Cmd
	done chan struct{}
}

// StartDaemon starts a program in the background, with its output appended to /var/log/NAME.log.
func (n *Node) StartDaemon(name string, argv ...string) (*Daemon, error) {
	d := &Daemon{Name: name, Log: "/var/log/" + name + ".log", node: n, done: make(chan struct{})}
	if err := n.Mkdir("/var/log"); err != nil {
		return nil, err
	}
	os.Remove(n.Path(d.pidFile()))
	script := `echo $$ >"$1" || exit; log=$2; shift 2; exec "$@" >>"$log" 2>&1`
	d.cmd = n.command(context.Background(), "sh", append([]string{"-c", script, "sh", d.pidFile(), d.Log}, argv...)...)
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		d.cmd.Wait()
		close(d.done)
	}()
	n.daemons[name] = d
	return d, Await(5*time.Second, "a pid of "+name, func() bool { return d.Pid() != 0 })
}

func (d *Daemon) pidFile() string { return "/run/" + d.Name + ".lab-pid" }

// Pid is its process id inside the node.
func (d *Daemon) Pid() int {
	pid, _ := strconv.Atoi(strings.TrimSpace(d.node.ReadFile(d.pidFile())))
	return pid
}

// Signal sends it a signal.
func (d *Daemon) Signal(sig syscall.Signal) error {
	_, err := d.node.Run("kill", fmt.Sprintf("-%d", sig), strconv.Itoa(d.Pid()))
	return err
}

// Running tells whether it still runs.
func (d *Daemon) Running() bool {
	select {
	case <-d.done:
		return false
	default:
		return true
	}
}

// Wait waits for its end and gives its exit code.
func (d *Daemon) Wait(limit time.Duration) (int, error) {
	select {
	case <-d.done:
		return d.cmd.ProcessState.ExitCode(), nil
	case <-time.After(wait.Scaled(limit)):
		return 0, fmt.Errorf("%s still runs after %v", d.Name, limit)
	}
}

// Stop ends it.
func (d *Daemon) Stop() error {
	if !d.Running() {
		return nil
	}
	if err := d.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	_, err := d.Wait(10 * time.Second)
	return err
}

// Output is all that it has written.
func (d *Daemon) Output() string { return d.node.ReadFile(d.Log) }

// Await asks until the answer is yes.
func Await(limit time.Duration, what string, ready func() bool) error {
	return wait.For(limit, what, func() error {
		if !ready() {
			return errors.New("not yet")
		}
		return nil
	})
}
