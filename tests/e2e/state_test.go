package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"uid-nri-plugin/tests/e2e/lab"
)

// states lists what the plugin keeps for a pod.
func (s *site) states(t *testing.T, pod *lab.Sandbox) string {
	t.Helper()
	entries, err := os.ReadDir(s.Path(lab.StateDir + "/pods/" + pod.ID))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// pinned counts a pod's user namespaces.
func (s *site) pinned(t *testing.T, pod *lab.Sandbox) int {
	t.Helper()
	return strings.Count(s.states(t, pod)+" ", ".user ")
}

// has tells whether the text holds all the words.
func has(text string, words ...string) bool {
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}

// process is one of a node's processes.
type process struct {
	pid, ppid int // as the node counts
	fds       int
}

// processes finds those of a program, by the path in the node of its file.
func (s *site) processes(file string) (found []process) {
	all, _ := filepath.Glob(s.Path("/proc/[0-9]*"))
	for _, dir := range all {
		if exe, _ := os.Readlink(dir + "/exe"); exe != file {
			continue
		}
		var p process
		p.pid, _ = strconv.Atoi(filepath.Base(dir))
		stat, _ := os.ReadFile(dir + "/stat")
		_, after, _ := strings.Cut(string(stat), ") ")
		fmt.Sscanf(after, "%s %d", new(string), &p.ppid)
		fds, _ := os.ReadDir(dir + "/fd")
		p.fds = len(fds)
		found = append(found, p)
	}
	return found
}

func (s *site) processesGone(file string) error {
	return lab.Await(3*time.Second, "the end of "+file, func() bool { return len(s.processes(file)) == 0 })
}

// only gives the one process of a program.
func (s *site) only(t *testing.T, file string) process {
	t.Helper()
	found := s.processes(file)
	if len(found) != 1 {
		t.Fatalf("%s: want one process, got %v", file, found)
	}
	return found[0]
}

// kept lists everything that the plugin keeps for pods: files, and mounts as its mount namespace has them.
func (s *site) kept(t *testing.T) string {
	t.Helper()
	var lines []string
	entries, err := os.ReadDir(s.Path(lab.StateDir + "/pods"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range entries {
		lines = append(lines, e.Name())
	}
	for line := range strings.Lines(s.ReadFile("/proc/1/mountinfo")) {
		if strings.Contains(line, lab.StateDir) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// A pod that is gone leaves nothing; also one that used every kind of mount.
func TestRemovalLeavesNothing(t *testing.T) {
	s := ownSite(t, careful, options{plugin: true})
	mountsBefore := strings.Count(s.ReadFile("/proc/1/mountinfo"), "\n")
	run := func() {
		sandbox, err := s.RunPod(lab.Pod{Name: "brief", SharePID: true})
		must(t, err)
		r := start(t, sandbox, highUser)
		mapped(t, s, r)
		mapped(t, s, start(t, sandbox, lab.Container{Name: "second", Image: tools, User: lab.ID(50000)}))
		contains(t, "what is kept while it runs", s.kept(t), sandbox.ID)
		// A container alone may go, and its pod stay.
		must(t, r.Remove())
		equal(t, "namespaces of the pod", s.pinned(t, sandbox), 2)
		must(t, sandbox.Remove())
		if kept := s.kept(t); kept != "" {
			t.Fatalf("left behind:\n%s", kept)
		}
	}
	run() // whatever it needs only once
	mode, err := s.Run("stat", "-c", "%a %u", lab.StateDir)
	must(t, err)
	equal(t, "mode and owner of "+lab.StateDir, strings.TrimSpace(mode), "700 0")
	before := s.only(t, lab.PluginFile)
	for range 4 {
		run()
	}
	after := s.only(t, lab.PluginFile)
	equal(t, "the plugin's pid", after.pid, before.pid)
	equal(t, "its open files", after.fds, before.fds)
	equal(t, "mounts of the node", strings.Count(s.ReadFile("/proc/1/mountinfo"), "\n"), mountsBefore)
	for _, p := range s.children(before.pid) {
		t.Errorf("the plugin has a child: %s", p)
	}
}

// children are the processes that a process of the node started and did not lose.
func (s *site) children(pid int) (found []string) {
	return strings.Fields(s.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid)))
}

// A plugin that dies can clean nothing; the next one does.
func TestRemovalWhileThePluginIsGone(t *testing.T) {
	s := ownSite(t, careful, options{plugin: true})
	gone, err := s.RunPod(lab.Pod{Name: "gone"})
	must(t, err)
	start(t, gone, highUser)
	stays := s.pod(t, lab.Pod{Name: "stays"})
	r := start(t, stays, highUser)
	s.kill(t, s.only(t, lab.PluginFile))
	must(t, gone.Remove())
	contains(t, "what is kept without a plugin", s.kept(t), gone.ID)
	// And what a creation that was cut off may leave.
	cut := lab.StateDir + "/pods/" + strings.Repeat("c0ffee", 10) + "c0ff"
	_, err = s.Run("sh", "-c", `mkdir "$1" && touch "$1/0.user" "$1/0.map" && mkdir "$1/sysfs" && mount -t tmpfs x "$1/sysfs"`, "sh", cut)
	must(t, err)

	must(t, s.RestartContainerd())
	must(t, lab.Await(3*time.Second, "the sweep", func() bool { return !strings.Contains(s.kept(t), gone.ID) && !strings.Contains(s.kept(t), "c0ffee") }))
	equal(t, "namespaces of the pod that stays", s.pinned(t, stays), 1)
	equal(t, "its container's user", sh(t, r, "id -u"), "10001")
	second := start(t, stays, lab.Container{Name: "second", Image: tools, User: lab.ID(10001)})
	equal(t, "the namespace of a new container", userNamespace(t, s, second), userNamespace(t, s, r))
}

// Whenever it is killed, what it was just making does not stay for ever.
func TestKilledAtAnyMoment(t *testing.T) {
	s := ownSite(t, careful, options{})
	sandbox, err := s.RunPod(lab.Pod{Name: "target", SharePID: true})
	must(t, err)
	cut := 0
	for i := range 12 {
		service := s.startExternal(t)
		s.registered(t, i+1)
		done := make(chan error)
		go func() {
			_, err := sandbox.Create(lab.Container{Name: fmt.Sprintf("c%d", i), Image: tools, User: lab.ID(10001 + i)})
			done <- err
		}()
		before := s.states(t, sandbox)
		if err := lab.Await(time.Second, "something made", func() bool { return s.states(t, sandbox) != before }); err == nil {
			cut++
		}
		time.Sleep(time.Duration(i) * 100 * time.Microsecond)
		must(t, service.Signal(syscall.SIGKILL))
		<-done                                 // created with a namespace or without
		must(t, s.processesGone(externalFile)) // nor may a child of it live on
	}
	if cut < 6 {
		t.Errorf("the plugin was met at work only %d times", cut)
	}
	s.startExternal(t)
	s.registered(t, 13)
	must(t, sandbox.Remove())
	if kept := s.kept(t); kept != "" {
		t.Errorf("left behind:\n%s", kept)
	}
}

// kill ends a process as a crash would.
func (s *site) kill(t *testing.T, p process) {
	t.Helper()
	_, err := s.Run("kill", "-9", strconv.Itoa(p.pid))
	must(t, err)
}
