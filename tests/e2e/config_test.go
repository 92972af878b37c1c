package e2e

import (
	"testing"

	"uid-nri-plugin/tests/e2e/lab"
)

// configured makes a node whose plugin has the given configuration file.
func configured(t *testing.T, config string) *site {
	t.Helper()
	return ownSite(t, careful, options{plugin: true, config: config})
}

func TestConfigInjectAll(t *testing.T) {
	s := configured(t, "# everybody\ninject = all\nclaim-uids = 30000\nskip-namespaces = kube-system, other\n")
	r := start(t, s.pod(t, lab.Pod{}), lab.Container{Image: tools})
	mapped(t, s, r)
	equal(t, "a claimed id", sh(t, r, "touch /tmp/f && chown 30000 /tmp/f && stat -c %u /tmp/f"), "30000")

	untouched(t, s, start(t, s.pod(t, lab.Pod{Name: "host", HostNetwork: true}), lab.Container{Image: tools}))
	untouched(t, s, start(t, s.pod(t, lab.Pod{Name: "privileged", Privileged: true}), lab.Container{Image: tools, Privileged: true}))
	untouched(t, s, start(t, s.pod(t, annotated("inject=never")), lab.Container{Image: tools}))
	for _, skipped := range []string{"kube-system", "other"} {
		pod := s.pod(t, lab.Pod{Name: "skipped", Namespace: skipped})
		untouched(t, s, start(t, pod, lab.Container{Image: tools}))
		refused(t, pod, highUser, noSuchOwner)
	}
}

func TestConfigInjectAnnotated(t *testing.T) {
	s := configured(t, "inject = annotated\nping-group-range = keep\n")
	pod := s.pod(t, lab.Pod{})
	refused(t, pod, highUser, noSuchOwner)
	if out, err := start(t, pod, pinger(1000)).Exec("/usr/bin/perl", "-e", ping); err == nil {
		t.Errorf("ping-group-range = keep, and yet ping works: %s", out)
	}
	for _, value := range []string{"inject=always", "claim-uids=10001"} {
		mapped(t, s, start(t, s.pod(t, annotated(value)), highUser))
	}
}

func TestConfigCollisionsRefused(t *testing.T) {
	s := configured(t, "collisions = refuse\n")
	c := lab.Container{Image: tools, User: lab.ID(10001), Groups: []int{50000, 51044}}
	refused(t, s.pod(t, lab.Pod{}), c, "uid-mapper: ")
	// A pod may say otherwise.
	start(t, s.pod(t, annotated("collisions=allow")), c)
	start(t, s.pod(t, lab.Pod{Name: "alone"}), highUser)
}

// A mistake in the configuration must not pass for the default.
func TestConfigWithAMistake(t *testing.T) {
	s := configured(t, "# line 1\ninject = sometimes\n")
	for _, words := range []string{"00-uid-mapper", "line 2", "sometimes"} {
		contains(t, "containerd's log", s.ContainerdLog(), words)
	}
	must(t, s.processesGone("/opt/nri/plugins/00-uid-mapper"))
	refused(t, s.pod(t, lab.Pod{}), highUser, noSuchOwner)

	// Mended, and containerd restarted: all is well.
	must(t, s.WriteFile(lab.PluginConfig, []byte("inject = needed\n"), 0o644))
	must(t, s.RestartContainerd())
	start(t, s.pod(t, lab.Pod{Name: "mended"}), highUser)
}

func TestLog(t *testing.T) {
	s := configured(t, "log-level = debug\n")
	s.said(t, "its start", func(e lab.Entry) bool {
		return e["SYSLOG_IDENTIFIER"] == "uid-nri-plugin" && e["PRIORITY"] == "6" && has(e["MESSAGE"], "2044", "containerd", "2.3.4")
	})
	start(t, s.pod(t, lab.Pod{Name: "injected", Namespace: "somewhere"}), lab.Container{Name: "web", Image: tools, User: lab.ID(10001)})
	s.said(t, "an injected container", func(e lab.Entry) bool {
		return e["PRIORITY"] == "6" && e["POD"] == "injected" && e["NAMESPACE"] == "somewhere" && e["CONTAINER"] == "web" && has(e["MESSAGE"], "10001", "1605")
	})
	// 2044 * 5 + 7 = 10227: what has the remainder of a system user displaces none.
	start(t, s.pod(t, lab.Pod{Name: "displaces"}), lab.Container{Name: "web", Image: tools, User: lab.ID(10227)})
	s.said(t, "the slot of the rule", func(e lab.Entry) bool {
		return e["PRIORITY"] == "6" && e["POD"] == "displaces" && has(e["MESSAGE"], "10227 on 1831")
	})
	for _, e := range s.journal.Entries() {
		if e["POD"] == "displaces" && e["PRIORITY"] == "4" {
			t.Errorf("a warning: %s", e["MESSAGE"])
		}
	}
	hostly := annotated("inject=always")
	hostly.Name, hostly.HostNetwork = "hostly", true
	start(t, s.pod(t, hostly), lab.Container{Image: tools})
	s.said(t, "a container of the node", func(e lab.Entry) bool {
		return e["PRIORITY"] == "7" && e["POD"] == "hostly" && has(e["MESSAGE"], "network")
	})
}
