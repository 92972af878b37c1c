package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"uid-nri-plugin/tests/node"
	"uid-nri-plugin/tests/rule"
	"uid-nri-plugin/tests/wait"
)

// The programs, as a node has them.
const (
	plugin  = node.BinDir + "/uid-nri-plugin"
	caller  = node.BinDir + "/caller"
	program = node.BinDir + "/go-program" // this program, for what Go itself does
	i386    = node.BinDir + "/i386"
	older   = node.BinDir + "/older"
)

// programs are the same outside of the nodes.
var programs []string

func TestMain(m *testing.M) {
	goProgram()
	node.Main()
	if node.Inside() {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "supervise-")
	if err == nil {
		programs, err = buildPrograms(dir)
	}
	code := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

func buildPrograms(dir string) ([]string, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("run as root: user namespaces of ids that only root may map are to be made")
	}
	binary := os.Getenv("UID_NRI_PLUGIN")
	if binary == "" {
		return nil, errors.New("UID_NRI_PLUGIN is not set: it must name the program to test")
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	build := []string{"sh", "c/build.sh", dir}
	if built := os.Getenv("SUPERVISE_PROGRAMS"); built != "" { // where there is no compiler (tests/vm.sh)
		build = []string{"cp", "-r", built + "/.", dir}
	}
	for _, args := range [][]string{
		build,
		{"cp", binary, filepath.Join(dir, filepath.Base(plugin))},
		{"cp", self, filepath.Join(dir, filepath.Base(program))},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return filepath.Glob(dir + "/*")
}

// inNode runs the body of a top-level test in a fresh node: outside, it starts this program again for that test alone.
func inNode(t *testing.T, body func(t *testing.T)) {
	t.Helper()
	if node.Inside() {
		body(t)
		noneStopped(t)
		return
	}
	args := []string{"-test.run=^" + regexp.QuoteMeta(t.Name()) + "$", "-test.v", fmt.Sprint("-test.timeout=", 2*allowed()+wait.Scaled(time.Minute))}
	// A part of a test that was asked for is asked for there.
	for _, arg := range os.Args[1:] {
		if pattern, found := strings.CutPrefix(arg, "-test.run="); found && strings.Contains(pattern, "/") {
			_, part, _ := strings.Cut(pattern, "/")
			args[0] += "/" + part
		}
	}
	cmd := node.Command(programs, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	} else if !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Errorf("the test did not run in its node:\n%s", out)
	} else {
		t.Logf("%s", out)
	}
}

// outcome of a program.
type outcome struct {
	out    string // stdout and stderr
	code   int    // 128 + n if a signal ended it
	within time.Duration
}

// allowed is for one program of a test, however slow the machine.
func allowed() time.Duration {
	if long() {
		return 15 * time.Minute
	}
	return wait.Scaled(15*time.Second) + raceTime()
}

// run runs a program to its end. One that does not end fails the test, and what it waits for is told.
func run(t *testing.T, argv ...string) outcome {
	t.Helper()
	return runIn(t, "/run/tmp", argv...)
}

func runIn(t *testing.T, dir string, argv ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 100 * time.Millisecond
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	stuck := time.AfterFunc(allowed(), func() {
		t.Errorf("%q still runs after %v:\n%s", argv, allowed(), processes())
		unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		cancel()
	})
	err := cmd.Run()
	stuck.Stop()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		t.Fatalf("%q: %v", argv, err)
	}
	return outcome{out.String(), exitCode(cmd.ProcessState), time.Since(start)}
}

func exitCode(state *os.ProcessState) int {
	if status := state.Sys().(syscall.WaitStatus); status.Signaled() {
		return 128 + int(status.Signal())
	}
	return state.ExitCode()
}

// supervised is the command line for a program under supervision, on the kernel that SUPERVISE_KERNEL names.
func supervised(argv ...string) []string {
	return onKernel(os.Getenv("SUPERVISE_KERNEL"), append([]string{plugin, "supervise", "--log-level", "error", "--"}, argv...)...)
}

// onKernel is the command line for a program on another kernel than this one (c/older.c); "" is this one.
func onKernel(kernel string, argv ...string) []string {
	if kernel == "" {
		return argv
	}
	return append([]string{older, kernel}, argv...)
}

// fine runs one of the caller's programs without and with supervision. The first run places the ids itself: it shows
// that nothing but the folding is in question.
func fine(t *testing.T, prepare func(), argv ...string) {
	t.Helper()
	for _, command := range [][]string{append([]string{caller, "-p"}, argv...), supervised(append([]string{caller}, argv...)...)} {
		prepare()
		o := run(t, command...)
		if o.code != 0 || !strings.Contains(o.out, "fine\n") {
			t.Errorf("%q: status %d\n%s%s", command, o.code, o.out, processes())
		}
		t.Logf("%q: %v", command, o.within)
	}
}

// place is where the node has an id; 1<<32-1 is none.
func place(id uint32) uint32 { return rule.Place(node.IDs, id, 1<<32-1) }

// task is a thread of the node.
type task struct {
	pid, tid int
	state    byte
	comm     string
}

func tasks() []task {
	var all []task
	paths, _ := filepath.Glob("/proc/[0-9]*/task/[0-9]*/stat")
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // gone
		}
		var k task
		fmt.Sscanf(path, "/proc/%d/task/%d/stat", &k.pid, &k.tid)
		open, close := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
		if open < 0 || close < 0 || close+2 >= len(text) {
			continue
		}
		k.comm, k.state = string(text[open+1:close]), text[close+2]
		all = append(all, k)
	}
	return all
}

// processes tells what all threads of the node do, for a failure's message.
func processes() string {
	var b strings.Builder
	for _, k := range tasks() {
		call, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/syscall", k.pid, k.tid))
		wait, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/wchan", k.pid, k.tid))
		fmt.Fprintf(&b, "%d/%d %s %c %s %s\n", k.pid, k.tid, k.comm, k.state, wait, bytes.TrimSpace(call))
	}
	return b.String()
}

// noneStopped fails the test if a thread of the node is left stopped or traced.
func noneStopped(t *testing.T) {
	t.Helper()
	eventually(t, "no thread is stopped", func() error {
		for _, k := range tasks() {
			if k.state == 'T' || k.state == 't' {
				return fmt.Errorf("%d/%d %s is in state %c", k.pid, k.tid, k.comm, k.state)
			}
		}
		return nil
	})
}

// eventually waits up to five seconds for something to be so, or longer on a slow machine.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	if err := wait.For(5*time.Second, what, try); err != nil {
		t.Error(err)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// long tells whether the long mode is asked for.
func long() bool { return os.Getenv("SUPERVISE_LONG") == "1" }

// raceTime is how long each race is run: SUPERVISE_RACE_SECONDS, or 3, or 60 in the long mode.
func raceTime() time.Duration {
	seconds, err := strconv.Atoi(os.Getenv("SUPERVISE_RACE_SECONDS"))
	switch {
	case err == nil:
	case long():
		seconds = 60
	default:
		seconds = 3
	}
	return time.Duration(seconds) * time.Second
}
