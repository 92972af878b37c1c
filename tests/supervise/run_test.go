package supervise

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestExitStatus(t *testing.T) {
	inNode(t, func(t *testing.T) {
		check(t, os.WriteFile("/run/tmp/not-a-program", []byte("text"), 0o644))
		for _, c := range []struct {
			argv []string
			code int
		}{
			{supervised("true"), 0},
			{supervised("sh", "-c", "exit 7"), 7},
			{supervised("sh", "-c", "kill -TERM $$"), 128 + 15},
			{supervised("sh", "-c", "kill -KILL $$"), 128 + 9},
			{supervised("sh", "-c", "kill -SEGV $$"), 128 + 11},
			{supervised("no-such-program"), 127},
			{supervised("/run/tmp/none"), 127},
			{supervised("/run/tmp/not-a-program"), 126},
			{supervised("/run/tmp"), 126},
			{[]string{plugin, "supervise"}, 2},
			{[]string{plugin, "supervise", "--"}, 2},
			{[]string{plugin, "supervise", "--nonsense", "--", "true"}, 2},
			{[]string{plugin, "supervise", "--log-level", "loud", "--", "true"}, 2},
		} {
			o := run(t, c.argv...)
			if o.code != c.code {
				t.Errorf("%q: status %d, want %d\n%s", c.argv, o.code, c.code, o.out)
			}
			ours := c.code == 126 || c.code == 127 || c.code == 2
			if lines := strings.Count(o.out, "\n"); ours != (lines == 1) || ours && !strings.HasPrefix(o.out, "uid-nri-plugin: ") {
				t.Errorf("%q said:\n%s", c.argv, o.out)
			}
		}
		if left := helpers(); len(left) != 0 {
			t.Errorf("processes are left: %v\n%s", left, processes())
		}
	})
}

// What the program inherits is what a service manager gave, and nothing of the supervisor's.
func TestInherited(t *testing.T) {
	inNode(t, func(t *testing.T) {
		const look = `echo notify $NOTIFY_SOCKET; for f in /proc/$$/fd/*; do echo fd ${f##*/} $(readlink $f); done; ` +
			`grep -E "^(NoNewPrivs|Seccomp|Seccomp_filters|SigBlk|SigIgn|CapEff|CapBnd|CapInh|CapAmb|Groups|Umask|Uid):" /proc/self/status; ` +
			`cat /proc/$$/oom_score_adj /proc/$$/cgroup /proc/$$/limits; pwd; readlink /proc/$$/root /proc/$$/ns/*; env | sort | grep -v "^_="`
		var got [2]string
		for i, argv := range [][]string{{"sh", "-c", look}, supervised("sh", "-c", look)} {
			cmd := exec.Command(argv[0], argv[1:]...)
			cmd.Dir = "/run"
			cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "NOTIFY_SOCKET=@notify", "LISTEN_FDS=2"}
			for range 2 {
				f, err := os.Open("/dev/zero")
				check(t, err)
				defer f.Close()
				cmd.ExtraFiles = append(cmd.ExtraFiles, f)
			}
			out, err := cmd.CombinedOutput()
			check(t, err)
			// Pipes have new numbers each time.
			got[i] = regexp.MustCompile(`(pipe|socket):\[\d+\]`).ReplaceAllString(string(out), "pipe")
		}
		want := regexp.MustCompile(`Seccomp:.*\nSeccomp_filters:.*`).ReplaceAllString(got[0], "Seccomp:\t2\nSeccomp_filters:\t1")
		wanted, had := strings.Split(want, "\n"), strings.Split(got[1], "\n")
		for _, line := range had {
			if !slices.Contains(wanted, line) {
				t.Errorf("only when supervised: %s", line)
			}
		}
		for _, line := range wanted {
			if !slices.Contains(had, line) {
				t.Errorf("not when supervised: %s", line)
			}
		}
		if !strings.Contains(got[1], "NoNewPrivs:\t0\n") {
			t.Error("no_new_privs is set")
		}
	})
}

// Set-user-id programs still work under supervision.
func TestSetUIDProgram(t *testing.T) {
	inNode(t, func(t *testing.T) {
		freshStage(t)
		text, err := os.ReadFile(caller)
		check(t, err)
		check(t, os.WriteFile(stage+"/suid", text, 0o755))
		own(stage+"/suid", 0o4755, 0, 0)
		o := run(t, supervised(caller, "become 1000 1000 1000", "exec "+stage+"/suid")...)
		if !strings.Contains(o.out, "Uid:\t1000\t0\t0\t0\n") || !strings.Contains(o.out, "NoNewPrivs:\t0\n") || !strings.Contains(o.out, "Seccomp:\t2\n") {
			t.Errorf("status %d\n%s", o.code, o.out)
		}
	})
}

// The supervisor must be able to do what the program may not: it is not filtered, in none of its threads.
func TestSupervisorIsFree(t *testing.T) {
	inNode(t, func(t *testing.T) {
		argv := supervised("sh", "-c", "echo $PPID; "+caller+" 'chown s:/run/tmp #65532 -1' 'setuid #65532'; sleep 100")
		cmd := exec.Command(argv[0], argv[1:]...)
		pipe, err := cmd.StdoutPipe()
		check(t, err)
		check(t, cmd.Start())
		out := bufio.NewReader(pipe)
		line, err := out.ReadString('\n')
		check(t, err)
		parent, _ := strconv.Atoi(strings.TrimSpace(line))
		if parent != cmd.Process.Pid {
			t.Errorf("the program's parent is %d, not the supervisor %d", parent, cmd.Process.Pid)
		}
		for range 2 {
			if line, _ := out.ReadString('\n'); !strings.HasSuffix(line, "= 0\n") {
				t.Errorf("got %q", line)
			}
		}
		pids := helpers()
		for _, k := range tasks() {
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/status", k.pid, k.tid))
			for _, pid := range pids {
				if k.pid == pid && !strings.Contains(string(text), "\nSeccomp:\t0\n") {
					t.Errorf("thread %d of %d is filtered", k.tid, k.pid)
				}
				// Whatever it did on behalf of callers, it is itself again.
				if k.pid == pid && !strings.Contains(string(text), "\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\n") {
					t.Errorf("thread %d of %d has other ids:\n%s", k.tid, k.pid, text)
				}
			}
		}
		check(t, cmd.Process.Signal(syscall.SIGTERM))
		cmd.Wait()
		if code := exitCode(cmd.ProcessState); code != 128+15 {
			t.Errorf("status %d after SIGTERM", code)
		}
		for _, k := range tasks() {
			if k.comm == "sleep" {
				unix.Kill(k.pid, unix.SIGKILL)
			}
		}
		eventually(t, "the end of those who serve", func() error {
			if left := helpers(); len(left) != 0 {
				return fmt.Errorf("left: %v", left)
			}
			return nil
		})
	})
}

func TestForwardedSignals(t *testing.T) {
	inNode(t, func(t *testing.T) {
		// Ignored here, as under nohup, it would be ignored below, and bash could not trap it.
		hangups := make(chan os.Signal, 1)
		signal.Notify(hangups, unix.SIGHUP)
		defer signal.Stop(hangups)
		const script = `for s in TERM INT HUP QUIT USR2 WINCH CONT; do trap "echo $s" $s; done; trap "echo USR1" USR1; echo ready; while :; do sleep 0.05; done`
		argv := supervised("bash", "-c", script)
		cmd := exec.Command(argv[0], argv[1:]...)
		pipe, err := cmd.StdoutPipe()
		check(t, err)
		check(t, cmd.Start())
		defer func() {
			unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
			cmd.Process.Kill()
			cmd.Wait()
		}()
		lines := make(chan string, 100)
		go func() {
			for s := bufio.NewScanner(pipe); s.Scan(); {
				lines <- s.Text()
			}
			close(lines)
		}()
		next := func(want string) {
			t.Helper()
			select {
			case got := <-lines:
				if got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			case <-time.After(3 * time.Second):
				t.Errorf("no %q came", want)
			}
		}
		next("ready")
		for _, s := range []struct {
			name string
			sig  syscall.Signal
		}{{"TERM", unix.SIGTERM}, {"INT", unix.SIGINT}, {"HUP", unix.SIGHUP}, {"QUIT", unix.SIGQUIT}, {"USR2", unix.SIGUSR2}, {"WINCH", unix.SIGWINCH}, {"CONT", unix.SIGCONT}} {
			check(t, cmd.Process.Signal(s.sig))
			next(s.name)
		}
		// This one is the supervisor's own, for its counters.
		check(t, cmd.Process.Signal(unix.SIGUSR1))
		select {
		case got := <-lines:
			t.Errorf("SIGUSR1 was forwarded: %q", got)
		case <-time.After(200 * time.Millisecond):
		}
		for _, k := range tasks() {
			if k.comm == "bash" {
				unix.Kill(k.pid, unix.SIGKILL)
			}
		}
		cmd.Wait()
		if code := exitCode(cmd.ProcessState); code != 128+9 {
			t.Errorf("status %d", code)
		}
	})
}

// A container's own profile wins where it is stricter, as the kernel has it.
func TestOwnProfile(t *testing.T) {
	inNode(t, func(t *testing.T) {
		freshStage(t)
		file("f", 0o644, 0, 0)
		o := runIn(t, stage, supervised(caller, "refuse 92", "chown s:f #65532 -1", "lchown s:f #65532 -1", "listen", "setresgid #65532 -1 -1")...)
		if got := answers(o.out); got != "EPERM 0 EBUSY 0" {
			t.Errorf("answers %q\n%s", got, o.out)
		}
	})
}
