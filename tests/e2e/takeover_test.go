package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"uid-nri-plugin/tests/e2e/lab"
)

// startExternal starts the plugin as its systemd unit does.
func (s *site) startExternal(t *testing.T, args ...string) *lab.Daemon {
	t.Helper()
	binary, err := pluginBinary()
	must(t, err)
	must(t, s.CopyIn(binary, externalFile))
	d, err := s.StartDaemon("external", append([]string{externalFile}, args...)...)
	must(t, err)
	return d
}

// Where an operator may put it.
const externalFile = "/opt/uid-nri-plugin"

// registered waits until a plugin of this node has registered that many times, by what it says of itself then.
func (s *site) registered(t *testing.T, times int) {
	t.Helper()
	must(t, lab.Await(5*time.Second, fmt.Sprintf("registration %d", times), func() bool {
		count := 0
		for _, e := range s.journal.Entries() {
			if e["PRIORITY"] == "6" && has(e["MESSAGE"], "pool", "containerd") {
				count++
			}
		}
		return count >= times
	}))
}

// standsBy waits until a plugin has said that it leaves the work to another.
func (s *site) standsBy(t *testing.T) {
	t.Helper()
	s.said(t, "standing by", func(e lab.Entry) bool { return has(e["MESSAGE"], "another instance, pid ", "stands by") })
}

// takesOver fails unless containers get their ids again within a second.
func (s *site) takesOver(t *testing.T, from time.Time) {
	t.Helper()
	time.Sleep(time.Until(from.Add(time.Second)))
	r := start(t, s.pod(t, lab.Pod{Name: "after"}), highUser)
	mapped(t, s, r)
}

// The copied file is at work, and a service waits beside it.
func TestStandbyServiceTakesOver(t *testing.T) {
	s := ownSite(t, careful, options{plugin: true})
	standby := s.startExternal(t)
	s.standsBy(t)
	before := s.pod(t, lab.Pod{Name: "before"})
	r := start(t, before, highUser)
	mapped(t, s, r)
	if !standby.Running() {
		t.Fatalf("the standby ended: %s", standby.Output())
	}
	s.kill(t, s.only(t, lab.PluginFile))
	s.takesOver(t, time.Now())
	must(t, s.processesGone(lab.PluginFile))
	equal(t, "exec in a container from before", sh(t, r, "id -u"), "10001")
	// The new one knows the old one's namespaces, and cleans them.
	second := start(t, before, lab.Container{Name: "second", Image: tools, User: lab.ID(10001)})
	equal(t, "the namespace of a new container", userNamespace(t, s, second), userNamespace(t, s, r))
}

// The service is at work, and the copied file waits beside it.
func TestStandbyOfTheServiceTakesOver(t *testing.T) {
	s := ownSite(t, careful, options{})
	s.startExternal(t)
	s.registered(t, 1)
	start(t, s.pod(t, lab.Pod{Name: "service"}), highUser)

	binary, err := pluginBinary()
	must(t, err)
	must(t, s.InstallPlugin(binary))
	must(t, s.RestartContainerd()) // launches the copy; the service connects again
	s.registered(t, 3)
	s.standsBy(t)
	s.only(t, lab.PluginFile)
	r := start(t, s.pod(t, lab.Pod{Name: "both"}), highUser)
	mapped(t, s, r)

	s.kill(t, s.only(t, externalFile))
	s.takesOver(t, time.Now())
	equal(t, "exec in a container from before", sh(t, r, "id -u"), "10001")
}

// Containerd goes and comes back; its pods never stop.
func TestContainerdRestart(t *testing.T) {
	for _, c := range []struct {
		name     string
		launched bool
		stop     func(*site) error
	}{
		{"launched by containerd", true, func(s *site) error { return s.StopContainerd() }},
		{"launched by containerd that crashes", true, func(s *site) error { return s.KillContainerd() }},
		{"a service", false, func(s *site) error { return s.StopContainerd() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := ownSite(t, careful, options{plugin: c.launched})
			if !c.launched {
				s.startExternal(t)
				s.registered(t, 1)
			}
			pod := s.pod(t, lab.Pod{Name: "stays"})
			r := start(t, pod, highUser)
			mapped(t, s, r)
			pid, err := r.Pid()
			must(t, err)
			kept := s.states(t, pod)

			must(t, c.stop(s))
			must(t, s.processesGone(lab.PluginFile))
			must(t, s.StartContainerd())
			s.registered(t, 2)

			again, err := r.Pid()
			must(t, err)
			equal(t, "pid of the container", again, pid)
			equal(t, "what is kept for the pod", s.states(t, pod), kept)
			equal(t, "exec", sh(t, r, "id -u"), "10001")
			second := start(t, pod, lab.Container{Name: "second", Image: tools, User: lab.ID(10001)})
			equal(t, "the namespace of a new container", userNamespace(t, s, second), userNamespace(t, s, r))
			must(t, second.Remove())
			must(t, r.Remove())
		})
	}
}

// The service may be up before containerd is.
func TestServiceWaitsForContainerd(t *testing.T) {
	s := ownSite(t, careful, options{})
	must(t, s.StopContainerd())
	_, err := s.Run("rm", "-f", "/run/nri/nri.sock")
	must(t, err)
	service := s.startExternal(t, "--log-level", "debug")
	time.Sleep(500 * time.Millisecond)
	if !service.Running() {
		t.Fatalf("the service did not wait: %s", service.Output())
	}
	must(t, s.StartContainerd())
	s.registered(t, 1)
	start(t, s.pod(t, lab.Pod{}), highUser)
}

// A service has a configuration file of its own; a mistake in it ends the service, with one line.
func TestServiceConfiguration(t *testing.T) {
	const file = "/etc/uid-nri-plugin.conf"
	s := ownSite(t, careful, options{})
	must(t, s.WriteFile(file, []byte("inject = all\nclaim-uids = lots\n"), 0o644))
	service := s.startExternal(t, "--config", file)
	code, err := service.Wait(5 * time.Second)
	must(t, err)
	equal(t, "exit code", code, 1)
	equal(t, "lines on stderr", strings.Count(service.Output(), "\n"), 1)
	for _, words := range []string{"uid-nri-plugin: ", file, "line 2", "lots"} {
		contains(t, "stderr", service.Output(), words)
	}

	must(t, s.WriteFile(file, []byte("inject = all\n"), 0o644))
	s.startExternal(t, "--config", file, "--index", "42", "--name", "mapper")
	s.registered(t, 1)
	contains(t, "containerd's log", s.ContainerdLog(), "42-mapper")
	mapped(t, s, start(t, s.pod(t, lab.Pod{}), lab.Container{Image: tools}))
}
