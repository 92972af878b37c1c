package lab

import (
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
)

// User is the name of the user who starts nodes, by RootlessKit or Podman, and userID the user and group id. The account
// and its 2048 subordinate ids are in no file of the machine: /etc is another one wherever the user is.
const (
	User     = "hpc"
	userHome = "/home/" + User
	userID   = 41047
	userRun  = "/run/user/41047"
	kitState = userRun + "/rootlesskit"
)

// The user is in groups that no namespace of its own maps, as accounts of a cluster are.
var (
	userGroups     = []uint32{userID, 41100, 41101}
	userCredential = &syscall.Credential{Uid: userID, Gid: userID, Groups: userGroups}
)

// OfUser is the map that RootlessKit gives: the user's own id, then the subordinate ones.
var OfUser = []Extent{{0, userID, 1}, {1, base, 2048}}

// What the user has RootlessKit run: as in a rootless containerd, large things are kept in the home. The node ends with
// the shell's stdin.
const kitScript = `mkdir -p /var/lib/containerd ` + userHome + `/.local/share/containerd &&
mount --bind ` + userHome + `/.local/share/containerd /var/lib/containerd && echo x && exec cat >/dev/null`

var kitCommand = []string{
	"rootlesskit", "--state-dir=" + kitState, "--net=slirp4netns", "--disable-host-loopback",
	"--copy-up=/etc", "--copy-up=/run", "--copy-up=/opt", "--copy-up=/var/lib", "--copy-up=/var/log",
	"--pidns", "--cgroupns", "--utsns", "--ipcns", "--evacuate-cgroup2=init", "sh", "-c", kitScript,
}

// StartRootlessKit makes a node that a user without any rights has started, by RootlessKit.
func StartRootlessKit(name string, peers Peers) (*Node, error) {
	for _, program := range []string{"rootlesskit", "newuidmap", "newgidmap", "slirp4netns"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("%w: start the tests with tests/run.sh", err)
		}
	}
	n := &Node{Name: name, owner: userID, user: true, hasTerminals: maps(OfUser, terminals)}
	return n, n.start(plan{User: true}, peers)
}

// layHome makes what a user finds on a machine: the account, a home, and two devices that are everybody's.
func (p plan) layHome(root string) error {
	for _, dir := range []string{userHome, userRun} {
		if err := errors.Join(p.mkdir(root+dir), os.Chown(root+dir, userID, userID), os.Chmod(root+dir, 0o700)); err != nil {
			return err
		}
	}
	for path, text := range map[string]string{
		"/etc/passwd": "root:x:0:0::/root:/bin/sh\n",
		"/etc/group":  "root:x:0:\n",
		"/etc/hosts":  "127.0.0.1 localhost\n",
	} {
		if err := os.WriteFile(root+path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := addUser(root+"/etc", userHome); err != nil {
		return err
	}
	if err := errors.Join(p.mkdir(root+"/var/lib"), p.mkdir(root+"/var/log"), p.mkdir(root+"/dev/net")); err != nil {
		return err
	}
	for path, number := range map[string]int{"/dev/fuse": 10<<8 | 229, "/dev/net/tun": 10<<8 | 200} {
		if err := errors.Join(syscall.Mknod(root+path, syscall.S_IFCHR, number), os.Chmod(root+path, 0o666)); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// startRootlessKit is the last stage of a user's node. RootlessKit itself moves all into the leaf of the cgroup, and
// this process with it.
func startRootlessKit() error {
	cmd := exec.Command(kitCommand[0], kitCommand[1:]...)
	cmd.Env = []string{"PATH=" + nodePath, "HOME=" + userHome, "USER=" + User, "XDG_RUNTIME_DIR=" + userRun}
	cmd.Dir = userHome
	cmd.Stdin, cmd.Stderr = os.Stdin, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: userCredential, Pdeathsig: syscall.SIGKILL}
	ready, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		if err == io.EOF {
			err = errors.New("RootlessKit ended")
		}
		return errors.Join(err, cmd.Wait())
	}
	// RootlessKit writes it at about the time when the shell starts.
	var pid int
	err = Await(5*time.Second, "the pid of RootlessKit's child", func() bool {
		text, _ := os.ReadFile(filepath.Join(kitState, "child_pid"))
		pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		return pid != 0
	})
	if err != nil {
		return err
	}
	fmt.Println(pid)
	os.Stdout.Close()
	return cmd.Wait()
}
