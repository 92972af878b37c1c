// Package node makes the place that a test without a runtime needs: a user namespace that maps few ids, with its own mounts,
// processes, network and IPC, a /dev and a /run of its own. All of it is gone when the test ends.
package node

import (
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

	// BinDir is where the node finds the programs handed over to Run.
	BinDir = "/run/bin"

	// ForeignDir is a folder of an owner that the node does not know; the group ForeignGroup may go there.
	ForeignDir   = "/run/foreign"
	ForeignGroup = 1256

	// OuterGroups is how many groups the node's root keeps from outside, which the node does not map. HPC accounts have
	// such, and RootlessKit and "podman run --group-add keep-groups" keep them; they read as 65534.
	OuterGroups = 3

	// First is where the ids of a node start on the machine: far from any that are in use.
	First = 2937359488

	roleVar  = "NODE_ROLE"
	filesVar = "NODE_FILES"

	// WideVar set makes a node that maps far more ids: all that most programs ever use, for comparison.
	WideVar = "NODE_WIDE"
)

// Inside tells whether this process is in a node.
func Inside() bool { return os.Getenv(roleVar) == "node" }

// Main takes over if this process was started as one of the stages of a node. Call it before anything else.
func Main() {
	var err error
	switch os.Getenv(roleVar) {
	case "outer":
		err = outer()
	case "init":
		err = inner()
	case "pod":
		err = livePod()
	default:
		return
	}
	end(err)
}

// Enter runs this program again in a node that has copies of these files, and ends with its status. In the node it returns
// the copies' paths. Call it before anything else.
func Enter(files ...string) []string {
	Main()
	if Inside() {
		copies := make([]string, len(files))
		for i, path := range files {
			copies[i] = filepath.Join(BinDir, filepath.Base(path))
		}
		return copies
	}
	if os.Geteuid() != 0 {
		end(errors.New("run as root: user namespaces of ids that only root may map are to be made"))
	}
	// PDEATHSIG follows the thread that forked.
	runtime.LockOSThread()
	var args []string
	for _, arg := range os.Args[1:] {
		// The node's root may not open the caller's files.
		if !strings.HasPrefix(arg, "-test.testlogfile=") && !strings.HasPrefix(arg, "-test.gocoverdir=") {
			args = append(args, arg)
		}
	}
	cmd := Command(files, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	end(cmd.Run())
	return nil
}

// end ends this process as another one ended.
func end(err error) {
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Command is this program with other arguments, to be run as root of a new node that has copies of these programs in
// BinDir.
func Command(files []string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), roleVar+"=outer", filesVar+"="+strings.Join(files, string(filepath.ListSeparator)))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// outer is root of the machine, with mounts of its own: it makes what a user namespace cannot, such as devices.
func outer() error {
	// PDEATHSIG follows the thread that forked.
	runtime.LockOSThread()
	if err := privateMounts(); err != nil {
		return err
	}
	options := fmt.Sprintf("mode=755,uid=%d,gid=%d", First, First)
	for _, at := range []string{"/run", "/dev"} {
		if err := unix.Mount("tmpfs", at, "tmpfs", 0, options); err != nil {
			return fmt.Errorf("mount a tmpfs on %s: %w", at, err)
		}
	}
	unix.Umask(0)
	for name, number := range map[string]uint64{
		"null": unix.Mkdev(1, 3), "zero": unix.Mkdev(1, 5), "random": unix.Mkdev(1, 8), "urandom": unix.Mkdev(1, 9), "fuse": unix.Mkdev(10, 229),
	} {
		if err := unix.Mknod("/dev/"+name, unix.S_IFCHR|0o666, int(number)); err != nil {
			return fmt.Errorf("make /dev/%s: %w", name, err)
		}
	}
	unix.Umask(0o022)
	for name, to := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(to, "/dev/"+name); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/run/tmp", BinDir} {
		if err := errors.Join(os.Mkdir(dir, 0o755), os.Chown(dir, First, First)); err != nil {
			return err
		}
	}
	// A folder whose owner the node does not know: what root may there, it may as a member of the group.
	group := First + ForeignGroup
	if err := errors.Join(os.Mkdir(ForeignDir, 0o750), os.WriteFile(ForeignDir+"/file", nil, 0o644),
		os.Chown(ForeignDir+"/file", First, First), os.Chown(ForeignDir, 0, group)); err != nil {
		return err
	}
	for _, path := range filepath.SplitList(os.Getenv(filesVar)) {
		to := filepath.Join(BinDir, filepath.Base(path))
		if err := errors.Join(copyFile(path, to), os.Chown(to, First, First)); err != nil {
			return err
		}
	}

	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), roleVar+"=init", "TMPDIR=/run/tmp", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	cmd.Dir = "/run/tmp"
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	groups := make([]int, OuterGroups)
	for i := range groups {
		groups[i] = First + IDs + i
	}
	if err := syscall.Setgroups(groups); err != nil {
		return fmt.Errorf("take groups that the node lacks: %w", err)
	}
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: First, Size: IDs}}
	if os.Getenv(WideVar) != "" {
		const size = 1300000000
		ids = []syscall.SysProcIDMap{
			{ContainerID: 0, HostID: First, Size: size},
			{ContainerID: 1 << 31, HostID: First + size, Size: 1},
			{ContainerID: 1<<32 - 2, HostID: First + size + 1, Size: 1},
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:                 unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC,
		UidMappings:                ids,
		GidMappings:                ids,
		GidMappingsEnableSetgroups: true,
		Credential:                 &syscall.Credential{NoSetGroups: true},
		Pdeathsig:                  syscall.SIGKILL,
	}
	return cmd.Run()
}

func privateMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	return nil
}

// inner is the node's first process: it starts the test, and collects the dead whose parents died before them.
func inner() error {
	for _, m := range []struct{ kind, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	os.Setenv(roleVar, "node")
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
			return fmt.Errorf("the test was ended by %v", status.Signal())
		}
	}
}

// Install copies the program at path into dir under name.
func Install(path, dir, name string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return copyFile(path, filepath.Join(dir, name))
}

func copyFile(path, to string) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
