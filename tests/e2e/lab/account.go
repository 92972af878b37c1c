package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"uid-nri-plugin/tests/wait"
)

// Account is a user of the machine who is not root and has 2048 subordinate ids, as on an HPC system. The user exists
// in a mount namespace only, and whatever it starts ends with it.
type Account struct {
	peers Peers
	node  *Node // the one that Podman is to run for it; until then it has no processes of its own
	stage int   // pid of the stage that holds the mount namespace
}

// userDir is where its files are, as it sees them: a tmpfs of its own.
const userDir = "/mnt"

// The machine may lack what Podman wants by default: systemd's user session, a network to the outside, overlayfs on
// any file system. What the user would type stays as it is.
const podmanConfig = `[containers]
netns = "none"
cgroups = "disabled"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
`

// NewAccount makes the user, who finds the given programs of the machine in the PATH.
func NewAccount(name string, peers Peers, programs ...string) (*Account, error) {
	binds, err := peers.binds()
	if err != nil {
		return nil, err
	}
	seen := map[string]string{}
	for at, from := range binds {
		seen[userDir+"/node"+at] = from
	}
	for _, program := range programs {
		seen[userDir+"/bin/"+filepath.Base(program)] = program
	}
	n := &Node{Name: name, owner: userID, hasTerminals: true}
	if _, err := n.launch(accountName, plan{Base: userID, Binds: seen}); err != nil {
		return nil, err
	}
	return &Account{peers: peers, node: n, stage: n.cmd.Process.Pid}, nil
}

// account is the stage that makes the user, and ends all its processes when stdin closes.
func account() error {
	var p plan
	if err := json.Unmarshal([]byte(os.Getenv(planEnv)), &p); err != nil {
		return err
	}
	kill, err := os.OpenFile(filepath.Join(filepath.Dir(p.Leaf), "cgroup.kill"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	// Shared, as Podman wants it, but with nobody.
	for _, flags := range []uintptr{syscall.MS_REC | syscall.MS_PRIVATE, syscall.MS_REC | syscall.MS_SHARED} {
		if err := syscall.Mount("", "/", "", flags, ""); err != nil {
			return err
		}
	}
	if err := syscall.Mount("account", userDir, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for at, from := range p.Binds {
		if err := p.bind(from, at, true); err != nil {
			return fmt.Errorf("%s: %w", from, err)
		}
	}
	for _, dir := range strings.Fields("etc work home run root") {
		if err := p.mkdir(filepath.Join(userDir, dir)); err != nil {
			return err
		}
	}
	if err := errors.Join(os.Chown(userDir+"/etc", 0, 0), os.Chmod(userDir+"/run", 0o700)); err != nil {
		return err
	}
	if err := p.skeleton(userDir + "/root"); err != nil {
		return err
	}
	if err := os.WriteFile(userDir+"/containers.conf", []byte(podmanConfig), 0o644); err != nil {
		return err
	}
	options := "lowerdir=/etc,upperdir=" + userDir + "/etc,workdir=" + userDir + "/work"
	if err := syscall.Mount("etc", "/etc", "overlay", 0, options); err != nil {
		return fmt.Errorf("overlay on /etc: %w", err)
	}
	if err := addUser("/etc", userDir+"/home"); err != nil {
		return err
	}
	// Podman takes a machine that mounts cgroup v1 as well for one of v1.
	if err := syscall.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""); err != nil {
		return err
	}
	fmt.Println("ready")
	os.Stdout.Close()
	io.Copy(io.Discard, os.Stdin)
	_, err = kill.WriteString("1")
	return err
}

// addUser adds the user, whose home is given, and the subordinate ids to the files of a folder that is an /etc.
func addUser(etc, home string) error {
	subordinate := fmt.Sprintf("%s:%d:2048", User, base)
	for file, line := range map[string]string{
		"passwd": fmt.Sprintf("%s:x:%d:%d::%s:/bin/sh", User, userID, userID, home),
		"group":  fmt.Sprintf("%s:x:%d:", User, userID),
		"subuid": subordinate,
		"subgid": subordinate,
	} {
		path := filepath.Join(etc, file)
		was, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.WriteFile(path, append(was, line+"\n"...), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the user and every process of it.
func (a *Account) Close() { a.node.Close() }

// WriteFile replaces a file of the machine as the user sees it, such as /etc/subuid.
func (a *Account) WriteFile(path, text string) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/root%s", a.stage, path), []byte(text), 0o644)
}

// Run runs a command as the user, with stdin, and returns what it wrote to stdout.
func (a *Account) Run(stdin io.Reader, argv ...string) (string, error) {
	cgroup, err := os.Open(a.node.cgroup)
	if err != nil {
		return "", err
	}
	defer cgroup.Close()
	ctx, cancel := context.WithTimeout(context.Background(), wait.Scaled(time.Minute))
	defer cancel()
	id := strconv.Itoa(userID)
	groups := strings.Trim(strings.ReplaceAll(fmt.Sprint(userGroups), " ", ","), "[]")
	enter := []string{"-t", strconv.Itoa(a.stage), "-m", "--", "setpriv", "--reuid", id, "--regid", id, "--groups", groups, "sh", "-c", `cd && exec "$@"`, "sh"}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, argv...)...)
	cmd.Env = []string{
		"USER=" + User, "HOME=" + userDir + "/home", "XDG_RUNTIME_DIR=" + userDir + "/run", "PATH=" + userDir + "/bin:" + nodePath,
		"CONTAINERS_CONF=" + userDir + "/containers.conf", "STORAGE_DRIVER=vfs",
	}
	cmd.Stdin = stdin
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	return output(cmd, argv)
}

// StartNode has Podman run the node with the given flags, privileged as Usernetes does. Its root file system is like that
// of every node here: of a tmpfs that the machine mounted, so that the machine can write to it. It is the last thing that
// the account starts, and closes with it.
func (a *Account) StartNode(flags ...string) (*Node, error) {
	n := a.node
	argv := []string{"podman", "run", "-d", "--name", n.Name, "--hostname", n.Name, "--privileged"}
	argv = append(argv, flags...)
	argv = append(argv, "-v", "/usr:/usr:ro")
	binds, err := a.peers.binds()
	if err != nil {
		return nil, err
	}
	for at := range binds {
		argv = append(argv, "-v", userDir+"/node"+at+":"+at+":ro")
	}
	if _, err := a.Run(nil, append(argv, "--rootfs", userDir+"/root", "sleep", "infinity")...); err != nil {
		return nil, err
	}
	pid, err := a.Run(nil, "podman", "inspect", "--format", "{{.State.Pid}}", n.Name)
	if err != nil {
		return nil, err
	}
	if n.pid, err = strconv.Atoi(strings.TrimSpace(pid)); err != nil {
		return nil, err
	}
	if err := n.delegate(); err != nil {
		return nil, err
	}
	_, err = n.Run("mount", "--make-rshared", "/")
	return n, err
}

// delegate moves all processes of a node to its leaf cgroup, and gives its containers the controllers that the machine
// delegates.
func (n *Node) delegate() error {
	procs, err := os.ReadFile(filepath.Join(n.cgroup, "cgroup.procs"))
	if err != nil {
		return err
	}
	for _, pid := range strings.Fields(string(procs)) {
		err := os.WriteFile(filepath.Join(n.leaf.Name(), "cgroup.procs"), []byte(pid), 0)
		if err != nil && !errors.Is(err, syscall.ESRCH) { // it has ended
			return err
		}
	}
	controllers, err := os.ReadFile(filepath.Join(n.cgroup, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, c := range strings.Fields(string(controllers)) {
		if err := os.WriteFile(filepath.Join(n.cgroup, "cgroup.subtree_control"), []byte("+"+c), 0); err != nil {
			return err
		}
	}
	return nil
}
