package nri

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"google.golang.org/protobuf/proto"

	"uid-nri-plugin/tests/nri/internal/engine"
)

func TestRegistersUnderTheNameItWasLaunchedWith(t *testing.T) {
	fixture(t)
	e := start(t, engine.Config{})

	req := lastReply(t, e, "RegisterPlugin").Register
	if req.GetPluginName() != "uid-mapper" || req.GetPluginIdx() != "00" {
		t.Errorf("registered as %q, index %q", req.GetPluginName(), req.GetPluginIdx())
	}
	var methods []string
	for _, call := range e.Calls("") {
		methods = append(methods, call.Method)
	}
	// The answer to RegisterPlugin may be on its way while Configure is.
	slices.Sort(methods)
	if want := []string{"Configure", "RegisterPlugin", "Synchronize"}; !slices.Equal(methods, want) {
		t.Errorf("calls at start: got %q, want %q", methods, want)
	}
	wantLockOf(t, pluginPID(t, e))
}

func TestSubscribesToThreeEvents(t *testing.T) {
	fixture(t)
	e := start(t, engine.Config{})

	var reply api.ConfigureResponse
	check(t, proto.Unmarshal(lastReply(t, e, "Configure").Response, &reply))
	const runPod, removePod, createContainer = 1, 3, 4
	if want := int32(1<<(runPod-1) | 1<<(removePod-1) | 1<<(createContainer-1)); reply.Events != want {
		t.Errorf("events: got %#b, want %#b", reply.Events, want)
	}

	before := len(e.Calls(""))
	pod := engine.NewPod("events", nil)
	ctr := engine.NewContainer(pod, "c", engine.User{}, nil)
	check(t, e.RunPod(pod))
	create(t, e, pod, ctr)
	check(t, e.OtherEvents(pod, ctr))
	check(t, e.RemovePod(pod))
	var methods []string
	for _, call := range e.Calls("")[before:] {
		if call.Err != nil || call.Code != 0 {
			t.Errorf("%s: %v, code %d %q", call.Method, call.Err, call.Code, call.Message)
		}
		methods = append(methods, call.Method)
	}
	want := []string{"RunPodSandbox", "CreateContainer", "RemovePodSandbox"}
	if !engine.DedicatedCalls {
		want = []string{"StateChange", "CreateContainer", "StateChange"}
	}
	if !slices.Equal(methods, want) {
		t.Errorf("calls: got %q, want %q", methods, want)
	}
}

func TestBadConfigurationIsReported(t *testing.T) {
	for _, c := range []struct{ name, conf, line string }{
		{"unknown key", "# fine\n\ninjct = all\n", "3"},
		{"bad value", "inject = needed\ncollisions = perhaps\n", "2"},
		{"bad id", "claim-uids = 1-x\n", "1"},
		{"no equals sign", "inject = all\nclaim-gids = 5\nnonsense\n", "3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fixture(t)
			e, err := engine.Start(engine.Config{Dir: t.TempDir(), Plugin: plugin, Conf: c.conf, Record: true})
			check(t, err)
			t.Cleanup(e.Stop)

			call := lastReply(t, e, "Configure")
			if call.Err != nil || call.Code == 0 || !strings.Contains(call.Message, "line "+c.line) {
				t.Errorf("Configure: %v, code %d, %q; want an error that names line %s", call.Err, call.Code, call.Message, c.line)
			}
			if calls := e.Calls("Synchronize"); len(calls) != 0 {
				t.Errorf("the plugin was synchronized all the same")
			}
			if left := pluginProcesses(t); len(left) != 0 {
				t.Errorf("processes are left: %+v", left)
			}
		})
	}
}

func TestGoodConfigurationIsTaken(t *testing.T) {
	fixture(t)
	start(t, engine.Config{Conf: strings.Join([]string{
		"# what an operator may write",
		"inject = needed",
		"claim-uids = 65532-65535, 70000",
		"claim-gids=65534",
		"skip-namespaces = kube-system, other",
		"collisions = allow",
		"log-level = debug",
		"ping-group-range = node",
		"",
	}, "\n")})
}

func TestSynchronizeSplitInMany(t *testing.T) {
	fixture(t)
	var pods []*api.PodSandbox
	for i := range 5000 {
		pods = append(pods, engine.NewPod(fmt.Sprintf("pod%04d", i), map[string]string{"filler": strings.Repeat("x", 1500)}))
	}
	var containers []*api.Container
	for _, pod := range pods {
		containers = append(containers, engine.NewContainer(pod, "c", engine.User{}, nil))
	}
	// Folders as an earlier plugin leaves them: of pods in the first and in
	// the last part of the message, and of one that is gone.
	for _, id := range []string{"pod0000", "pod4999", "gone"} {
		check(t, os.MkdirAll(podsDir+"/"+id, 0o700))
		check(t, os.WriteFile(podsDir+"/"+id+"/0.map", nil, 0o600))
	}
	check(t, os.Chmod(stateDir, 0o700))
	e := start(t, engine.Config{Pods: pods, Containers: containers})

	split := 0
	told := 0
	for _, call := range e.Calls("Synchronize") {
		if call.Err != nil {
			continue // too large, never sent: the library tries again with less
		}
		var req api.SynchronizeRequest
		check(t, proto.Unmarshal(call.Request, &req))
		var reply api.SynchronizeResponse
		check(t, proto.Unmarshal(call.Response, &reply))
		if reply.More != req.More {
			t.Errorf("more: got %v for a request with %v", reply.More, req.More)
		}
		if req.More {
			split++
		}
		told += len(req.Pods)
	}
	if split == 0 || told != len(pods) {
		t.Fatalf("the message was meant to be split: %d parts with more to come, %d pods told", split, told)
	}
	wantPods(t, "pod0000", "pod4999")
}

func TestAContainerThatNeedsNothing(t *testing.T) {
	fixture(t)
	e := start(t, engine.Config{})

	pod := engine.NewPod("plain", nil)
	check(t, e.RunPod(pod))
	create(t, e, pod, engine.NewContainer(pod, "c", engine.User{UID: 1000, GID: 1000, GIDs: []uint32{0, 5, 2047}}, nil))
	wantUntouched(t, e)
	check(t, e.RemovePod(pod))
	wantNoState(t)
}

func TestALargeRequest(t *testing.T) {
	fixture(t)
	e := start(t, engine.Config{})

	pod := engine.NewPod("large", nil)
	ctr := engine.NewContainer(pod, "c", engine.User{}, nil)
	for i := range 20000 {
		ctr.Env = append(ctr.Env, fmt.Sprintf("VARIABLE_%05d=%s", i, strings.Repeat("v", 100)))
	}
	create(t, e, pod, ctr)
	wantUntouched(t, e)
}
