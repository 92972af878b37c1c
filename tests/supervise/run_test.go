package supervise

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"uid-nri-plugin/tests/wait"
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
		eventually(t, "the end of those who serve", func() error {
			if left := helpers(); len(left) != 0 {
				return fmt.Errorf("left: %v", left)
			}
			return nil
		})
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

// supervise becomes the program: with its pid, its parent and its signals, and without children that it does not know.
// Those who serve are free of the filter, and hold nothing of the program's.
func TestBecomesTheProgram(t *testing.T) {
	inNode(t, func(t *testing.T) {
		// Ignored here, as under nohup, it would be ignored below, and bash could not trap it.
		hangups := make(chan os.Signal, 1)
		signal.Notify(hangups, unix.SIGHUP)
		defer signal.Stop(hangups)
		signals := []string{"HUP", "INT", "QUIT", "USR1", "USR2", "TERM", "CONT", "WINCH", "ALRM", "RTMIN+3"}
		script := "echo $$ $PPID; " + caller + " 'chown s:/run/tmp #65532 -1' 'setuid #65532'; echo children $(cat /proc/$$/task/$$/children); " +
			"for s in " + strings.Join(signals, " ") + `; do trap "echo $s" $s; done; echo ready; while :; do read -t 0.05 <>/dev/zero || :; done`
		argv := supervised("bash", "-c", script)
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Dir = "/run/tmp"
		inherited, err := os.CreateTemp("/run/tmp", "inherited")
		check(t, err)
		defer inherited.Close()
		cmd.ExtraFiles = []*os.File{inherited}
		pipe, err := cmd.StdoutPipe()
		check(t, err)
		cmd.Stderr = cmd.Stdout
		check(t, cmd.Start())
		defer func() {
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
				if got != want && (want != "children" || strings.Count(got, " ") != 1) {
					t.Errorf("got %q, want %q", got, want)
				}
			case <-time.After(wait.Scaled(5 * time.Second)):
				t.Errorf("no %q came", want)
			}
		}
		next(fmt.Sprint(cmd.Process.Pid, " ", os.Getpid()))
		next("chown = 0")
		next("setuid = 0")
		next("children") // and one number: the cat that looked
		next("ready")
		for _, s := range signals[:len(signals)-1] {
			check(t, cmd.Process.Signal(unix.SignalNum("SIG"+s)))
			next(s)
		}
		check(t, cmd.Process.Signal(syscall.Signal(34+3)))
		next("RTMIN+3")
		check(t, cmd.Process.Signal(unix.SIGSTOP))
		eventually(t, "it is stopped", func() error {
			for _, k := range tasks() {
				if k.pid == cmd.Process.Pid && k.state == 'T' {
					return nil
				}
			}
			return fmt.Errorf("%s", processes())
		})
		check(t, cmd.Process.Signal(unix.SIGCONT))
		next("CONT")

		servants := helpers()
		if len(servants) < 3 {
			t.Errorf("keeper, receiver and worker are %v:\n%s", servants, processes())
		}
		for _, pid := range servants {
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			for _, line := range []string{"Seccomp:\t0", "Uid:\t0\t0\t0\t0", "Gid:\t0\t0\t0\t0", "Threads:\t1"} {
				if !strings.Contains(string(text), "\n"+line+"\n") {
					t.Errorf("process %d has not %q:\n%s", pid, line, text)
				}
			}
			links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
			for _, link := range append(links, fmt.Sprintf("/proc/%d/cwd", pid)) {
				if to, _ := os.Readlink(link); strings.HasPrefix(to, "/run/tmp") {
					t.Errorf("process %d holds %s", pid, to)
				}
			}
			if group, _ := unix.Getpgid(pid); group == cmd.Process.Pid {
				t.Errorf("process %d is of the program's process group", pid)
			}
			// Nobody may ask these to end while they are needed, as a service manager asks all of a unit's processes.
			for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT} {
				check(t, unix.Kill(pid, s))
			}
		}
		time.Sleep(100 * time.Millisecond)
		for _, pid := range servants {
			if unix.Kill(pid, 0) != nil {
				t.Errorf("process %d has ended", pid)
			}
		}
		// The pipe ends with the program: none of the servants has it.
		check(t, cmd.Process.Kill())
		select {
		case line, open := <-lines:
			if open {
				t.Errorf("said %q", line)
			}
		case <-time.After(wait.Scaled(5 * time.Second)):
			t.Error("somebody holds the program's output")
		}
		cmd.Wait() // before Linux 6.11 a zombie still has its filter
		eventually(t, "the end of those who serve", func() error {
			if left := helpers(); len(left) != 0 {
				return fmt.Errorf("left: %v", left)
			}
			return nil
		})
	})
}

// What outlives the program is served: containers outlive the containerd that started them.
func TestServesWhatIsLeft(t *testing.T) {
	inNode(t, func(t *testing.T) {
		freshStage(t)
		file("f", 0o644, 0, 0)
		soon := wait.Scaled(300 * time.Millisecond)
		left := caller + fmt.Sprintf(" 'sleep-ms %d' 'chown", soon.Milliseconds()+100) + " s:" + stage + "/f #65532 #65532' 'setresuid #65532 #65532 #65532' >/run/tmp/left 2>&1"
		if o := run(t, supervised("sh", "-c", "("+left+") >/dev/null 2>&1 &")...); o.code != 0 || o.within > soon {
			t.Errorf("status %d after %v: %s", o.code, o.within, o.out)
		}
		eventually(t, "calls after the program's end", func() error {
			text, err := os.ReadFile("/run/tmp/left")
			if err != nil || string(text) != "chown = 0\nsetresuid = 0\n" {
				return fmt.Errorf("%q, %v", text, err)
			}
			return nil
		})
		eventually(t, "the end of those who serve", func() error {
			if left := helpers(); len(left) != 0 {
				return fmt.Errorf("left: %v", left)
			}
			return nil
		})
	})
}

// Below a supervise another one only becomes the program. Below somebody else's listener it cannot fold, and says so.
func TestNested(t *testing.T) {
	inNode(t, func(t *testing.T) {
		look := []string{"sh", "-c", caller + " 'chown s:/run/tmp #65532 -1' 'setuid #65532'; grep ^Seccomp_filters /proc/self/status"}
		inner := append([]string{plugin, "supervise", "--"}, look...)
		o := run(t, supervised(append([]string{plugin, "supervise", "--"}, inner...)...)...)
		said := "uid-nri-plugin: info: chown and set-id calls are folded here already, by a supervise around this one\n"
		if want := said + said + "chown = 0\nsetuid = 0\nSeccomp_filters:\t1\n"; o.code != 0 || o.out != want {
			t.Errorf("status %d, %q, want %q", o.code, o.out, want)
		}
		check(t, os.WriteFile("/run/tmp/inner", []byte("#!/bin/sh\nexec "+plugin+" supervise true\n"), 0o755))
		o = run(t, caller, "listen", "fork", "exec /run/tmp/inner")
		if o.code != 1 || !strings.Contains(o.out, "seccomp, EBUSY") || strings.Count(o.out, "uid-nri-plugin:") != 1 {
			t.Errorf("below another listener: status %d, %q", o.code, o.out)
		}
	})
}

// A node's init is supervised, and when the node ends, nothing is waited for: init asks all to end, and once all others
// have, so have those who serve, before they are killed.
func TestInit(t *testing.T) {
	inNode(t, func(t *testing.T) {
		const script = `trap "" TERM
			uid=$(` + caller + ` 'setuid #65532' | tr -d '\n')
			(trap - TERM; sleep 100) & sleep 0.2
			start=$(date +%s%N); kill -TERM -1
			while [ "$(ls -d /proc/[0-9]*/exe 2>/dev/null | wc -l)" -gt 1 ] && [ "$(for p in /proc/[0-9]*; do readlink $p/exe; done | grep -c plugin)" -gt 0 ]; do :; done
			echo pid $$ $uid, ended after $((($(date +%s%N) - start) / 1000000)) ms`
		o := run(t, append([]string{"unshare", "--pid", "--fork", "--mount-proc"}, supervised("bash", "-c", script)...)...)
		var ms int
		if n, _ := fmt.Sscanf(o.out, "pid 1 setuid = 0, ended after %d ms", &ms); n != 1 || ms > 5000 { // a service manager waits for 90 s
			t.Errorf("status %d: %s", o.code, o.out)
		}
	})
}

// A container's own profile wins where it is stricter, as the kernel has it.
func TestOwnProfile(t *testing.T) {
	inNode(t, func(t *testing.T) {
		freshStage(t)
		file("f", 0o644, 0, 0)
		o := runIn(t, stage, supervised(caller, "open 9 r f", fmt.Sprint("refuse ", chownNumber), "chown s:f #65532 -1", "fchown 9 #65532 -1", "listen", "setresgid #65532 -1 -1")...)
		if got := answers(o.out); got != "EPERM 0 EBUSY 0" {
			t.Errorf("answers %q\n%s", got, o.out)
		}
	})
}
