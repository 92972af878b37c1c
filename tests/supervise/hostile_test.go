package supervise

import (
	"bufio"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"uid-nri-plugin/tests/wait"
)

func TestSignals(t *testing.T) {
	inNode(t, func(t *testing.T) {
		for _, mode := range []string{"restart", "plain"} {
			fine(t, func() { freshStage(t) }, "@signals", mode, stage, "10000", "300")
		}
	})
}

func TestStopped(t *testing.T) {
	inNode(t, func(t *testing.T) {
		fine(t, func() { freshStage(t); file("f", 0o644, 0, 0) }, "@stop", "150", stage+"/f")
	})
}

func TestVanishing(t *testing.T) {
	inNode(t, func(t *testing.T) {
		rounds := "120"
		if long() {
			rounds = "2000"
		}
		fine(t, func() {}, "@vanish", rounds)
	})
}

func TestReusedPid(t *testing.T) {
	inNode(t, func(t *testing.T) {
		rounds := "300"
		if long() {
			rounds = "10000"
		}
		fine(t, func() { freshStage(t); file("roots", 0o644, 0, 0) }, "@reuse", rounds, stage+"/roots")
	})
}

// A set-id call of a traced thread cannot be made again with other ids; what needs none of it goes on.
func TestTraced(t *testing.T) {
	inNode(t, func(t *testing.T) {
		for _, mode := range []string{"cont", "calls"} {
			freshStage(t)
			file("f", 0o644, 0, 0)
			want := "setresuid = EINVAL\nsetgroups = EINVAL\nchown = 0\nsetgroups of mapped = 0\nsetresuid of mapped = 0\n"
			if o := run(t, supervised(caller, "@traced", mode, stage+"/f")...); o.code != 0 || o.out != want {
				t.Errorf("%s: status %d\n%swant:\n%s", mode, o.code, o.out, want)
			}
			if files := tree(t); !strings.Contains(files, "f 100644 1556:1556") {
				t.Errorf("the traced caller's chown:\n%s", files)
			}
		}
	})
}

// helpers are the processes of the supervisor, itself among them: those that run its program.
func helpers() []int {
	var pids []int
	paths, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, path := range paths {
		if exe, err := os.Readlink(path); err == nil && strings.TrimSuffix(exe, " (deleted)") == plugin {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// named are the supervisor's processes of this name: uid-keeper, uid-supervise (the receiver), uid-fold (a worker).
func named(comm string) []int {
	var pids []int
	for _, pid := range helpers() {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if strings.TrimSpace(string(text)) == comm {
			pids = append(pids, pid)
		}
	}
	return pids
}

// storm starts callers of all kinds under supervision; end is what they say in the end.
func storm(t *testing.T, args ...string) (cmd *exec.Cmd, end func() (done, refused, wrong int)) {
	t.Helper()
	freshStage(t)
	file("f", 0o644, 0, 0)
	// node says what goes wrong even to a pipe.
	argv := append([]string{plugin, "node", "--no-plugin", "--log-level", "error", "--", caller, "@storm", stage + "/f"}, args...)
	cmd = exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	out := bufio.NewReader(pipe)
	if line, err := out.ReadString('\n'); line != "ready\n" {
		t.Fatalf("no start: %q, %v", line, err)
	}
	return cmd, func() (done, refused, wrong int) {
		t.Helper()
		stuck := time.AfterFunc(allowed(), func() {
			t.Errorf("callers did not end:\n%s", processes())
			for _, k := range tasks() {
				if k.comm == "caller" {
					unix.Kill(k.pid, unix.SIGKILL)
				}
			}
		})
		rest, _ := io.ReadAll(out)
		cmd.Wait()
		stuck.Stop()
		text := string(rest)
		last := text[strings.LastIndexByte(strings.TrimSpace(text), '\n')+1:]
		if n, _ := fmt.Sscanf(last, "folded %d, refused %d, wrong %d", &done, &refused, &wrong); n != 3 {
			t.Errorf("the callers said %q", text)
		}
		if wrong != 0 {
			t.Error(text)
		}
		return done, refused, wrong
	}
}

// Any one process of the supervisor dies, at any moment, a hundred times: another one takes its place and what it had in
// hand. No call fails, and none is left waiting.
func TestKilledServer(t *testing.T) {
	inNode(t, func(t *testing.T) {
		kills := 100
		if long() {
			kills = 2000
		}
		random := rand.New(rand.NewSource(7))
		cmd, end := storm(t, "asked")
		killed, last := map[string]int{}, 0
		for round := range kills {
			time.Sleep(time.Duration(random.Intn(40000)) * time.Microsecond)
			comm := []string{"uid-supervise", "uid-keeper", "uid-fold"}[round%3]
			// The one that died last has been replaced: only the end of keeper and receiver at once is the end.
			eventually(t, "keeper and receiver run", func() error {
				if last != 0 && unix.Kill(last, 0) == nil {
					return fmt.Errorf("process %d is not yet gone", last)
				}
				if keepers, receivers := named("uid-keeper"), named("uid-supervise"); len(keepers) != 1 || len(receivers) != 1 {
					return fmt.Errorf("keepers %v, receivers %v", keepers, receivers)
				}
				return nil
			})
			if t.Failed() {
				break
			}
			if victims := named(comm); len(victims) > 0 {
				last = victims[random.Intn(len(victims))]
				if unix.Kill(last, unix.SIGKILL) == nil {
					killed[comm]++
				}
			}
		}
		check(t, cmd.Process.Signal(unix.SIGTERM))
		done, refused, _ := end()
		if refused != 0 || done < 1000 {
			t.Errorf("%d calls folded, %d refused", done, refused)
		}
		if killed["uid-supervise"] < kills/4 || killed["uid-keeper"] < kills/4 || killed["uid-fold"] < kills/8 {
			t.Errorf("killed %v only", killed)
		}
		noneStopped(t)
		eventually(t, "the end of those who serve", func() error {
			if left := helpers(); len(left) != 0 {
				return fmt.Errorf("left: %v", left)
			}
			return nil
		})
		t.Logf("%d calls folded while %v were killed", done, killed)
	})
}

// All of the supervisor's processes die at once: no caller waits for ever or is left stopped; each gets what it asked for,
// or ENOSYS.
func TestKilledSupervisor(t *testing.T) {
	inNode(t, func(t *testing.T) {
		rounds := 30
		if long() {
			rounds = 1000
		}
		random := rand.New(rand.NewSource(1))
		folded := 0
		for range rounds {
			_, end := storm(t)
			time.Sleep(time.Duration(random.Intn(30000)) * time.Microsecond)
			for len(helpers()) > 0 {
				for _, pid := range helpers() {
					unix.Kill(pid, unix.SIGKILL)
				}
			}
			done, refused, _ := end()
			if folded += done; refused == 0 {
				t.Error("no call was refused")
			}
			noneStopped(t)
			if t.Failed() {
				t.FailNow()
			}
		}
		if folded < rounds*20 {
			t.Errorf("%d calls in %d rounds: too few to have been hit", folded, rounds)
		}
	})
}

// background starts a program and waits for a line of it.
func background(t *testing.T, ready string, argv ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Stderr = "/run/tmp", os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	t.Cleanup(func() {
		unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		cmd.Process.Kill()
		cmd.Wait()
	})
	if line, err := bufio.NewReader(pipe).ReadString('\n'); line != ready+"\n" {
		t.Fatalf("%q: got %q, %v; want %q", argv, line, err, ready)
	}
	return cmd
}

// longest is what a caller's hundred calls took at most.
func longest(t *testing.T, o outcome) time.Duration {
	t.Helper()
	var us int
	if n, _ := fmt.Sscanf(o.out, "longest %d\n", &us); n != 1 || o.code != 0 {
		t.Errorf("status %d: %s", o.code, o.out)
	}
	return time.Duration(us) * time.Microsecond
}

// session is a shell under supervision that starts callers beside each other, as one containerd does.
type session struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func newSession(t *testing.T) *session {
	t.Helper()
	argv := supervised("/bin/sh")
	s := &session{cmd: exec.Command(argv[0], argv[1:]...)}
	s.cmd.Dir, s.cmd.Stderr = "/run/tmp", os.Stderr
	var err error
	s.in, err = s.cmd.StdinPipe()
	check(t, err)
	out, err := s.cmd.StdoutPipe()
	check(t, err)
	s.out = bufio.NewReader(out)
	check(t, s.cmd.Start())
	t.Cleanup(func() {
		s.in.Close()
		// Each that is left starts another one; those that hang in a file system end with it.
		for range 20 {
			for _, pid := range helpers() {
				unix.Kill(pid, unix.SIGKILL)
			}
			time.Sleep(5 * time.Millisecond)
		}
		// One that is stuck in a file system ends only after its server, with the node.
		go s.cmd.Wait()
	})
	return s
}

// do runs a command line in it and returns its output.
func (s *session) do(t *testing.T, line string) outcome {
	t.Helper()
	start := time.Now()
	stuck := time.AfterFunc(allowed(), func() {
		t.Errorf("%s: no end after %v:\n%s", line, allowed(), processes())
		for _, pid := range helpers() {
			unix.Kill(pid, unix.SIGKILL)
		}
		s.cmd.Process.Kill()
	})
	defer stuck.Stop()
	fmt.Fprintf(s.in, "%s\necho end-of-it $?\n", line)
	var o outcome
	for {
		text, err := s.out.ReadString('\n')
		if code, found := strings.CutPrefix(text, "end-of-it "); found {
			o.code, _ = strconv.Atoi(strings.TrimSpace(code))
			o.within = time.Since(start)
			return o
		}
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		o.out += text
	}
}

// callers are the caller processes with this in their command line.
func callers(mark string) []int {
	var pids []int
	for _, k := range tasks() {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", k.pid))
		if k.pid == k.tid && k.comm == "caller" && strings.Contains(string(text), mark) {
			pids = append(pids, k.pid)
		}
	}
	return pids
}

// hanging is how many callers with this in their command line wait for the answer to a call.
func hanging(mark string) int {
	n := 0
	for _, pid := range callers(mark) {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
		if strings.HasPrefix(string(text), fmt.Sprint(chownNumber, " ")) {
			n++
		}
	}
	return n
}

// A file system that never answers holds up those who ask it, in any number, and nobody else.
func TestStuckFileSystem(t *testing.T) {
	inNode(t, func(t *testing.T) {
		freshStage(t)
		folder("stuck", 0o755, 0, 0)
		file("f", 0o644, 0, 0)
		server := background(t, "mounted", caller, "@fuse", stage+"/stuck")
		s := newSession(t)
		chowns := caller + " @chowns 100 " + stage + "/f"
		t.Logf("longest call before: %v", longest(t, s.do(t, chowns)))

		// Containers: a mount namespace each. 40 stuck callers in one, and 80 with one each, in LOOKUP and in SETATTR.
		const waiting = 120
		mark := "chown s:" + stage + "/stuck"
		s.do(t, fmt.Sprintf("for i in $(seq 40); do for at in stuck stuck/f; do %s 'unshare mount' \"chown s:%s/$at #65532 #65532\" >/dev/null 2>&1 & done; done", caller, stage))
		s.do(t, fmt.Sprintf("( exec unshare -m sh -c 'for i in $(seq 40); do %s \"%s/f #65532 #65532\" & done; wait' >/dev/null 2>&1 ) &", caller, mark))
		eventually(t, "the callers wait", func() error {
			if n := len(callers(mark)); n != waiting {
				return fmt.Errorf("%d callers of %d", n, waiting)
			}
			return nil
		})
		time.Sleep(200 * time.Millisecond)
		for range 3 {
			if took := longest(t, s.do(t, chowns)); took > wait.Scaled(time.Second) {
				t.Errorf("a call of the node waited %v for another's file system", took)
			}
			if took := longest(t, s.do(t, "unshare -m "+chowns)); took > wait.Scaled(time.Second) {
				t.Errorf("a call of another container waited %v for another's file system", took)
			}
		}
		if o := s.do(t, caller+" 'setresuid #65532 #65532 #65532'"); o.code != 0 || answers(o.out) != "0" || o.within > wait.Scaled(2*time.Second) {
			t.Errorf("a set-id call took %v: %s", o.within, o.out)
		}
		if n := len(callers(mark)); n != waiting {
			t.Errorf("%d callers wait, not %d", n, waiting)
		}
		// They wait in calls of their own, as they would without supervision: those that the file system has heard of cannot
		// even be killed.
		// When the file system goes, all goes on.
		server.Process.Kill()
		eventually(t, "the end of those who waited", func() error {
			if left := callers(mark); len(left) != 0 {
				return fmt.Errorf("%d are left:\n%s", len(left), processes())
			}
			return nil
		})
		for range 3 {
			if took := longest(t, s.do(t, chowns)); took > wait.Scaled(time.Second) {
				t.Errorf("a call after the end of the file system took %v", took)
			}
		}
		if o := s.do(t, fmt.Sprintf("%s 'chown s:%s/stuck/f #65532 #65532'", caller, stage)); o.code != 0 || answers(o.out) != "ENOTCONN" {
			t.Errorf("on a file system that is gone: %s", o.out)
		}
	})
}

// Calls that hang one after the other, while of the supervisor's threads that stand by some sleep and one does not: each
// of them has to take over in its turn.
func TestStuckInTurn(t *testing.T) {
	inNode(t, func(t *testing.T) {
		// How long the thread that was at the late call, and stands by again, has been awake when the first call hangs:
		// it sleeps after 50 ms. The others sleep since that call began.
		for _, awake := range []int{5, 10, 15, 20, 25, 30, 35} {
			t.Run(fmt.Sprintf("%d ms", awake), func(t *testing.T) {
				freshStage(t)
				folder("stuck", 0o755, 0, 0)
				file("f", 0o644, 0, 0)
				background(t, "mounted", caller, "@fuse", stage+"/stuck")
				s := newSession(t)
				late, others := "/run/tmp/late", "/run/tmp/others"
				os.Remove(late)
				os.Remove(others)
				hang := fmt.Sprintf("'chown s:%s/stuck/f #65532 #65532'", stage)
				// waiting waits until this many calls hang, and the leader has had time to be relieved.
				waiting := func(n int) {
					eventually(t, "calls hang", func() error {
						if got := hanging("stuck/f"); got != n {
							return fmt.Errorf("%d of %d", got, n)
						}
						return nil
					})
					time.Sleep(50 * time.Millisecond)
				}
				s.do(t, fmt.Sprintf("%s 'chown s:%s/stuck/late #65532 #65532' 'sleep-ms %d' %s >%s 2>&1 &", caller, stage, awake, hang, late))
				eventually(t, "the late call's end", func() error {
					if text, err := os.ReadFile(late); string(text) != "chown = ENOENT\n" {
						return fmt.Errorf("%q, %v", text, err)
					}
					return nil
				})
				waiting(1)
				s.do(t, fmt.Sprintf("%s %s >/dev/null 2>&1 &", caller, hang))
				waiting(2)
				// Beside the shell, which must not wait for an end that does not come.
				s.do(t, fmt.Sprintf("unshare -m %s @chowns 100 %s/f >%s 2>&1 &", caller, stage, others))
				var o outcome
				eventually(t, "calls of another container are answered", func() error {
					text, err := os.ReadFile(others)
					if o.out = string(text); !strings.HasSuffix(o.out, "\n") {
						return fmt.Errorf("%q, %v", o.out, err)
					}
					return nil
				})
				if t.Failed() {
					t.Fatal(processes())
				}
				if took := longest(t, o); took > wait.Scaled(time.Second) {
					t.Errorf("a call of another container waited %v for another's file system", took)
				}
			})
			if t.Failed() {
				break // the others would only take long
			}
		}
	})
}

// As much as one container may ask, another's few calls are served.
func TestFlood(t *testing.T) {
	inNode(t, func(t *testing.T) {
		freshStage(t)
		file("f", 0o644, 0, 0)
		s := newSession(t)
		chowns := "unshare -m " + caller + " @chowns 100 " + stage + "/f"
		alone := s.do(t, chowns)
		t.Logf("alone: %v, longest call %v", alone.within, longest(t, alone))
		s.do(t, caller+" @flood 100 >/dev/null & sleep 1")
		for range 3 {
			o := s.do(t, chowns)
			t.Logf("in a flood: %v, longest call %v", o.within, longest(t, o))
			// A hundred busy threads share the processors with it; a queue of their calls would take far longer.
			if o.within > wait.Scaled(5*time.Second) || longest(t, o) > wait.Scaled(time.Second) {
				t.Errorf("100 calls took %v in a flood, the longest %v", o.within, longest(t, o))
			}
		}
		// In the flood's own mount namespace the caller is one of them, but gets its turn.
		s.do(t, "kill -9 $!; wait $! 2>/dev/null")
		if took := longest(t, s.do(t, chowns)); took > wait.Scaled(time.Second) {
			t.Errorf("a call after the flood took %v", took)
		}
	})
}

// A node lives for months: calls of all kinds leave no descriptors, threads or children behind.
func TestNothingLeaks(t *testing.T) {
	inNode(t, func(t *testing.T) {
		freshStage(t)
		layFile()
		s := newSession(t)
		const ids = " #65532 #12345'"
		calls := caller + " 'chdir " + stage + "' 'open 9 r f' 'open 8 p f'"
		for _, step := range []string{"chown s:f", "chown s:l", "lchown s:l", "chown s:none", "chown bad", "fchown 9", "fchown 8", "fchown 55", "fchownat 9 s:", "fchownat 55 s:f", "chown s:/proc/self/fd/9", "chown s:/proc/self/fd/55", "chown s:/dev/fd/9", "chown s:f/x"} {
			calls += " '" + step + ids
		}
		calls += " 'chown s:/proc/self/cwd/f" + ids + " 'fork' 'setgroups 3 g:#65532,5,#12345' 'setgroups 9 bad' 'setresgid #65532 #12345 5' 'setresuid #65532 #65532 #65532' 'setuid #50000' 'chown s:f" + ids
		count := func() (fds, threads int) {
			for _, pid := range helpers() {
				entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
				fds += len(entries)
			}
			for _, k := range tasks() {
				if slices.Contains(helpers(), k.pid) {
					threads++
				}
			}
			return fds, threads
		}
		round := func(n int) {
			if o := s.do(t, fmt.Sprintf("for i in $(seq %d); do %s >/dev/null & %s; wait; done", n, calls, calls)); o.code != 0 {
				t.Fatalf("status %d: %s", o.code, o.out)
			}
		}
		round(20)
		fds, threads := count()
		round(150)
		fdsLater, threadsLater := count()
		t.Logf("descriptors %d, later %d; threads %d, later %d", fds, fdsLater, threads, threadsLater)
		// Threads that were not needed at first come with some descriptors each.
		if fdsLater > fds+20 || threadsLater > threads+4 {
			t.Errorf("after 150 rounds of 20 calls: descriptors %d, before %d; threads %d, before %d", fdsLater, fds, threadsLater, threads)
		}
	})
}
