package nri

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"

	"uid-nri-plugin/tests/node"
	"uid-nri-plugin/tests/nri/internal/engine"
	"uid-nri-plugin/tests/wait"
)

// external is a plugin that was not launched by a runtime.
type external struct {
	cmd  *exec.Cmd
	errs bytes.Buffer // its standard error, complete once it ended
	done chan struct{}
}

// startExternal starts the plugin as an operator or an init system does.
func startExternal(t *testing.T, args ...string) *external {
	t.Helper()
	x := &external{cmd: exec.Command(plugin, args...), done: make(chan struct{})}
	x.cmd.Env = []string{}
	x.cmd.Stderr = &x.errs
	x.cmd.SysProcAttr = &syscall.SysProcAttr{}
	check(t, x.cmd.Start())
	go func() {
		x.cmd.Wait()
		close(x.done)
	}()
	t.Cleanup(x.kill)
	return x
}

func (x *external) kill() {
	x.cmd.Process.Kill()
	<-x.done
}

// ends waits for the plugin's end and returns its exit code, -1 after a signal.
func (x *external) ends(t *testing.T) int {
	t.Helper()
	select {
	case <-x.done:
		return x.cmd.ProcessState.ExitCode()
	case <-time.After(wait.Scaled(5 * time.Second)):
		t.Fatal("the plugin did not end")
		return 0
	}
}

// listen starts a runtime that takes external plugins.
func listen(t *testing.T, cfg engine.Config) *engine.Engine {
	t.Helper()
	cfg.Listen, cfg.Record = true, true
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	e, err := engine.Start(cfg)
	check(t, err)
	t.Cleanup(e.Stop)
	return e
}

// connected waits until a runtime has synchronized so many plugins, and asks
// them about containers.
func connected(t *testing.T, e *engine.Engine, times int) {
	t.Helper()
	eventually(t, "the plugin to be synchronized", func() error {
		if n := len(e.Calls("Synchronize")); n < times {
			return fmt.Errorf("%d of %d times", n, times)
		}
		return nil
	})
	before := len(e.Calls("CreateContainer"))
	pod := engine.NewPod("probe", nil)
	eventually(t, "the plugin to be asked", func() error {
		if _, err := e.CreateContainer(pod, engine.NewContainer(pod, "c", engine.User{}, nil)); err != nil {
			return err
		}
		if len(e.Calls("CreateContainer")) == before {
			return errors.New("not asked")
		}
		return nil
	})
}

func TestExternalPluginTellsItsName(t *testing.T) {
	for _, c := range []struct {
		args       []string
		name, indx string
	}{
		{nil, "uid-mapper", "00"},
		{[]string{"--name", "other", "--index", "42"}, "other", "42"},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			fixture(t)
			e := listen(t, engine.Config{})
			x := startExternal(t, append([]string{"--socket", e.Socket()}, c.args...)...)
			connected(t, e, 1)
			req := lastReply(t, e, "RegisterPlugin").Register
			if req.GetPluginName() != c.name || req.GetPluginIdx() != c.indx {
				t.Errorf("registered as %q, index %q", req.GetPluginName(), req.GetPluginIdx())
			}
			wantLockOf(t, x.cmd.Process.Pid)
		})
	}
}

func TestExternalPluginReadsItsFile(t *testing.T) {
	fixture(t)
	e := listen(t, engine.Config{})
	file := t.TempDir() + "/mapper.conf"
	check(t, os.WriteFile(file, []byte("inject = annotated\nclaim-uids = nonsense\n"), 0o644))
	x := startExternal(t, "--socket", e.Socket(), "--config", file)
	if code := x.ends(t); code != 1 {
		t.Errorf("exit code: got %d, want 1", code)
	}
	wantOneErrorLine(t, x.errs.String(), "line 2")
	if calls := e.Calls("Synchronize"); len(calls) != 0 {
		t.Errorf("the plugin was synchronized all the same")
	}
}

// wantOneErrorLine fails the test unless a program that ended said why in one line.
func wantOneErrorLine(t *testing.T, errs, named string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(errs, "\n"), "\n")
	if len(lines) != 1 || !strings.HasPrefix(lines[0], "uid-nri-plugin: ") || !strings.Contains(lines[0], named) {
		t.Errorf("standard error: got %q; want one line from \"uid-nri-plugin: \" that names %q", errs, named)
	}
}

func TestExternalPluginWaitsForTheSocket(t *testing.T) {
	fixture(t)
	dir := t.TempDir()
	x := startExternal(t, "--socket", dir+"/nri.sock")
	time.Sleep(100 * time.Millisecond)
	e := listen(t, engine.Config{Dir: dir})
	connected(t, e, 1)
	select {
	case <-x.done:
		t.Error("the plugin ended")
	default:
	}
}

// relay passes a socket on to another, so that a test can cut the connection:
// the library itself does not close one when it stops.
type relay struct {
	mu    sync.Mutex
	to    string
	conns []net.Conn
}

func newRelay(t *testing.T, path, to string) *relay {
	t.Helper()
	r := &relay{to: to}
	l, err := net.Listen("unix", path)
	check(t, err)
	t.Cleanup(func() { l.Close(); r.cut() })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("unix", r.to)
			if err != nil {
				near.Close()
				continue
			}
			r.mu.Lock()
			r.conns = append(r.conns, near, far)
			r.mu.Unlock()
			for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
				go func() {
					io.Copy(pair[0], pair[1])
					pair[0].Close()
				}()
			}
		}
	}()
	return r
}

func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, conn := range r.conns {
		conn.Close()
	}
	r.conns = nil
}

func TestExternalPluginComesBack(t *testing.T) {
	fixture(t)
	e := listen(t, engine.Config{})
	path := t.TempDir() + "/relay.sock"
	r := newRelay(t, path, e.Socket())
	startExternal(t, "--socket", path)
	connected(t, e, 1)
	for i := range 3 {
		r.cut()
		connected(t, e, 2+i)
	}
}

func TestStandby(t *testing.T) {
	fixture(t)
	e := listen(t, engine.Config{})
	first := startExternal(t, "--socket", e.Socket())
	connected(t, e, 1)
	second := startExternal(t, "--socket", e.Socket())
	time.Sleep(200 * time.Millisecond)
	if n := len(e.Calls("RegisterPlugin")); n != 1 {
		t.Fatalf("the standby registered too: %d registrations", n)
	}
	wantLockOf(t, first.cmd.Process.Pid)

	first.kill()
	killed := time.Now()
	connected(t, e, 2)
	if took := time.Since(killed); took > wait.Scaled(time.Second) {
		t.Errorf("the standby took over after %v", took)
	}
	wantLockOf(t, second.cmd.Process.Pid)
}

func TestLaunchedStandby(t *testing.T) {
	fixture(t)
	outside := listen(t, engine.Config{})
	first := startExternal(t, "--socket", outside.Socket())
	connected(t, outside, 1)

	// containerd would kill a launched plugin that does not register, so it
	// does, and changes nothing.
	check(t, os.MkdirAll(podsDir+"/kept", 0o700))
	e := start(t, engine.Config{})
	wantPods(t, "kept")
	pod := engine.NewPod("standby", map[string]string{engine.AnnotationKey: "claim-uids=10001"})
	asking := func() (*api.ContainerAdjustment, error) {
		return e.CreateContainer(pod, engine.NewContainer(pod, "c", engine.User{}, nil))
	}
	_, err := asking()
	check(t, err)
	wantUntouched(t, e)
	wantLockOf(t, first.cmd.Process.Pid)

	first.kill()
	adjust, err := asking()
	wantLockOf(t, pluginPID(t, e))
	if engine.TakesNamespace {
		check(t, err)
		if engine.UserNamespace(adjust) == "" {
			t.Error("the standby holds the lock and still changes nothing")
		}
	} else if err == nil {
		t.Error("the standby holds the lock and still refuses nothing")
	}
	check(t, e.RemovePod(pod))
	left, err := node.MountsUnder(stateDir)
	check(t, err)
	if len(left) != 0 {
		t.Errorf("mounts are left: %q", left)
	}
}

func TestUsageErrors(t *testing.T) {
	fixture(t)
	for _, args := range [][]string{{"--nonsense"}, {"file"}, {"--socket"}, {"--log-level", "loud"}, {"--index", "x"}} {
		x := startExternal(t, args...)
		if code := x.ends(t); code != 2 {
			t.Errorf("%q: exit code %d, want 2", args, code)
		}
		wantOneErrorLine(t, x.errs.String(), "")
	}
	for _, option := range []string{"--help", "--version"} {
		out, err := exec.Command(plugin, option).Output()
		if err != nil || len(out) == 0 {
			t.Errorf("%s: %v, printed %d bytes", option, err, len(out))
		}
	}
}

func TestExternalPluginLogsToStandardError(t *testing.T) {
	fixture(t)
	check(t, os.RemoveAll(journalDir))
	e := listen(t, engine.Config{})
	x := startExternal(t, "--socket", e.Socket())
	connected(t, e, 1)
	x.kill()
	lines := strings.Split(x.errs.String(), "\n")
	if !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, fmt.Sprint(node.IDs)) }) {
		t.Errorf("no line tells the node's ids: %q", lines)
	}
}
