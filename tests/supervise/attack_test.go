package supervise

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"uid-nri-plugin/tests/wait"
)

// A call that is made again is in its thread's own hands: whoever shares its memory can put another one in its place, or
// none. Nothing is done to a thread in any call but its own, and none is held for longer than it takes to see that.
func TestReplacedCall(t *testing.T) {
	inNode(t, func(t *testing.T) {
		text, err := os.ReadFile(caller)
		check(t, err)
		prepare := func() {
			freshStage(t)
			file("roots", 0o644, 0, 0)
			check(t, os.WriteFile(stage+"/victim", text, 0o755))
			own(stage+"/victim", 0o4755, 0, 0)
			check(t, os.Chdir(stage))
		}
		for _, kind := range []string{"exec", "clone", "pause", "loop", "stop"} {
			rounds := map[string]int{"exec": 150, "clone": 150, "pause": 24, "loop": 4, "stop": 24}[kind]
			if long() && rounds == 150 {
				rounds = 4000
			}
			t.Run(kind, func(t *testing.T) {
				defer os.Chdir("/run/tmp")
				for _, command := range [][]string{{caller, "-p"}, supervised(caller)} {
					prepare()
					o := runIn(t, stage, append(command, "@swap", kind, fmt.Sprint(rounds), stage+"/victim")...)
					if o.code != 0 || o.out != "fine\n" {
						t.Errorf("%q: status %d\n%s", command, o.code, o.out)
					}
					t.Logf("%q %s: %v", command, kind, o.within)
				}
			})
		}
	})
}

// Threads that never come to their calls, more than may be on their way at once, while others of the same container call
// without end: the ones are let go all the same, and there is time for everybody.
func TestReplacedCallsInACrowd(t *testing.T) {
	inNode(t, func(t *testing.T) {
		freshStage(t)
		file("roots", 0o644, 0, 0)
		file("crowd", 0o644, 0, 0)
		script := fmt.Sprintf(`%s @crowd 50 mapped crowd >/dev/null & crowd=$!; %[1]s @swap loop 20 victim; code=$?; kill -9 $crowd; exit $code`, caller)
		o := runIn(t, stage, supervised("sh", "-c", script)...)
		if o.code != 0 || !strings.HasSuffix(o.out, "fine\n") {
			t.Errorf("status %d\n%s", o.code, o.out)
		}
	})
}

// waitingIn are the threads of the supervisor that are in this system call, and for how long that was so at least.
func waitingIn(call int) map[int]bool {
	found := map[int]bool{}
	for _, pid := range helpers() {
		for _, k := range tasks() {
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/syscall", k.pid, k.tid))
			if k.pid == pid && strings.HasPrefix(string(text), fmt.Sprint(call, " ")) {
				found[k.tid] = true
			}
		}
	}
	return found
}

// A process that is about to execute a program, and cannot because a dead thread of its own is not reaped, cannot be
// traced either. Nobody waits for that.
func TestUnreapedThread(t *testing.T) {
	inNode(t, func(t *testing.T) {
		freshStage(t)
		file("f", 0o644, 0, 0)
		s := newSession(t)
		chowns := caller + " @chowns 20 " + stage + "/f"
		// A container: what is in one mount namespace. Another program of it is told when to begin.
		mine := caller + " 'become 1000 1000 1000' 'setuid #65532' >/run/tmp/same 2>&1"
		check(t, unix.Mkfifo("/run/tmp/begin", 0o600))
		s.do(t, fmt.Sprintf("unshare -m sh -c 'for i in 1 2 3 4; do %s @unreaped 30 >/run/tmp/attacker$i 2>&1 & done; read go </run/tmp/begin; exec sh /run/tmp/mine' >/dev/null 2>&1 &", caller))
		check(t, os.WriteFile("/run/tmp/mine", []byte(mine), 0o755))
		eventually(t, "the attack has begun", func() error {
			for i := range 4 {
				text, err := os.ReadFile(fmt.Sprintf("/run/tmp/attacker%d", i+1))
				if string(text) != "unreaped\n" {
					return fmt.Errorf("%q, %v", text, err)
				}
			}
			return nil
		})
		if took := longest(t, s.do(t, "unshare -m "+chowns)); took > wait.Scaled(time.Second) {
			t.Errorf("another container's call took %v", took)
		}
		// In the attacker's own container it may take a moment.
		check(t, os.WriteFile("/run/tmp/begin", []byte("go\n"), 0))
		for end := time.Now().Add(allowed()); ; time.Sleep(10 * time.Millisecond) {
			if text, _ := os.ReadFile("/run/tmp/same"); string(text) == "setuid = EPERM\n" {
				break
			} else if time.Now().After(end) {
				t.Fatalf("a call in the attacker's container: %q\n%s", text, processes())
			}
		}
		eventually(t, "nobody is stuck in ptrace", func() error {
			first := waitingIn(unix.SYS_PTRACE)
			time.Sleep(100 * time.Millisecond)
			for tid := range waitingIn(unix.SYS_PTRACE) {
				if first[tid] {
					return fmt.Errorf("thread %d", tid)
				}
			}
			return nil
		})
	})
}

// A file system that only its mounter may use, and that leaves all checks to the kernel, is asked nothing for others.
func TestPrivateFileSystem(t *testing.T) {
	inNode(t, func(t *testing.T) {
		for _, command := range [][]string{{caller, "-p"}, supervised(caller)} {
			freshStage(t)
			folder("private", 0o755, 0, 0)
			server := background(t, "mounted", caller, "@private", stage+"/private")
			try := func(want string, asked bool, steps ...string) {
				t.Helper()
				o := runIn(t, stage, append(command, steps...)...)
				if answers(o.out) != want {
					t.Errorf("%q: answers %q, want %q", command, answers(o.out), want)
				}
				if _, err := os.Stat(stage + "/private.asked"); (err == nil) != asked {
					t.Errorf("%q: the file system was asked: %v, want %v", command, err == nil, asked)
				}
			}
			ids := " #65532 #65532"
			try("EACCES EACCES EACCES", false, "open 9 p private", "become 1000 1000 1000", "chown s:private"+ids, "lchown s:private"+ids, "fchownat 9 s:"+ids+" 0x1000")
			try("0", true, "chown s:private"+ids)
			server.Process.Kill()
			server.Wait()
		}
	})
}

// A process that shares another one's memory need not be a thread of it.
func TestSharedMemory(t *testing.T) {
	inNode(t, func(t *testing.T) { fine(t, func() {}, "@sharers") })
}

// What is about the caller itself is not about whoever folds, and errors come in the kernel's order.
func TestCallersOwn(t *testing.T) {
	ids := " #65532 #65532"
	lay := func() { file("f", 0o644, 0, 0) }
	play(t, []scene{
		{name: "the link of a descriptor itself", lay: lay, steps: []string{"open 55 r f", "lchown s:/proc/self/fd/55" + ids, "lchown s:/proc/self/fd/56" + ids, "lchown s:/proc/thread-self/fd/55" + ids, "owner f"}, want: "0 ENOENT 0"},
		{name: "a descriptor when the first thread is gone", lay: lay, steps: []string{"open 55 r f", "orphan", "chown s:/proc/self/fd/55" + ids, "chown s:/proc/thread-self/fd/55" + ids, "owner f"}, want: "ENOENT 0"},
		{name: "no group before the end of memory", steps: []string{"setgroups 3 m:#65532,0xffffffff", "setgroups 3 m:#65532,7", "setgroups 2 m:#65532,7", "status"}, want: "EINVAL EFAULT 0"},
	})
}

// told is what the supervisor says while a shell's command line runs.
func told(t *testing.T, line string) string {
	t.Helper()
	const log = "/run/tmp/told"
	os.Remove(log)
	o := run(t, "sh", "-c", "exec "+plugin+" supervise -- sh -c '"+line+"' 2>"+log)
	if o.code != 0 {
		t.Errorf("status %d: %s", o.code, o.out)
	}
	text, err := os.ReadFile(log)
	check(t, err)
	return string(text)
}

// The log tells what was done, and of each container.
func TestToldOfEach(t *testing.T) {
	inNode(t, func(t *testing.T) {
		freshStage(t)
		file("f", 0o644, 0, 0)
		chown := caller + ` "become 1000 1000 1000" "caps %s" "chown s:` + stage + `/f #70001 -1" "setuid #70002"`
		if text := told(t, fmt.Sprintf(chown, "none")); strings.Contains(text, "7000") {
			t.Errorf("told of calls that the kernel refused:\n%s", text)
		}
		const want = "uid 70001 is folded to "
		if text := told(t, fmt.Sprintf(chown, "chown")); !strings.Contains(text, want) {
			t.Errorf("not told of a call that was made:\n%s", text)
		}
		// Both at once: the number of a mount namespace may be used again.
		many := fmt.Sprintf("unshare -m sh -c \"%s @chowns 1200 %s/f; touch /run/tmp/told-many; sleep 1\" & until [ -e /run/tmp/told-many ]; do sleep 0.01; done", caller, stage)
		if text := told(t, many+"; unshare -m "+fmt.Sprintf(chown, "chown")); !strings.Contains(text, want) {
			t.Errorf("not told of a container after another one's many ids; %d lines", strings.Count(text, "\n"))
		}
	})
}

// A pod that sees the node's processes (hostPID) gets into none of those who fold, though they are its own user's.
func TestIntruder(t *testing.T) {
	inNode(t, func(t *testing.T) {
		s := newSession(t)
		s.do(t, "unshare -m "+caller+" 'chown s:/run/tmp #65532 -1'")
		var pids []string
		for _, comm := range []string{"uid-keeper", "uid-supervise", "uid-fold"} {
			found := named(comm)
			if len(found) != 1 {
				t.Fatalf("%s: %v", comm, found)
			}
			pids = append(pids, fmt.Sprint(found[0]))
		}
		for capabilities, want := range map[string]string{"usual": "EACCES EPERM EPERM EACCES EPERM ", "all": "0 EFAULT 0 0 0 "} {
			o := run(t, append([]string{caller, "@intruder", capabilities}, pids...)...)
			if got := answers(o.out) + " "; got != strings.Repeat(want, len(pids)) {
				t.Errorf("with %s capabilities:\n%s", capabilities, o.out)
			}
		}
		if o := s.do(t, "unshare -m "+caller+" 'chown s:/run/tmp #65532 -1'"); answers(o.out) != "0" {
			t.Errorf("a call afterwards: %s", o.out)
		}
	})
}

// What is known and not closed: root of the node's namespace may join a pinned one by its file, whatever its
// capabilities, and has all there, which are none over the node's own.
func TestJoinPinned(t *testing.T) {
	inNode(t, func(t *testing.T) {
		freshStage(t)
		o := runIn(t, stage, supervised(caller, "helper", "userns 0:0:2044,65532:2044:1,2045:2045:3", "pin x", "join x", "unpin x")...)
		if want := "setns = 0\ncapabilities there: all\nmount = EPERM\n"; o.code != 0 || o.out != want {
			t.Errorf("status %d\n%swant\n%s", o.code, o.out, want)
		}
	})
}

// A container that makes more mount namespaces than there can be workers is served, and keeps nobody else from it.
func TestManyNamespaces(t *testing.T) {
	inNode(t, func(t *testing.T) {
		freshStage(t)
		file("f", 0o644, 0, 0)
		s := newSession(t)
		n := 400
		if long() {
			n = 4000
		}
		s.do(t, fmt.Sprintf("%s @namespaces %d %s/f >/run/tmp/namespaces 2>&1 &", caller, n, stage))
		for range 3 {
			if took := longest(t, s.do(t, "unshare -m "+caller+" @chowns 20 "+stage+"/f")); took > wait.Scaled(2*time.Second) {
				t.Errorf("another container's call took %v", took)
			}
		}
		for end := time.Now().Add(allowed()); ; time.Sleep(10 * time.Millisecond) {
			text, _ := os.ReadFile("/run/tmp/namespaces")
			if string(text) == "fine\n" {
				break
			}
			if len(text) > 0 || time.Now().After(end) {
				t.Fatalf("in the namespaces: %q", text)
			}
		}
		if workers := len(named("uid-fold")); workers > 512 {
			t.Errorf("%d workers", workers)
		}
		if took := longest(t, s.do(t, "unshare -m "+caller+" @chowns 20 "+stage+"/f")); took > wait.Scaled(2*time.Second) {
			t.Errorf("another container's call took %v", took)
		}
	})
}
