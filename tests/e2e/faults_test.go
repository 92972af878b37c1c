package e2e

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"uid-nri-plugin/tests/e2e/lab"
)

// What becomes of the pod in hand, of the next one and of those that run, when something around the plugin breaks.
// A jump of the clock is not among them: only the whole machine's wall clock can jump (time_namespaces(7) has none of
// its own, and fixes the others when the first process enters), and clippy.toml keeps the program from reading it.

// Parts of containerd's configuration.
const (
	shortTimeout = "\n[plugins.\"io.containerd.nri.v1.nri\"]\n  plugin_request_timeout = \"1s\"\n"
	validator    = "[plugins.\"io.containerd.nri.v1.nri\".default_validator]\n  enable = true\n"
	required     = validator + "  required_plugins = [\"uid-mapper\"]\n  tolerate_missing_plugins_annotation = \"" + tolerates + "\"\n"

	tolerates = "example.org/without-uid-mapper"
	requires  = "required-plugins.noderesource.dev"
	missing   = `validation error: required plugin "uid-mapper" not present`
)

// withContainerd is a node whose containerd has more in its configuration, and a plugin that runs as a service.
func withContainerd(t *testing.T, more string) (*site, *lab.Daemon) {
	t.Helper()
	s := ownSite(t, careful, options{})
	must(t, s.WriteFile("/etc/containerd/config.toml", []byte(s.ReadFile("/etc/containerd/config.toml")+more), 0o644))
	must(t, s.RestartContainerd())
	service := s.startExternal(t)
	s.registered(t, 1)
	return s, service
}

// bystander is a container from before the fault, and what must still hold of it.
type bystander struct {
	*lab.Running
	pid int
}

func (s *site) bystander(t *testing.T) bystander {
	t.Helper()
	r := start(t, s.pod(t, lab.Pod{Name: "bystander"}), highUser)
	mapped(t, s, r)
	pid, err := r.Pid()
	must(t, err)
	return bystander{r, pid}
}

func (b bystander) unharmed(t *testing.T) {
	t.Helper()
	pid, err := b.Pid()
	must(t, err)
	equal(t, "pid of the container from before", pid, b.pid)
	equal(t, "its user", sh(t, b.Running, "id -u"), "10001")
}

// works fails unless pods get what they need again.
func (s *site) works(t *testing.T, name string) {
	t.Helper()
	mapped(t, s, start(t, s.pod(t, lab.Pod{Name: name}), highUser))
}

// named is a pod that wants a namespace, though it could run without one, unnoticed.
func named(name string, more ...string) lab.Pod {
	p := annotated("inject=always")
	p.Name = name
	for i := 0; i < len(more); i += 2 {
		p.Annotations[more[i]] = more[i+1]
	}
	return p
}

var root = lab.Container{Image: tools}

// A plugin that does not answer: the runtime goes on without it after its time-out, and drops it. It counts as present
// for the container in hand, which no validator refuses then; runc does, where the node lacks the user.
func TestFaultStopped(t *testing.T) {
	s, service := withContainerd(t, shortTimeout+required)
	before, hand := s.bystander(t), s.pod(t, lab.Pod{Name: "in-hand"})
	must(t, service.Signal(syscall.SIGSTOP))
	began := time.Now()
	refused(t, hand, highUser, noSuchOwner)
	if took := time.Since(began); took < time.Second || took > 5*time.Second {
		t.Errorf("the container in hand was refused after %v, with a time-out of one second", took)
	}
	refused(t, s.pod(t, named("next")), root, missing)
	before.unharmed(t)
	must(t, service.Signal(syscall.SIGCONT))
	s.registered(t, 2)
	s.works(t, "after")
	before.unharmed(t)

	t.Run("not required", func(t *testing.T) {
		s, service := withContainerd(t, shortTimeout)
		hand := s.pod(t, named("in-hand"))
		must(t, service.Signal(syscall.SIGSTOP))
		untouched(t, s, start(t, hand, root))
		untouched(t, s, start(t, s.pod(t, named("next")), root))
		must(t, service.Signal(syscall.SIGCONT))
		s.registered(t, 2)
		s.works(t, "after")
	})
}

// NRI's own validator refuses what a missing plugin would leave as it is.
func TestFaultMissing(t *testing.T) {
	s, service := withContainerd(t, required)
	before := s.bystander(t)
	s.kill(t, process{pid: service.Pid()})
	_, err := service.Wait(5 * time.Second)
	must(t, err)
	refused(t, s.pod(t, named("always")), root, missing)
	refused(t, s.pod(t, lab.Pod{Name: "ordinary"}), root, missing)
	tolerant := start(t, s.pod(t, named("tolerant", tolerates, "true")), root)
	untouched(t, s, tolerant)
	before.unharmed(t)
	s.startExternal(t)
	s.registered(t, 2)
	s.works(t, "after")

	// Without a list for all, a pod can ask for it itself; and without either, nobody notices.
	t.Run("annotated", func(t *testing.T) {
		s, service := withContainerd(t, validator)
		asks := named("asks", requires, `["uid-mapper"]`)
		mapped(t, s, start(t, s.pod(t, asks), root))
		must(t, service.Stop())
		asks.Name = "asks-in-vain"
		refused(t, s.pod(t, asks), root, missing)
		untouched(t, s, start(t, s.pod(t, named("silent")), root))
	})
}

// The plugin's folder below /run has no room left.
func TestFaultRunFull(t *testing.T) {
	s := ownSite(t, careful, options{})
	s.inRun(t, `mkdir -m 700 $1 && mount -t tmpfs -o size=64k,mode=700 x $1`)
	service := s.startExternal(t)
	s.registered(t, 1)
	before := s.bystander(t)
	s.inRun(t, `dd if=/dev/zero of=$1/filler bs=4k 2>/dev/null; ls $1/filler`)
	for _, name := range []string{"in-hand", "next"} {
		refused(t, s.pod(t, lab.Pod{Name: name}), highUser, "No space left on device")
		refused(t, s.pod(t, named(name+"-always")), root, "No space left on device")
	}
	untouched(t, s, start(t, s.pod(t, lab.Pod{Name: "ordinary"}), root))
	before.unharmed(t)
	s.inRun(t, `rm $1/filler`)
	s.works(t, "after")
	before.unharmed(t)
	if !service.Running() {
		t.Error("the plugin ended")
	}
}

// The folder cannot be made read-only below a plugin that acts, since that has a file open for writing. One that starts
// on such a folder ends, and is missing.
func TestFaultRunReadOnly(t *testing.T) {
	s, service := withContainerd(t, required)
	before := s.bystander(t)
	s.inRun(t, `mount --bind $1 $1`)
	s.kill(t, process{pid: service.Pid()})
	_, err := service.Wait(5 * time.Second)
	must(t, err)
	service = s.startExternal(t)
	s.registered(t, 2)
	if _, err := s.Run("mount", "-o", "remount,bind,ro", lab.StateDir); err == nil {
		t.Error("the folder could be made read-only")
	} else {
		contains(t, "mount", err.Error(), "busy")
	}
	s.works(t, "in-hand")
	must(t, service.Stop())
	s.inRun(t, `mount -o remount,bind,ro $1`)
	service = s.startExternal(t)
	code, err := service.Wait(5 * time.Second)
	must(t, err)
	equal(t, "exit code of the plugin", code, 1)
	contains(t, "what it says", service.Output(), "Read-only file system")
	refused(t, s.pod(t, lab.Pod{Name: "next"}), highUser, missing)
	before.unharmed(t)
	s.inRun(t, `mount -o remount,bind,rw $1`)
	s.startExternal(t)
	s.registered(t, 3)
	s.works(t, "after")
}

// inRun runs a script of the node's shell, whose $1 is the plugin's folder.
func (s *site) inRun(t *testing.T, script string) {
	t.Helper()
	_, err := s.Run("sh", "-c", script, "sh", lab.StateDir)
	must(t, err)
}

// 32 descriptors are plenty; with none left, containers are refused.
func TestFaultDescriptors(t *testing.T) {
	s := ownSite(t, careful, options{})
	service := s.startExternal(t)
	s.registered(t, 1)
	limit := func(n int) {
		_, err := s.Run("prlimit", fmt.Sprintf("--nofile=%d:1024", n), "--pid", fmt.Sprint(service.Pid()))
		must(t, err)
	}
	limit(32)
	before := s.bystander(t)
	shared := s.pod(t, lab.Pod{Name: "shared", SharePID: true})
	for i := range 8 {
		mapped(t, s, start(t, shared, lab.Container{Name: fmt.Sprint("c", i), Image: tools, User: lab.ID(10001 + i)}))
	}
	limit(s.only(t, externalFile).fds)
	for _, name := range []string{"in-hand", "next"} {
		refused(t, s.pod(t, named(name)), root, "No file descriptors available")
	}
	untouched(t, s, start(t, s.pod(t, lab.Pod{Name: "ordinary"}), root))
	before.unharmed(t)
	limit(32)
	s.works(t, "after")
}

// The account, or the node, may make no more user namespaces.
func TestFaultNamespaces(t *testing.T) {
	const file = "/proc/sys/user/max_user_namespaces"
	s := ownSite(t, careful, options{})
	s.startExternal(t)
	s.registered(t, 1)
	before := s.bystander(t)
	was := s.ReadFile(file)
	set := func(value string) {
		_, err := s.Run("sh", "-c", `echo "$1" >"$2"`, "sh", strings.TrimSpace(value), file)
		must(t, err)
	}
	set("1") // the one that the bystander has
	for _, name := range []string{"in-hand", "next"} {
		refused(t, s.pod(t, named(name)), root, "max_user_namespaces")
	}
	untouched(t, s, start(t, s.pod(t, lab.Pod{Name: "ordinary"}), root))
	second := start(t, before.Sandbox, lab.Container{Name: "second", Image: tools, User: lab.ID(10001)})
	equal(t, "the namespace that is there already", userNamespace(t, s, second), userNamespace(t, s, before.Running))
	before.unharmed(t)
	set(was)
	s.works(t, "after")
}

// Without a log everything goes on.
func TestFaultJournald(t *testing.T) {
	s := ownSite(t, careful, options{})
	service := s.startExternal(t)
	s.registered(t, 1)
	before := s.bystander(t)
	s.journal.Close()
	s.works(t, "in-hand")
	contains(t, "stderr of the service", service.Output(), "in-hand")
	must(t, os.Remove(s.Path("/run/systemd/journal/socket")))
	s.works(t, "next")
	// A refusal reaches whom it is for.
	refused(t, s.pod(t, annotated("inject=perhaps")), root, "perhaps")
	before.unharmed(t)
	again, err := s.ListenJournal()
	must(t, err)
	s.journal = again
	s.works(t, "after")
	s.said(t, "the pod after", func(e lab.Entry) bool { return has(e["MESSAGE"], "gets user namespace") })
}

// containerd is killed while the plugin works for it: at first before the plugin has answered, then at some moments.
func TestFaultContainerdKilled(t *testing.T) {
	s := ownSite(t, careful, options{})
	service := s.startExternal(t)
	s.registered(t, 1)
	before := s.bystander(t)
	for i := range 4 {
		pod, err := s.RunPod(lab.Pod{Name: fmt.Sprint("in-hand", i)})
		must(t, err)
		if i == 0 {
			must(t, service.Signal(syscall.SIGSTOP))
		}
		done := make(chan error)
		go func() {
			_, err := pod.Create(highUser)
			done <- err
		}()
		if i == 0 {
			must(t, lab.Await(5*time.Second, "the request", func() bool {
				return strings.Contains(s.ContainerdLog(), "CreateContainer within sandbox \\\""+pod.ID)
			}))
			time.Sleep(300 * time.Millisecond)
		} else {
			must(t, lab.Await(5*time.Second, "something made", func() bool { return s.states(t, pod) != "" }))
			time.Sleep(time.Duration(i) * 5 * time.Millisecond)
		}
		must(t, s.KillContainerd())
		if err := <-done; i == 0 && err == nil {
			t.Error("the container in hand was created, without an answer of the plugin")
		}
		if i == 0 {
			equal(t, "what is kept for the pod in hand", s.states(t, pod), "")
			must(t, service.Signal(syscall.SIGCONT))
		}
		must(t, s.StartContainerd())
		s.registered(t, i+2)
		before.unharmed(t)
		retry := highUser
		retry.Name = "retry" // the name of the one in hand may be taken
		r := start(t, pod, retry)
		mapped(t, s, r)
		equal(t, "namespaces of the pod", s.pinned(t, pod), 1)
		must(t, pod.Remove())
	}
	// containerd tells nobody that a pod from before its own start is removed (seen: 2.3.4), so such pods are swept by
	// the next connection only.
	must(t, s.KillContainerd())
	must(t, s.StartContainerd())
	s.registered(t, 6)
	must(t, lab.Await(3*time.Second, "the sweep", func() bool {
		pods, _ := os.ReadDir(s.Path(lab.StateDir + "/pods"))
		return len(pods) == 1 && pods[0].Name() == before.Sandbox.ID
	}))
	before.unharmed(t)
	if !service.Running() {
		t.Error("the plugin ended")
	}
}
