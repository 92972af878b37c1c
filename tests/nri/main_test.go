package nri

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	"golang.org/x/sys/unix"

	"uid-nri-plugin/tests/node"
	"uid-nri-plugin/tests/nri/internal/engine"
	"uid-nri-plugin/tests/wait"
)

const (
	stateDir   = "/run/uid-nri-plugin"
	podsDir    = stateDir + "/pods"
	journalDir = "/run/systemd/journal"
)

// plugin is the program under test.
var plugin string

func TestMain(m *testing.M) {
	path := os.Getenv("UID_NRI_PLUGIN")
	if path == "" {
		fmt.Fprintln(os.Stderr, "UID_NRI_PLUGIN is not set: it must name the program to test")
		os.Exit(1)
	}
	plugin = node.Enter(path)[0]
	// The library's own limits, after which it kills a plugin.
	adaptation.SetPluginRegistrationTimeout(wait.Scaled(adaptation.DefaultPluginRegistrationTimeout))
	adaptation.SetPluginRequestTimeout(wait.Scaled(adaptation.DefaultPluginRequestTimeout))
	process, err := node.StartPod(false)
	if err == nil {
		err = engine.PinNetwork(process)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// fixture gives a test a node without leftovers, and sees to it that the test
// leaves none: no plugin, no state.
func fixture(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		for _, p := range pluginProcesses(t) {
			unix.Kill(p.PID, unix.SIGKILL)
			eventually(t, "the end of a killed plugin", func() error {
				if slices.ContainsFunc(pluginProcesses(t), func(q node.Process) bool { return q.PID == p.PID }) {
					return errors.New("still there")
				}
				return nil
			})
		}
		mounts, err := node.MountsUnder(stateDir)
		check(t, err)
		for _, point := range slices.Backward(mounts) {
			check(t, unix.Unmount(point, unix.MNT_DETACH))
		}
		check(t, os.RemoveAll(stateDir))
	})
	journal(t)
}

// start starts a runtime that launches the plugin, and fails the test if the
// plugin does not come up.
func start(t *testing.T, cfg engine.Config) *engine.Engine {
	t.Helper()
	cfg.Dir, cfg.Plugin, cfg.Record = t.TempDir(), plugin, true
	e, err := engine.Start(cfg)
	check(t, err)
	t.Cleanup(e.Stop)
	for _, method := range []string{"RegisterPlugin", "Configure", "Synchronize"} {
		calls := e.Calls(method)
		if len(calls) == 0 {
			t.Fatalf("the plugin did not come to %s; calls: %+v", method, e.Calls(""))
		}
		if last := calls[len(calls)-1]; last.Err != nil || last.Code != 0 {
			t.Fatalf("%s: %v, code %d %q", method, last.Err, last.Code, last.Message)
		}
	}
	return e
}

// pluginPID is the pid of the plugin that a runtime launched.
func pluginPID(t *testing.T, e *engine.Engine) int {
	t.Helper()
	for _, p := range pluginProcesses(t) {
		if p.Exe == e.PluginPath() && p.Parent == os.Getpid() {
			return p.PID
		}
	}
	t.Fatal("the plugin is not running")
	return 0
}

// pluginProcesses lists the processes that run the plugin's program, wherever
// it was started from, and those it left behind. Ended ones that wait for us
// are not the plugin's.
func pluginProcesses(t *testing.T) []node.Process {
	t.Helper()
	all, err := node.Processes()
	check(t, err)
	return slices.DeleteFunc(all, func(p node.Process) bool {
		if p.State == "Z" && p.Parent == os.Getpid() {
			return true
		}
		name := filepath.Base(strings.TrimSuffix(p.Exe, " (deleted)"))
		return name != engine.PluginName && name != filepath.Base(plugin)
	})
}

// create asks for a container and wants an answer.
func create(t *testing.T, e *engine.Engine, pod *api.PodSandbox, ctr *api.Container) *api.ContainerAdjustment {
	t.Helper()
	adjust, err := e.CreateContainer(pod, ctr)
	check(t, err)
	if call := lastReply(t, e, "CreateContainer"); call.Err != nil {
		t.Fatalf("the plugin gave no answer to CreateContainer: %v", call.Err)
	}
	return adjust
}

// lastReply is the plugin's last reply to a call of a method, as bytes.
func lastReply(t *testing.T, e *engine.Engine, method string) engine.Call {
	t.Helper()
	calls := e.Calls(method)
	if len(calls) == 0 {
		t.Fatalf("no call of %s", method)
	}
	return calls[len(calls)-1]
}

// wantUntouched fails the test unless the last reply changed nothing.
func wantUntouched(t *testing.T, e *engine.Engine) {
	t.Helper()
	if reply := lastReply(t, e, "CreateContainer"); reply.Err != nil || reply.Code != 0 || len(reply.Response) != 0 {
		t.Fatalf("the container should have been left alone, got code %d %q, %d bytes, error %v",
			reply.Code, reply.Message, len(reply.Response), reply.Err)
	}
}

// wantNoState fails the test if the plugin holds anything of a pod: nothing is
// mounted under its folder, and no pod's folder is there.
func wantNoState(t *testing.T) {
	t.Helper()
	wantPods(t)
	mounts, err := node.MountsUnder(stateDir)
	check(t, err)
	if len(mounts) != 0 {
		t.Errorf("mounts are left: %q", mounts)
	}
}

// wantPods fails the test unless exactly these pods have a folder.
func wantPods(t *testing.T, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(podsDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var got []string
	for _, entry := range entries {
		got = append(got, entry.Name())
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("folders of pods: got %q, want %q", got, want)
	}
}

// wantLockOf fails the test unless the process holds the plugin's lock.
func wantLockOf(t *testing.T, pid int) {
	t.Helper()
	f, err := os.OpenFile(stateDir+"/lock", os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	check(t, unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lock))
	if lock.Type == unix.F_UNLCK || int(lock.Pid) != pid {
		t.Errorf("the lock: got type %d, holder %d; want holder %d", lock.Type, lock.Pid, pid)
	}
}

// newPodProcess starts a process with the namespaces of a pod.
func newPodProcess(t *testing.T, sharedPID bool) *node.Pod {
	t.Helper()
	p, err := node.StartPod(sharedPID)
	check(t, err)
	t.Cleanup(p.Stop)
	return p
}

// eventually waits up to two seconds for something to be so, or longer on a slow machine.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	check(t, wait.For(2*time.Second, what, try))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
