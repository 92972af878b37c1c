//go:build !nri08

package nri

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/containerd/nri/pkg/api"

	"uid-nri-plugin/tests/node"
	"uid-nri-plugin/tests/nri/internal/engine"
)

const pingFile = "/proc/sys/net/ipv4/ping_group_range"

// pingRange reads a setting of the pod's network namespace.
func pingRange(t *testing.T, process *node.Pod) string {
	t.Helper()
	return strings.Join(strings.Fields(inNetwork(t, process, "cat", pingFile)), " ")
}

// inNetwork runs a command in the pod's network namespace: /proc/sys/net shows
// that of whoever opens it.
func inNetwork(t *testing.T, process *node.Pod, command ...string) string {
	t.Helper()
	cmd := exec.Command("nsenter", append([]string{"--net=" + process.Namespace("net")}, command...)...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	return string(out)
}

func TestPingRange(t *testing.T) {
	fixture(t)
	process := newPodProcess(t, false)
	pod := engine.NewPod("ping", nil)
	pod.Pid = uint32(process.PID)
	pod.Linux.Namespaces = []*api.LinuxNamespace{{Type: "network", Path: process.Namespace("net")}}

	before := pingRange(t, process)
	t.Run("keep", func(t *testing.T) {
		e := start(t, engine.Config{Conf: "ping-group-range = keep\n"})
		check(t, e.RunPod(pod))
		if got := pingRange(t, process); got != before {
			t.Errorf("ping_group_range: got %q, was %q", got, before)
		}
		e.Stop()
	})
	t.Run("node", func(t *testing.T) {
		e := start(t, engine.Config{})
		check(t, e.RunPod(pod))
		if got := pingRange(t, process); got != "0 2047" || got == before {
			t.Errorf("ping_group_range: got %q, want the node's gids", got)
		}
	})
	t.Run("set by someone else", func(t *testing.T) {
		e := start(t, engine.Config{})
		inNetwork(t, process, "sh", "-c", "echo 7 9 >"+pingFile)
		check(t, e.RunPod(pod))
		if got := pingRange(t, process); got != "7 9" {
			t.Errorf("ping_group_range: got %q, want it kept", got)
		}
	})
}
