package supervise

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"uid-nri-plugin/tests/node"
)

// features tells, for TestOlderKernels, what the kernel says to calls that not every kernel has.
func features() error {
	try := func(name string, nr uintptr, args ...uintptr) {
		var a [4]uintptr
		copy(a[:], args)
		_, _, e := unix.Syscall6(nr, a[0], a[1], a[2], a[3], 0, 0)
		fmt.Printf("%s: %s\n", name, unix.ErrnoName(e))
	}
	const none = ^uintptr(0)
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return err
	}
	var info [16]uint64
	info[0] = 3
	try("openat2", unix.SYS_OPENAT2, none)
	try("pidfd_getfd", unix.SYS_PIDFD_GETFD, none)
	try("close_range", unix.SYS_CLOSE_RANGE, 1, 0)
	try("a pidfd of a thread", unix.SYS_PIDFD_OPEN, uintptr(unix.Gettid()), unix.O_EXCL)
	try("what a pidfd tells", unix.SYS_IOCTL, uintptr(self), 0xc040ff0b, uintptr(unsafe.Pointer(&info)))
	// A filter of no address: the flags are looked at first.
	try("waits that only a fatal signal ends", unix.SYS_SECCOMP, 1, 1<<3|1<<5, 0)
	return nil
}

// hides tells whether SUPERVISE_KERNEL hides what this version has brought, or this kernel is older itself.
func hides(version string) bool {
	return isOlderThan(os.Getenv("SUPERVISE_KERNEL"), version) || lacks(version)
}

// lacks tells whether this kernel is older than a version.
func lacks(version string) bool {
	var name unix.Utsname
	unix.Uname(&name)
	return isOlderThan(unix.ByteSliceToString(name.Release[:]), version)
}

func isOlderThan(kernel, version string) bool {
	var here, there [2]int
	fmt.Sscanf(kernel, "%d.%d", &here[0], &here[1])
	fmt.Sscanf(version, "%d.%d", &there[0], &there[1])
	return here[0] != 0 && (here[0] < there[0] || here[0] == there[0] && here[1] < there[1])
}

// What c/older.c hides is hidden, and nothing else.
func TestOlderKernels(t *testing.T) {
	inNode(t, func(t *testing.T) {
		here := run(t, program, "features").out
		since := map[string]string{"openat2": "5.6", "pidfd_getfd": "5.6", "close_range": "5.9", "a pidfd of a thread": "6.9",
			"what a pidfd tells": "6.13", "waits that only a fatal signal ends": "5.19"}
		for kernel, missing := range map[string]string{
			"5.5":  "openat2: ENOSYS|pidfd_getfd: ENOSYS|close_range: ENOSYS|a pidfd of a thread: EINVAL|what a pidfd tells: ENOTTY|waits that only a fatal signal ends: EINVAL",
			"5.18": "a pidfd of a thread: EINVAL|what a pidfd tells: ENOTTY|waits that only a fatal signal ends: EINVAL",
			"6.8":  "a pidfd of a thread: EINVAL|what a pidfd tells: ENOTTY",
			"6.12": "what a pidfd tells: ENOTTY",
			"yama": "pidfd_getfd: EPERM",
		} {
			want := here
			for line := range strings.SplitSeq(missing, "|") {
				name, _, _ := strings.Cut(line, ": ")
				before, rest, found := strings.Cut(want, name+": ")
				_, after, _ := strings.Cut(rest, "\n")
				same := want
				if want = before + line + "\n" + after; !found || want == same && !lacks(since[name]) {
					t.Errorf("%s: this kernel lacks %s itself:\n%s", kernel, name, here)
				}
			}
			if got := run(t, onKernel(kernel, program, "features")...).out; got != want {
				t.Errorf("%s: got\n%swant\n%s", kernel, got, want)
			}
		}
	})
}

// Where nobody may trace (kernel.yama.ptrace_scope=3) nothing is folded, but all that works without supervise does with it.
func TestNoTracing(t *testing.T) {
	inNode(t, func(t *testing.T) {
		steps := []string{"open 9 r f", "chown s:f 5 6", "fchown 9 7 8", "fchownat -100 s:l 5 6 0x100", "chown s:f #65532 -1", "fchown 9 -1 #65532", "i386:chown32 s:f #65532 1",
			"setgroups 3 g:5,6,7", "setgroups 1 g:#65532", "setgroups 2 g:5,#65532", "setgroups 1 bad", "setgroups 70000 bad", "i386:setgroups 2 h:5,6", "setgroups 0 bad",
			"setgroups 1 g:9", "setresgid 1000 1000 1000", "setresgid #65532 -1 -1", "setgroups 0 null", "setgroups 1 g:1", "setresuid #65532 1000 1000", "setresuid 1000 1000 1000", "setgroups 1 g:5", "status"}
		steps, want := playable(steps, "0 0 0 EINVAL EINVAL EINVAL 0 EINVAL EINVAL EFAULT EINVAL 0 0 0 0 EINVAL 0 0 EINVAL 0 EPERM")
		play := func(argv ...string) (string, string) {
			freshStage(t)
			layFile()
			o := runIn(t, stage, append(argv, steps...)...)
			if o.code != 0 {
				t.Errorf("%q: status %d\n%s", argv, o.code, o.out)
			}
			return filtered.ReplaceAllString(o.out, "Seccomp:\t0\n"), tree(t)
		}
		out, files := play(caller)
		if got := answers(out); got != want {
			t.Errorf("the control answers %q, want %q\n%s", got, want, out)
		}
		gotOut, gotFiles := play(onKernel("yama", supervised(caller)...)...)
		if gotOut != out || gotFiles != files {
			t.Errorf("supervised, it says:\n%s%swant:\n%s%s", gotOut, gotFiles, out, files)
		}

		// The start warns. Where there is no yama, a file stands for its setting.
		start := []string{plugin, "supervise", "--", "echo", "started"}
		if o := run(t, start...); o.out != "started\n" {
			t.Errorf("without it: %q", o.out)
		}
		check(t, unix.Mount("tmpfs", "/proc/sys/kernel", "tmpfs", 0, "mode=755"))
		check(t, os.Mkdir("/proc/sys/kernel/yama", 0o755))
		check(t, os.WriteFile("/proc/sys/kernel/yama/ptrace_scope", []byte("3\n"), 0o644))
		o := run(t, onKernel("yama", start...)...)
		if !strings.HasSuffix(o.out, "started\n") || !strings.Contains(o.out, "warning: no process may be traced here (kernel.yama.ptrace_scope is 3)") {
			t.Errorf("status %d: %q", o.code, o.out)
		}
	})
}

// The node's root has groups that the node does not map, and keeps them: nobody can set them again.
func TestOuterGroups(t *testing.T) {
	outer := "Groups:\t" + strings.Repeat("65534 ", node.OuterGroups) + "\n"
	scenes := []scene{
		{name: "root", lay: layFile, steps: []string{"chown s:f #65532 #12345", "lchown s:l #65532 -1", "setresgid #65532 #65532 #65532", "setresuid #65532 #65532 #65532", "status"}, want: "0 0 0 0"},
		{name: "root without capabilities", lay: layFile, steps: []string{"caps chown", "chown s:f #65532 #12345", "setgroups 1 g:#65532", "setresuid #65532 -1 -1", "status"}, want: "0 EPERM EPERM"},
		{name: "a user", lay: func() { file("f", 0o644, 1000, 1000) }, steps: []string{"keepcaps", "setresuid 1000 1000 1000", "caps none", "chown s:f #65532 -1", "chown s:f -1 #65532", "setuid #65532", "status"}, want: "0 EPERM EPERM EPERM"},
		{name: "after the groups are given up", lay: layFile, steps: []string{"status", "setgroups 2 g:#65532,5", "chown s:f #65532 #12345", "status"}, want: "0 0"},
	}
	inNode(t, func(t *testing.T) {
		if o := run(t, caller, "status"); !strings.Contains(o.out, outer) {
			t.Fatalf("the node's root has no groups of the outside:\n%s", o.out)
		}
		for _, s := range scenes {
			s.run(t)
		}
	})
}
