package e2e

import (
	"os"
	"testing"

	"uid-nri-plugin/tests/e2e/lab"
)

// older makes a node with a containerd of before.
func older(t *testing.T, variable string) *site {
	t.Helper()
	if os.Getenv(variable) == "" {
		t.Fatalf("%s is not set: start the tests with tests/run.sh", variable)
	}
	return ownSite(t, careful, options{plugin: true, old: true, containerd: os.Getenv(variable)})
}

// containerd 2.2 takes a namespace, but does not tell a container's user.
func TestContainerd22(t *testing.T) {
	s := older(t, "LAB_CONTAINERD_2_2")
	version, err := s.Run("containerd", "--version")
	must(t, err)
	contains(t, "version", version, " v2.2.")
	s.said(t, "what this runtime does not tell", func(e lab.Entry) bool {
		return e["PRIORITY"] <= "4" && has(e["MESSAGE"], "annotated", "2.3")
	})
	untouched(t, s, start(t, s.pod(t, lab.Pod{}), lab.Container{Image: tools}))
	refused(t, s.pod(t, lab.Pod{Name: "untold"}), highUser, noSuchOwner)

	pod := s.pod(t, annotated("claim-uids=10001"))
	r := start(t, pod, highUser)
	mapped(t, s, r)
	equal(t, "id -u", sh(t, r, "id -u"), "10001")
	equal(t, "interfaces", sh(t, r, "ls /sys/class/net"), "eth0\nlo")
	always := start(t, s.pod(t, annotated("inject=always")), lab.Container{Image: tools})
	mapped(t, s, always)
}

// containerd 2.1 takes none. A container that needs one must hear why, and not from runc.
func TestContainerd21(t *testing.T) {
	s := older(t, "LAB_CONTAINERD_2_1")
	version, err := s.Run("containerd", "--version")
	must(t, err)
	contains(t, "version", version, " v2.1.")
	s.said(t, "what this runtime cannot do", func(e lab.Entry) bool {
		return e["PRIORITY"] <= "4" && has(e["MESSAGE"], "2.2")
	})
	untouched(t, s, start(t, s.pod(t, lab.Pod{}), lab.Container{Image: tools}))
	refused(t, s.pod(t, lab.Pod{Name: "untold"}), highUser, noSuchOwner)
	for name, value := range map[string]string{"claim": "claim-uids=10001", "always": "inject=always"} {
		t.Run(name, func(t *testing.T) {
			for _, words := range []string{"uid-mapper: ", "2.2"} {
				refused(t, s.pod(t, annotated(value)), highUser, words)
			}
		})
	}
}
