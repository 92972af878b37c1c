package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"uid-nri-plugin/tests/e2e/lab"
)

// What a container sees around itself must be what it would see without a user namespace of its own.

// highUser is the container of most tests here: on a bare node it fails.
var highUser = lab.Container{Image: tools, User: lab.ID(10001)}

func TestNetworkOfThePod(t *testing.T) {
	// As it is in an ordinary container.
	control := bareSite(t, careful)
	ordinary := start(t, control.pod(t, lab.Pod{}), lab.Container{Image: tools})
	want := sh(t, ordinary, "ls /sys/class/net")
	equal(t, "interfaces of an ordinary container", want, "eth0\nlo")
	refused(t, control.pod(t, lab.Pod{Name: "high"}), highUser, noSuchOwner)

	s := equippedSite(t, careful)
	nodes, err := s.Run("ls", "/sys/class/net")
	must(t, err)
	contains(t, "the node's interfaces", nodes, "pods0")
	r := start(t, s.pod(t, lab.Pod{}), highUser)
	mapped(t, s, r)
	equal(t, "interfaces", sh(t, r, "ls /sys/class/net"), want)
	equal(t, "state of eth0", sh(t, r, "cat /sys/class/net/eth0/operstate"), "up")
	if address := sh(t, r, "cat /sys/class/net/eth0/address"); !strings.Contains(sh(t, r, "ip link show eth0"), address) {
		t.Errorf("address %q in /sys is not the one of ip link", address)
	}
	if _, err := r.Sh("mount -o remount,rw /sys"); err == nil {
		t.Error("the container may make /sys writable")
	}
	// The pod's network itself: an ordinary container beside it answers, through a port below 1024.
	equal(t, "mount options of /sys", mountOptions(t, r, "/sys"), mountOptions(t, ordinary, "/sys"))
	equal(t, "mount options of /dev/mqueue", mountOptions(t, r, "/dev/mqueue"), mountOptions(t, ordinary, "/dev/mqueue"))
}

// mountOptions are the options and the type of a container's mount, and how many are there.
func mountOptions(t *testing.T, r *lab.Running, at string) string {
	t.Helper()
	var found []string
	for line := range strings.Lines(sh(t, r, "cat /proc/self/mountinfo")) {
		before, after, _ := strings.Cut(line, " - ")
		if fields := strings.Fields(before); fields[4] == at {
			found = append(found, fields[5]+" "+strings.Fields(after)[0])
		}
	}
	return strings.Join(found, "; ")
}

// The message queues of a pod are one set for all its containers.
func TestMessageQueuesOfThePod(t *testing.T) {
	refused(t, bareSite(t, careful).pod(t, lab.Pod{}), highUser, noSuchOwner)
	s := equippedSite(t, careful)
	pod := s.pod(t, lab.Pod{})
	ordinary, injected := start(t, pod, lab.Container{Name: "ordinary", Image: tools}), start(t, pod, highUser)
	mapped(t, s, injected)
	sh(t, ordinary, "touch /dev/mqueue/queue && chmod 644 /dev/mqueue/queue")
	equal(t, "queues in the other container", sh(t, injected, "ls /dev/mqueue"), "queue")
	other := start(t, s.pod(t, lab.Pod{Name: "other"}), highUser)
	equal(t, "queues in another pod", sh(t, other, "ls /dev/mqueue"), "")
}

func TestShareProcessNamespace(t *testing.T) {
	refused(t, bareSite(t, careful).pod(t, lab.Pod{SharePID: true}), highUser, noSuchOwner)

	s := equippedSite(t, careful)
	pod := s.pod(t, lab.Pod{SharePID: true})
	beside := start(t, pod, lab.Container{Name: "beside", Image: tools, Command: []string{"sleep", "1234"}})
	r := start(t, pod, highUser)
	mapped(t, s, r)
	equal(t, "processes of the pod", processesSeen(t, r), "sleep 1000, sleep 1000, sleep 1234")
	equal(t, "pid namespace", sh(t, r, "readlink /proc/self/ns/pid"), sh(t, beside, "readlink /proc/self/ns/pid"))
	equal(t, "mount options of /proc", mountOptions(t, r, "/proc"), mountOptions(t, beside, "/proc"))
}

// hostPID and hostIPC without hostNetwork: the node's processes and queues, and still an id of its own.
func TestHostPIDAndIPC(t *testing.T) {
	host := lab.Pod{HostPID: true, HostIPC: true}
	control := bareSite(t, careful)
	pod := control.pod(t, host)
	ordinary := start(t, pod, lab.Container{Image: tools})
	contains(t, "processes of an ordinary container", processesSeen(t, ordinary), "containerd ")
	refused(t, pod, highUser, noSuchOwner)

	s := equippedSite(t, careful)
	r := start(t, s.pod(t, host), highUser)
	mapped(t, s, r)
	equal(t, "id -u", sh(t, r, "id -u"), "10001")
	contains(t, "processes", processesSeen(t, r), "containerd ")
	for _, kind := range []string{"pid", "ipc"} {
		equal(t, kind+" namespace", sh(t, r, "readlink /proc/self/ns/"+kind), s.link(t, "/proc/1/ns/"+kind))
	}
	_, err := s.Run("touch", "/dev/mqueue/of-the-node")
	must(t, err)
	equal(t, "queues", sh(t, r, "ls /dev/mqueue"), "of-the-node")
	equal(t, "interfaces", sh(t, r, "ls /sys/class/net"), "eth0\nlo")
}

// kubectl debug --target: a container that comes later and sees the processes of another one.
func TestDebugContainer(t *testing.T) {
	s := equippedSite(t, careful)
	pod := s.pod(t, lab.Pod{})
	target := start(t, pod, highUser)
	mapped(t, s, target)
	for name, user := range map[string]*int{"root": nil, "same-user": lab.ID(10001), "other-user": lab.ID(50000)} {
		t.Run(name, func(t *testing.T) {
			debug := lab.Container{Name: name, Image: tools, User: user, Target: target, Command: []string{"sleep", "77"}}
			if user != nil {
				control := bareSite(t, careful).pod(t, lab.Pod{})
				debug.Target = start(t, control, lab.Container{Image: tools})
				refused(t, control, debug, noSuchOwner)
				debug.Target = target
			}
			r := start(t, pod, debug)
			contains(t, "processes", processesSeen(t, r), "sleep 1000")
			must(t, r.Remove())
		})
	}
}

// A container with a terminal, which belongs to its user and to the group tty.
func TestTerminal(t *testing.T) {
	c := lab.Container{Image: tools, User: lab.ID(10001), Terminal: true, Command: []string{"sh", "-c", "stat -c %u:%g /proc/self/fd/0 -L; id -u"}}
	refused(t, bareSite(t, careful).pod(t, lab.Pod{}), c, "unable to setup user: ")
	s := equippedSite(t, careful)
	r := start(t, s.pod(t, lab.Pod{}), c)
	_, err := r.Wait()
	must(t, err)
	equal(t, "its owner and its user", strings.ReplaceAll(r.Output(), "\r", ""), "10001:5\n10001\n")
}

// A container whose pid namespace is its own has nothing but itself in /proc.
func TestOwnProcessNamespace(t *testing.T) {
	refused(t, bareSite(t, careful).pod(t, lab.Pod{}), highUser, noSuchOwner)
	s := equippedSite(t, careful)
	r := start(t, s.pod(t, lab.Pod{}), highUser)
	mapped(t, s, r)
	equal(t, "processes", processesSeen(t, r), "sleep 1000")
}

// processesSeen are the command lines in a container's /proc, but for the shell that looks.
func processesSeen(t *testing.T, r *lab.Running) string {
	t.Helper()
	const look = `for p in /proc/[0-9]*; do tr '\0' ' ' <$p/cmdline; echo; done`
	var seen []string
	for line := range strings.Lines(sh(t, r, look)) {
		if line = strings.TrimSpace(line); !strings.Contains(line, "for p in") {
			seen = append(seen, line)
		}
	}
	slices.Sort(seen)
	return strings.Join(seen, ", ")
}

// The hook that kind's node image gives to every container.
func TestHookOfKind(t *testing.T) {
	target, err := lab.HookTarget()
	must(t, err)
	show := "cat " + target + "; echo x 2>&1 >" + target + " || true"
	want := strings.TrimSpace(lab.HookContent)

	control := bareSite(t, careful)
	pod := control.pod(t, lab.Pod{Handler: lab.Hooked})
	ordinary := start(t, pod, lab.Container{Image: tools})
	equal(t, "the file in an ordinary container", strings.SplitN(sh(t, ordinary, show), "\n", 2)[0], want)
	refused(t, pod, highUser, noSuchOwner)

	s := equippedSite(t, careful)
	r := start(t, s.pod(t, lab.Pod{Handler: lab.Hooked}), highUser)
	mapped(t, s, r)
	equal(t, "the file", sh(t, r, "cat "+target), want)
	if _, err := r.Sh("echo x >" + target); err == nil {
		t.Error("the file can be written")
	}
	equal(t, "interfaces", sh(t, r, "ls /sys/class/net"), "eth0\nlo")
}

// Containers that are part of the node, on purpose, stay so; even if asked for.
func TestHostNetworkIsUntouched(t *testing.T) {
	s := equippedSite(t, careful)
	pod := s.pod(t, lab.Pod{HostNetwork: true, Annotations: map[string]string{annotation: "inject=always"}})
	r := start(t, pod, lab.Container{Image: tools})
	untouched(t, s, r)
	contains(t, "interfaces", sh(t, r, "ls /sys/class/net"), "pods0")
	// Without the plugin it fails, and so it does with it.
	refused(t, bareSite(t, careful).pod(t, lab.Pod{HostNetwork: true}), highUser, noSuchOwner)
	refused(t, pod, highUser, noSuchOwner)
}

func TestPrivilegedIsUntouched(t *testing.T) {
	s := equippedSite(t, careful)
	pod := s.pod(t, lab.Pod{Privileged: true, Annotations: map[string]string{annotation: "inject=always"}})
	r := start(t, pod, lab.Container{Name: "privileged", Image: tools, Privileged: true})
	untouched(t, s, r)
	sh(t, r, "mkdir /tmp/dir && mount -t tmpfs none /tmp/dir")
	high := highUser
	high.Privileged = true
	refused(t, bareSite(t, careful).pod(t, lab.Pod{Privileged: true}), high, noSuchOwner)
	refused(t, pod, high, noSuchOwner)
	// Its neighbour in the same pod is no part of the node.
	mapped(t, s, start(t, pod, highUser))
}

// An echo request through a datagram socket, as today's ping does for everybody but root (busybox' does not).
const ping = `use Socket; $SIG{ALRM} = sub { die "no reply\n" }; alarm 3;
socket(S, AF_INET, SOCK_DGRAM, 1) or die "socket: $!\n";
send(S, pack("CCnnn", 8, 0, 0, 0, 1), 0, sockaddr_in(0, inet_aton("10.244.0.1"))) or die "send: $!\n";
recv(S, $reply, 100, 0); print "type ", unpack("C", $reply)`

// pinger is a container in which the node's perl runs.
func pinger(user int) lab.Container {
	c := lab.Container{Image: tools, User: lab.ID(user)}
	for _, dir := range []string{"/usr", "/lib", "/lib64"} {
		c.Mounts = append(c.Mounts, lab.Mount{Node: dir, Container: dir, ReadOnly: true})
	}
	return c
}

// Whom ping works for: those whom the kernel's ping_group_range names, by default nobody.
func TestPing(t *testing.T) {
	const forbidden = "socket: Permission denied"
	control := bareSite(t, careful)
	if out, err := start(t, control.pod(t, lab.Pod{}), pinger(1000)).Exec("/usr/bin/perl", "-e", ping); err == nil {
		t.Errorf("ping worked without the plugin: %s", out)
	} else {
		contains(t, "the error", err.Error(), forbidden)
	}
	refused(t, control.pod(t, lab.Pod{Name: "high"}), pinger(10001), noSuchOwner)

	s := equippedSite(t, careful)
	for _, user := range []int{0, 1000, 10001} {
		r := start(t, s.pod(t, lab.Pod{Name: fmt.Sprintf("ping-%d", user)}), pinger(user))
		out, err := r.Exec("/usr/bin/perl", "-e", ping)
		must(t, err)
		equal(t, fmt.Sprintf("echo reply to %d", user), out, "type 0")
	}
}
