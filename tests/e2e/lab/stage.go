package lab

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// A node is made in two stages, both of them this program started again. The outer stage is root of the machine in a
// mount namespace of its own: it lays out the node's root file system, where nothing it does is seen outside, and then
// starts the inner stage as process 1 of the node.
const (
	outerName = "lab-outer"
	innerName = "lab-init"
	// The only stage of an account.
	accountName = "lab-account"
	planEnv     = "LAB_PLAN"

	terminalsEnv = "LAB_TERMINALS" // set if the group of terminals is mapped
)

// plan is what the outer stage is told.
type plan struct {
	Name  string
	Base  int  // the machine's id that owns what is laid out: root in the node, but for the user's
	User  bool // the node is started by a user, in RootlessKit
	Uids  []Extent
	Gids  []Extent
	Leaf  string            // the cgroup for the node's processes, below the one that the node sees as its root
	Binds map[string]string // path in the node: path on the machine
}

// Main takes over if this process was started as one of the stages. Call it before anything else.
func Main() {
	var stage func() error
	switch filepath.Base(os.Args[0]) {
	case outerName:
		stage = outer
	case innerName:
		stage = inner
	case accountName:
		stage = account
	default:
		return
	}
	if err := stage(); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[0], err)
		os.Exit(1)
	}
	os.Exit(0)
}

// outer reads its plan, starts the node, writes the pid of its init to stdout, and waits for it to end.
func outer() error {
	var p plan
	if err := json.Unmarshal([]byte(os.Getenv(planEnv)), &p); err != nil {
		return err
	}
	// The parent death signal of the next stage comes when this thread ends, so it must be the one that stays.
	runtime.LockOSThread()
	procs, err := os.OpenFile(filepath.Join(p.Leaf, "cgroup.procs"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if err := layRoot(p); err != nil {
		return fmt.Errorf("lay out the root file system: %w", err)
	}
	if p.User {
		return startRootlessKit()
	}
	start, release, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := &exec.Cmd{
		Path:       "/proc/self/exe",
		Args:       []string{innerName, p.Name},
		Env:        []string{"PATH=" + nodePath},
		Dir:        "/",
		Stdin:      os.Stdin,
		Stderr:     os.Stderr,
		ExtraFiles: []*os.File{start},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET |
				syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWCGROUP,
			UidMappings:                idMap(p.Uids),
			GidMappings:                idMap(p.Gids),
			GidMappingsEnableSetgroups: true,
			Credential:                 &syscall.Credential{},
			Pdeathsig:                  syscall.SIGKILL,
		},
	}
	if maps(p.Gids, terminals) {
		cmd.Env = append(cmd.Env, terminalsEnv+"=1")
	}
	ready, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	// Only now, since the cgroup of this moment became the root of the node's cgroup namespace.
	for _, pid := range []int{os.Getpid(), cmd.Process.Pid} {
		if _, err := fmt.Fprint(procs, pid); err != nil {
			return err
		}
	}
	release.Write([]byte("x"))
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		cmd.Wait()
		return fmt.Errorf("the node did not come up: %w", err)
	}
	fmt.Println(cmd.Process.Pid)
	os.Stdout.Close()
	return cmd.Wait()
}

// layRoot makes a root file system with the machine's /usr, read-only, and everything else the node's own; then enters it.
func layRoot(p plan) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return err
	}
	// Opened before the new root hides them; a bind mount of /proc/self/fd/N is a bind mount of what is open there.
	open := map[string]int{}
	for at, from := range p.Binds {
		fd, err := syscall.Open(from, oPath|syscall.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("%s: %w", from, err)
		}
		open[at] = fd
	}
	const root = "/mnt"
	options := fmt.Sprintf("mode=755,uid=%d,gid=%d", p.Base, p.Base)
	if err := syscall.Mount("node", root, "tmpfs", 0, options); err != nil {
		return err
	}
	if err := p.skeleton(root); err != nil {
		return err
	}
	// The machine's own, whole: a user namespace may mount proc and sysfs only where it sees all of one already.
	for _, dir := range []string{"/proc", "/sys"} {
		if err := syscall.Mount(dir, root+dir, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
			return err
		}
	}
	if err := p.bind("/usr", filepath.Join(root, "usr"), true); err != nil {
		return err
	}
	for _, device := range strings.Fields("null zero full random urandom tty") {
		if err := p.bind("/dev/"+device, filepath.Join(root, "dev", device), false); err != nil {
			return err
		}
	}
	if p.User {
		if err := p.layHome(root); err != nil {
			return err
		}
	}
	for at, fd := range open {
		if err := p.bind(fmt.Sprintf("/proc/self/fd/%d", fd), root+at, true); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		syscall.Close(fd)
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := syscall.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	return syscall.Unmount(".", syscall.MNT_DETACH)
}

// skeleton makes the folders of a root file system that gets the machine's /usr.
func (p plan) skeleton(root string) error {
	for _, dir := range strings.Fields("dev etc mnt opt proc root run sys tmp usr var") {
		if err := p.mkdir(filepath.Join(root, dir)); err != nil {
			return err
		}
	}
	os.Chmod(root+"/tmp", os.ModeSticky|0o777)
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		if _, err := os.Stat("/usr/" + dir); err == nil {
			if err := os.Symlink("usr/"+dir, filepath.Join(root, dir)); err != nil {
				return err
			}
		}
	}
	return os.Symlink("/run", root+"/var/run")
}

// mkdir makes a folder that belongs to the node's root.
func (p plan) mkdir(dir string) error {
	if _, err := os.Lstat(dir); err == nil {
		return nil
	}
	if err := p.mkdir(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.Chown(dir, p.Base, p.Base)
}

func (p plan) bind(from, to string, readOnly bool) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = p.mkdir(to)
	} else if err = p.mkdir(filepath.Dir(to)); err == nil {
		var f *os.File
		if f, err = os.OpenFile(to, os.O_CREATE, 0o644); err == nil {
			f.Close()
		}
	}
	if err != nil {
		return err
	}
	if err := syscall.Mount(from, to, "", syscall.MS_BIND, ""); err != nil {
		return err
	}
	if !readOnly {
		return nil
	}
	return syscall.Mount("", to, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, "")
}

func idMap(extents []Extent) []syscall.SysProcIDMap {
	var m []syscall.SysProcIDMap
	for _, e := range extents {
		m = append(m, syscall.SysProcIDMap{ContainerID: e.Node, HostID: e.Machine, Size: e.Size})
	}
	return m
}

// inner is process 1 of the node: it mounts what only the owner of the new namespaces can, says so on stdout, and then
// collects the dead until its stdin closes, which is how the node ends even if the test is killed.
func inner() error {
	if _, err := os.NewFile(3, "start").Read(make([]byte, 1)); err != nil {
		return err
	}
	if err := syscall.Sethostname([]byte(os.Args[1])); err != nil {
		return err
	}
	for _, dir := range []string{"/dev/shm", "/dev/mqueue", "/dev/pts"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	// A mount for an id that is not mapped is refused.
	pts := "newinstance,ptmxmode=666,mode=620"
	if os.Getenv(terminalsEnv) != "" {
		pts += fmt.Sprintf(",gid=%d", terminals)
	}
	for _, m := range []struct{ kind, at, options string }{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"cgroup2", "/sys/fs/cgroup", ""},
		{"tmpfs", "/dev/shm", "mode=1777"},
		{"mqueue", "/dev/mqueue", ""},
		{"devpts", "/dev/pts", pts},
	} {
		if err := syscall.Mount(m.kind, m.at, m.kind, 0, m.options); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	for link, to := range map[string]string{"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"} {
		if err := os.Symlink(to, "/dev/"+link); err != nil {
			return err
		}
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_SHARED, ""); err != nil {
		return err
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("ip link set lo up: %w: %s", err, out)
	}
	// What the machine delegates, the node's containers get.
	controllers, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if err != nil {
		return err
	}
	for _, c := range strings.Fields(string(controllers)) {
		if err := os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+"+c), 0); err != nil {
			return err
		}
	}
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	go func() {
		for range children {
			for {
				if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
					break
				}
			}
		}
	}()
	fmt.Println("x")
	os.Stdout.Close()
	io.Copy(io.Discard, os.Stdin)
	return nil
}
