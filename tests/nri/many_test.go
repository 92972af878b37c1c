//go:build !nri08 && !nri011 && !nri0120

package nri

import (
	"fmt"
	"testing"

	"github.com/containerd/nri/pkg/api"

	"uid-nri-plugin/tests/node"
	"uid-nri-plugin/tests/nri/internal/engine"
)

func TestAThousandPodsLeaveNothing(t *testing.T) {
	fixture(t)
	e := start(t, engine.Config{})
	process := newPodProcess(t, false)
	pid := pluginPID(t, e)
	user := engine.User{UID: 10001, GID: 10001}

	type counts struct{ files, mounts, processes int }
	count := func() (c counts) {
		t.Helper()
		var err error
		c.files, err = node.OpenFiles(pid)
		check(t, err)
		c.mounts, err = node.MountCount()
		check(t, err)
		all, err := node.Processes()
		check(t, err)
		c.processes = len(all)
		return c
	}

	before := count()
	for round := range 10 {
		var pods []*api.PodSandbox
		for i := range 100 {
			pod := engine.NewPod(fmt.Sprintf("pod-%d-%d", round, i), nil)
			pod.Pid = uint32(process.PID)
			check(t, e.RunPod(pod))
			namespaceOf(t, pod, create(t, e, pod, engine.NewContainer(pod, "init", user, process)))
			namespaceOf(t, pod, create(t, e, pod, engine.NewContainer(pod, "main", user, process)))
			pods = append(pods, pod)
		}
		if held := count(); held.files != before.files || held.processes != before.processes || held.mounts != before.mounts+300 {
			t.Fatalf("with 100 pods: %+v, without %+v", held, before)
		}
		for _, pod := range pods {
			check(t, e.RemovePod(pod))
		}
		if after := count(); after != before {
			t.Fatalf("after %d pods: %+v, before %+v", 100*(round+1), after, before)
		}
		wantNoState(t)
	}
}
