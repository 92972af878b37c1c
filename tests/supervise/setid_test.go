package supervise

import (
	"fmt"
	"strings"
	"testing"
)

func TestSetIDs(t *testing.T) {
	lay := func() {
		file("secret", 0o600, 0, 0)
		file("own", 0o600, 1556, 1556)
	}
	scenes := []scene{
		{name: "setuid", steps: []string{"setuid #65532", "status", "read secret", "setuid 0", "setuid #65532", "setuid #12345"}, want: "0 EACCES EPERM 0 EPERM"},
		{name: "setgid", steps: []string{"setgid #65532", "status", "setgid 0"}, want: "0 0"},
		{name: "setreuid", steps: []string{"setreuid #65532 #12345", "status", "read secret", "setreuid #12345 #65532", "status", "setreuid 0 0", "setreuid -1 -1"}, want: "0 EACCES 0 EPERM 0"},
		{name: "setregid", steps: []string{"setregid #65532 -1", "status", "setregid -1 #12345", "status", "setregid 7 #1185200044", "status"}, want: "0 0 0"},
		{name: "setresuid", steps: []string{"setresuid #65532 #12345 #4294967294", "status", "read secret", "setresuid -1 #65532 -1", "status", "setresuid 0 -1 -1", "setresuid -1 -1 #1185200044"}, want: "0 EACCES 0 EPERM EPERM"},
		{name: "setresgid", steps: []string{"setresgid #65532 #12345 #4294967294", "status", "setresgid -1 #2048 -1", "status"}, want: "0 0"},
		{name: "all of them", lay: lay, steps: []string{"setgroups 2 g:#65532,#65533", "setresgid #65532 #65532 #65532", "setresuid #65532 #65532 #65532", "status", "read own", "read secret", "setuid 0", "setgid 0", "setgroups 0 null", "setresuid 0 -1 -1"}, want: "0 0 0 0 EACCES EPERM EPERM EPERM EPERM"},
		{name: "nobody becomes a system user", steps: []string{"keepcaps", "setresuid #2048 #4096 #4294965248", "setresgid #2048 #4096 #4294965248", "setgroups 3 g:#2048,#4096,#4294965248", "status"}, want: "0 0 0"},
		{name: "edges", steps: []string{"keepcaps", "setresuid 2047 #2048 #65534", "status", "setresuid -1 -1 -1", "setresuid 0xdeadbeefffffffff #0xdeadbeef0000fffc -1", "status", "setuid #0xffffffff00003039", "setuid -1", "setgid all:0xdeadbeefffffffff", "setreuid all:0xdeadbeefffffffff #0x100010000", "setfsuid -1", "status"}, want: "0 0 0 0 EINVAL EINVAL 0 1560"},
		// These answer with the id before, and never with an error.
		{name: "setfsuid", steps: []string{"setfsuid #65532", "status", "read secret", "setfsuid 0", "setfsuid #2048", "setfsuid -1", "status"}, want: "0 EACCES 1556 0 2000", native: true},
		{name: "setfsgid", steps: []string{"setfsgid #65532", "status", "setfsgid #12345", "setfsgid -1", "status"}, want: "0 1556 1817", native: true},
		{name: "a thread alone", steps: []string{"thread 262144", "setresuid #65532 #65532 #65532", "status", "read secret"}, want: "0 EACCES"},
		{name: "in a vfork child", steps: []string{"vfork", "setgroups 2 g:#65532,#65533", "setgid #65532", "setuid #65532", "status"}, want: "0 0 0"},
		{name: "without rights", steps: []string{"become 1000 1000 1000", "setuid #65532", "setgid #65532", "setreuid #65532 -1", "setregid -1 #65532", "setresuid #65532 -1 -1", "setresgid #65532 -1 -1", "setgroups 1 g:#65532", "setgroups 1 bad", "setgroups 70000 bad", "setfsuid #65532", "setfsgid #65532", "status", "i386:setuid32 #65532", "i386:setgroups32 1 g:#65532"},
			want: "EPERM EPERM EPERM EPERM EPERM EPERM EPERM EPERM EPERM 1000 1000 EPERM EPERM", native: true},
		{name: "to itself", steps: []string{"become 1256 1256 1256", "setuid #1000660000", "setresgid #1000660000 #1256 #1000660000", "setresuid #1000660000 -1 #65532", "status"}, want: "0 0 EPERM"},
		{name: "root without CAP_SETUID", steps: []string{"caps setgid", "setuid #65532", "setresuid #65532 #65532 #65532", "setgid #65532", "setgroups 1 g:#65532"}, want: "EPERM EPERM 0 0"},
		{name: "a user with CAP_SETUID alone", steps: []string{"become 1000 1000 1000", "caps setuid", "setgroups 1 g:#65532", "setgid #65532", "setresuid #65532 #65532 #65532", "status", "setuid #12345"}, want: "EPERM EPERM 0 0", native: true},
	}
	for i := range scenes {
		if scenes[i].lay == nil {
			scenes[i].lay = lay
		}
	}
	play(t, scenes)
}

func TestSetGroups(t *testing.T) {
	play(t, []scene{
		{name: "many", steps: []string{"setgroups 300 G:300", "status", "setgroups 1 g:#65532", "status", "setgroups 0 null", "status"}, want: "0 0 0"},
		{name: "mapped ones and others", steps: []string{"setgroups 4 g:5,#65532,5,#2048", "status", "setgroups 2 g:5,6", "status", "setgroups 0 bad"}, want: "0 0 0"},
		{name: "all that there may be", steps: []string{"setgroups 65536 G:65536", "status"}, want: "0"},
		// A signal on the way to a call has it asked for again; here one comes in less time than it takes to prepare it.
		{name: "all of them under a timer", since: "5.19", steps: []string{"ticks 300", "setgroups 65536 G:65536", "i386:setgroups32 65536 G:65536", "setresuid #65532 #65532 0", "ticks 0", "status"}, want: "0 0 0"},
		// The array cannot be put on the caller's stack.
		{name: "all of them with a small stack", steps: []string{"thread 16384", "setgroups 65536 G:65536"}, want: "0"},
		{name: "more", steps: []string{"setgroups 65537 G:65537", "setgroups -1 g:#65532", "setgroups all:0xdeadbeef00000001 g:#65532", "status", "setgroups 0x80000001 g:#65532"}, want: "EINVAL EINVAL 0 EINVAL", native: false},
		{name: "bad arrays", steps: []string{"setgroups 1 null", "setgroups 1 bad", "setgroups 300 x:300", "setgroups 3000 x:3000", "setgroups 1 all:0xffff888000000000", "status"}, want: "EFAULT EFAULT EFAULT EFAULT EFAULT"},
		{name: "an array in read-only memory", steps: []string{"setgroups 3 r:#65532,7,#12345", "status"}, want: "0"},
		{name: "no group", steps: []string{"setgroups 1 g:-1", "setgroups 2 g:#65532,0xffffffff", "status"}, want: "EINVAL EINVAL", native: true},
		{name: "i386", steps: []string{"i386:setgroups32 3 g:#65532,7,#1185200044", "status", "i386:setgroups 3 h:#65532,7,#50000", "status", "i386:setgroups32 300 G:300", "status", "i386:setgroups32 1 bad", "i386:setgroups 2 null", "i386:setgroups32 65537 G:65537"}, want: "0 0 0 EFAULT EFAULT EINVAL"},
		{name: "i386 in read-only memory", steps: []string{"i386:setgroups32 2 r:#65532,7", "status"}, want: "0"},
	})
}

// An array that nobody can write to, not even for a moment. It may be refused, but not asked about for ever.
func TestSetGroupsOfAFile(t *testing.T) {
	inNode(t, func(t *testing.T) {
		freshStage(t)
		o := runIn(t, stage, supervised(caller, "setgroups 3 f:#65532,7,#12345", "setgroups 2 f:7,8", "status")...)
		if got := answers(o.out); o.code != 0 || got != "0 0" && got != "EFAULT 0" && got != "EINVAL 0" || !strings.Contains(o.out, "Groups:\t7 8 \n") {
			t.Errorf("status %d\n%s", o.code, o.out)
		}
	})
}

// An array that can be written to in its first part only. It is refused, and what was written is taken back: the caller
// ends with status 99 if its array has changed.
func TestSetGroupsOfHalfAFile(t *testing.T) {
	steps := []string{"setgroups 2 g:7,8", "setgroups 6 F:6", "setgroups 3000 F:3000", "i386:setgroups32 6 F:6", "status"}
	inNode(t, func(t *testing.T) {
		for _, c := range []struct {
			argv         []string
			want, groups string
		}{
			{[]string{caller, "-p"}, "0 0 0 0", "Groups:"}, // the kernel itself only reads it
			{supervised(caller), "0 EINVAL EINVAL EINVAL", "Groups:\t7 8 \n"},
		} {
			freshStage(t)
			steps, want := playable(steps, c.want)
			o := runIn(t, stage, append(c.argv, steps...)...)
			if got := answers(o.out); o.code != 0 || got != want || !strings.Contains(o.out, c.groups) {
				t.Errorf("%q: answers %q, want %q, status %d\n%s", c.argv, got, want, o.code, o.out)
			}
		}
	})
}

func TestThreads(t *testing.T) {
	inNode(t, func(t *testing.T) {
		for _, name := range []string{"@threads", "@setxid", "@shared"} {
			fine(t, func() {}, name)
		}
	})
}

// The real ids in numbers, told without the caller's own arithmetic.
func TestSetIDsAreTheRule(t *testing.T) {
	inNode(t, func(t *testing.T) {
		o := run(t, supervised(caller, "setgroups 3 g:#50000,#65534,27", "setresgid #1185200044 #12345 #2048", "setresuid #1000660000 #65532 #4294967294", "status")...)
		want := fmt.Sprintf("Uid:\t%d\t%d\t%d\t%d\nGid:\t%d\t%d\t%d\t%d\nGroups:\t27 1558 1744 \n",
			1256, 1556, 1246, 1556, 1076, 1817, 2000, 1817)
		if !strings.Contains(o.out, want) {
			t.Errorf("got:\n%swant:\n%s", o.out, want)
		}
	})
}
