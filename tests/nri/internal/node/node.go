// Package node makes the place the plugin lives in: a user namespace that maps
// few ids, with its own mounts and processes, as a rootless cluster node has.
package node

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// IDs is how many user ids, and how many group ids, the node maps: 0 to IDs-1.
	IDs = 2048

	// firstHostID is where the ids of the node start outside of it.
	firstHostID = 2937359488

	// roleVar tells a copy of the program what it is for.
	roleVar = "UID_NRI_ROLE"

	// binDir is where the node finds the files handed over by Enter, and
	// binVar tells which.
	binDir = "/run/node"
	binVar = "UID_NRI_FILES"
)

// Enter runs the program again, as root of a node, and ends with its status.
// In the node it returns the paths of copies of files, in the same order.
// They are handed over open, since the node's root may not walk to them.
func Enter(files ...string) []string {
	var err error
	switch os.Getenv(roleVar) {
	case "":
		err = runInNode(files)
	case "pod":
		err = livePod()
	case "init":
		err = liveInit(files)
	case "node":
		os.Unsetenv(roleVar)
		return filepath.SplitList(os.Getenv(binVar))
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		os.Exit(1)
	}
	os.Exit(0)
	return nil
}

func runInNode(files []string) error {
	if os.Geteuid() != 0 {
		return errors.New("must be run as root: a user namespace with 2048 ids is to be made")
	}
	// PDEATHSIG follows the thread that forked.
	runtime.LockOSThread()

	cmd := exec.Command("/proc/self/exe", forwardedArgs()...)
	cmd.Env = append(os.Environ(), roleVar+"=init")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: firstHostID, Size: IDs}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:                 unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC,
		UidMappings:                ids,
		GidMappings:                ids,
		GidMappingsEnableSetgroups: true,
		Credential:                 &syscall.Credential{},
		Pdeathsig:                  syscall.SIGKILL,
	}
	return cmd.Run()
}

// forwardedArgs leaves out the options that name files of the caller's, which
// the node's root may not open.
func forwardedArgs() []string {
	var args []string
	for _, arg := range os.Args[1:] {
		if !strings.HasPrefix(arg, "-test.testlogfile=") && !strings.HasPrefix(arg, "-test.gocoverdir=") {
			args = append(args, arg)
		}
	}
	return args
}

// liveInit is the node's first process: it sets the node up, and takes care of
// those whose parents have died, as an init does.
func liveInit(files []string) error {
	copies, err := setUp(files)
	if err != nil {
		return err
	}
	os.Setenv(roleVar, "node")
	os.Setenv(binVar, strings.Join(copies, string(filepath.ListSeparator)))
	pid, err := syscall.ForkExec("/proc/self/exe", os.Args, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}})
	if err != nil {
		return err
	}
	for {
		var status unix.WaitStatus
		ended, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR || err == nil && ended != pid:
		case err != nil:
			return err
		case status.Exited():
			os.Exit(status.ExitStatus())
		default:
			return fmt.Errorf("ended by %v", status.Signal())
		}
	}
}

func setUp(files []string) ([]string, error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make the mounts private: %w", err)
	}
	for _, m := range []struct{ kind, target, data string }{
		{"tmpfs", "/run", "mode=0755"},
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
	} {
		if err := unix.Mount(m.kind, m.target, m.kind, 0, m.data); err != nil {
			return nil, fmt.Errorf("mount %s on %s: %w", m.kind, m.target, err)
		}
	}
	if err := os.Mkdir("/run/tmp", 0o700); err != nil {
		return nil, err
	}
	if err := os.Setenv("TMPDIR", "/run/tmp"); err != nil {
		return nil, err
	}
	if err := os.Chdir("/run/tmp"); err != nil {
		return nil, err
	}
	if err := os.Mkdir(binDir, 0o755); err != nil {
		return nil, err
	}
	var copies []string
	for i, path := range files {
		from := os.NewFile(uintptr(3+i), path)
		copied := filepath.Join(binDir, filepath.Base(path))
		if err := copyFile(from, copied); err != nil {
			return nil, fmt.Errorf("copy %s: %w", path, err)
		}
		from.Close()
		copies = append(copies, copied)
	}
	return copies, nil
}

func copyFile(from io.Reader, path string) error {
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		return err
	}
	return to.Close()
}

// Install copies the program at path into dir under name.
func Install(path, dir, name string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer from.Close()
	return copyFile(from, filepath.Join(dir, name))
}

// Pod is a process that holds the namespaces of a pod, as a pause container does.
type Pod struct {
	PID int
	cmd *exec.Cmd
	end io.Closer
}

// Names by which the namespaces of a Pod can be told from the node's.
const (
	PodInterface = "podlo"    // its loopback interface
	PodQueue     = "from-pod" // a message queue
)

// StartPod makes a pod with its own network, IPC and UTS namespaces, and with
// its own pid namespace, and a /proc of it, when sharedPID is set.
func StartPod(sharedPID bool) (*Pod, error) {
	flags := uintptr(unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS)
	if sharedPID {
		flags |= unix.CLONE_NEWPID | unix.CLONE_NEWNS
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVar+"=pod")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	pod := &Pod{PID: cmd.Process.Pid, cmd: cmd, end: in}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		pod.Stop()
		return nil, fmt.Errorf("pod process did not get ready: %q, %v", line, err)
	}
	return pod, nil
}

// Namespace is the path of the pod's namespace of a kind: "net", "ipc", "uts" or "pid".
func (p *Pod) Namespace(kind string) string {
	return fmt.Sprintf("/proc/%d/ns/%s", p.PID, kind)
}

// Stop ends the pod's process.
func (p *Pod) Stop() {
	p.end.Close()
	p.cmd.Wait()
}

func livePod() error {
	if os.Getpid() == 1 {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make mounts private: %w", err)
		}
		if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return fmt.Errorf("mount proc: %w", err)
		}
	}
	if err := renameInterface("lo", PodInterface); err != nil {
		return fmt.Errorf("rename lo: %w", err)
	}
	name, err := unix.BytePtrFromString(PodQueue)
	if err != nil {
		return err
	}
	_, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(ptr(name)), unix.O_CREAT|unix.O_RDWR, 0o600, 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("mq_open: %w", errno)
	}
	if _, err := os.Stdout.WriteString("ready\n"); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func renameInterface(from, to string) error {
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(sock)
	var req struct {
		from, to [unix.IFNAMSIZ]byte
		rest     [8]byte
	}
	copy(req.from[:], from)
	copy(req.to[:], to)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(sock), unix.SIOCSIFNAME, uintptr(ptr(&req))); errno != 0 {
		return errno
	}
	return nil
}
