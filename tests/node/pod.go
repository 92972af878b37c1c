package node

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

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
		if err := privateMounts(); err != nil {
			return err
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
