package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"uid-nri-plugin/tests/e2e/lab"
)

// A node with everything, on this host as it is: all works, or `check` says beforehand what LAB_HARDENED has. tests/vm.sh
// runs it on hosts with less than usual.
func TestHost(t *testing.T) {
	s, err := newSite("host", stock, options{supervise: true, plugin: true})
	must(t, err)
	t.Cleanup(s.close)
	findings, _ := s.Run(lab.Supervisor, "check") // its exit code tells of other findings, too
	says := os.Getenv("LAB_HARDENED")
	switch err := s.everything(); {
	case err == nil:
		t.Log("all works")
	case says == "":
		t.Errorf("%v\nand check says:\n%s", err, findings)
	default:
		contains(t, fmt.Sprintf("what check says, as %v", err), findings, says)
		t.Logf("check says so beforehand: %s", says)
	}
}

// everything is an image of high ids, the stock pause image, a pod as 10001, and ids that change inside.
func (s *site) everything() error {
	i := withFiles("everything", lab.Owned{Uid: 65532, Gid: 65532})
	if err := s.Import(i); err != nil {
		return err
	}
	pod, err := s.RunPod(lab.Pod{Name: "everything"})
	if err != nil {
		return err
	}
	defer pod.Remove()
	r, err := pod.Start(lab.Container{Name: "declared", Image: tools, User: lab.ID(10001)})
	if err != nil {
		return err
	}
	if id, err := r.Sh("id -u"); err != nil || id != "10001" {
		return fmt.Errorf("id of a pod as 10001: %s, %v", id, err)
	}
	if r, err = pod.Start(lab.Container{Name: "inside", Image: i.Name, User: lab.ID(0)}); err != nil {
		return err
	}
	out, err := r.Sh("touch /tmp/f && chown 12345:50000 /tmp/f && stat -c %u:%g /tmp/f /home/nonroot")
	if err != nil || out != "1817:1744\n1556:1556" {
		return fmt.Errorf("owners inside: %s, %v", strings.ReplaceAll(out, "\n", " "), err)
	}
	return nil
}
