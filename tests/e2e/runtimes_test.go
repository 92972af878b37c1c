package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"uid-nri-plugin/tests/e2e/lab"
)

// otherContainerd is a node with the plugin and a containerd of before or after today's.
func otherContainerd(t *testing.T, version string, o options) *site {
	t.Helper()
	variable := "LAB_CONTAINERD_" + strings.ReplaceAll(version, ".", "_")
	if os.Getenv(variable) == "" {
		t.Fatalf("%s is not set: start the tests with tests/run.sh", variable)
	}
	o.plugin, o.other, o.containerd = true, true, os.Getenv(variable)
	s := ownSite(t, careful, o)
	said, err := s.Run("containerd", "--version")
	must(t, err)
	contains(t, "version", said, " v"+version+".")
	return s
}

// containerd 2.4 tells all that the containerd of today tells, and the image.
func TestContainerd24(t *testing.T) {
	s := otherContainerd(t, "2.4", options{})
	untouched(t, s, start(t, s.pod(t, lab.Pod{}), lab.Container{Image: tools}))
	for _, i := range identities {
		if i.on.name != careful.name {
			continue
		}
		t.Run(i.name, func(t *testing.T) {
			r := start(t, s.pod(t, lab.Pod{}), i.c)
			mapped(t, s, r)
			equal(t, "id -u", sh(t, r, "id -u"), fmt.Sprint(i.uid))
			equal(t, "groups", groups(t, r), sorted(i.groups))
			equal(t, "interfaces", sh(t, r, "ls /sys/class/net"), "eth0\nlo")
		})
	}
	mapped(t, s, start(t, s.pod(t, annotated("inject=always")), lab.Container{Image: tools}))
	for _, e := range s.journal.Entries() {
		if e["PRIORITY"] < "4" || has(e["MESSAGE"], "or later") {
			t.Errorf("the log: %v", e)
		}
	}
}

// containerd 2.2 takes a namespace, but does not tell a container's user.
func TestContainerd22(t *testing.T) {
	s := otherContainerd(t, "2.2", options{})
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
	s := otherContainerd(t, "2.1", options{})
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
