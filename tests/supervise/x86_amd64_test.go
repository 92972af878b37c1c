package supervise

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What there is on x86-64 only: the calls of i386 and of x32, and 32-bit programs.

// chownNumber is the call by which the callers give files away.
const chownNumber = unix.SYS_CHOWN

// playable is all.
func playable(steps []string, want string) ([]string, string) { return steps, want }

// 16-bit calls: -1 is 0xffff, and what is above the 16 bits does not count.
func TestChown16(t *testing.T) {
	var scenes []scene
	for _, form := range []string{"i386:chown s:f %s %s", "i386:lchown s:l %s %s", "i386:fchown 9 %s %s"} {
		steps, want := []string{"open 9 r f"}, ""
		for _, pair := range []string{"%65532 %12345", "%2048 %65534", "%0xffff %4096", "%2047 %0xffff", "%0xffff %0xffff",
			"%0x1234fffc %0xffff", "%0xabcdffff %0x10000fff", "%0xdeadbeef0001fffc %0xdeadbeefffffffff", "%0 %0"} {
			first, second, _ := strings.Cut(pair, " ")
			steps = append(steps, fmt.Sprintf(form, first, second), "owner f", "owner l")
			want += " 0"
		}
		scenes = append(scenes, scene{name: strings.Fields(form)[0], lay: layFile, steps: steps, want: want[1:]})
	}
	play(t, scenes)
}

// A kernel without the x32 interface says ENOSYS, though the filter sees the call before it does; one with it must fold.
func TestX32(t *testing.T) {
	inNode(t, func(t *testing.T) {
		for _, step := range []string{"x32:chown s:f #65532 #65532", "x32:setresuid #65532 #65532 #65532", "x32:setgroups 2 g:#65532,1", "x32:setgroups 300 x:300"} {
			freshStage(t)
			layFile()
			right := runIn(t, stage, caller, "-p", step)
			got := runIn(t, stage, supervised(caller, step)...)
			if got.out != right.out {
				t.Errorf("%s: got %q, want %q", step, got.out, right.out)
			}
		}
	})
}

func TestSetIDs386(t *testing.T) {
	play(t, []scene{
		{name: "32 bits", steps: []string{"keepcaps", "i386:setuid32 #65532", "i386:setgid32 #65532", "status", "i386:setreuid32 #12345 -1", "i386:setregid32 -1 #12345", "status", "i386:setresuid32 #1185200044 #65533 -1", "i386:setresgid32 -1 #2048 #4096", "status", "i386:setfsuid32 #4294967294", "i386:setfsgid32 #65532", "status", "i386:setuid32 -1"},
			want: "0 0 0 0 0 0 1557 2000 EINVAL"},
		{name: "16 bits", steps: []string{"keepcaps", "i386:setuid %65532", "i386:setgid %65532", "status", "i386:setreuid %12345 %0xffff", "i386:setregid %0xffff %12345", "status", "i386:setresuid %50000 %65533 %0xffff", "i386:setresgid %0xabcdffff %2048 %0x1234fffc", "status", "i386:setfsuid %65534", "i386:setfsgid %65532", "status", "i386:setuid 0xffff"},
			want: "0 0 0 0 0 0 1557 2000 EINVAL"},
		{name: "dirty high words", steps: []string{"keepcaps", "i386:setuid32 #0xdeadbeef0000fffc", "i386:setresgid32 #0xffffffff00003039 all:0xdeadbeefffffffff #0x100010000", "status"}, want: "0 0"},
		{name: "gone", lay: func() { file("secret", 0o600, 0, 0) }, steps: []string{"i386:setuid32 #65532", "read secret", "i386:setuid32 0", "setuid 0"}, want: "0 EACCES EPERM EPERM"},
	})
}

// A 32-bit program proper, with a 32-bit code segment.
func Test386Program(t *testing.T) {
	inNode(t, func(t *testing.T) {
		for _, c := range []struct {
			argv []string
			code int
		}{{[]string{i386}, 1}, {supervised(i386), 0}} {
			freshStage(t)
			file("file32", 0o644, 0, 0)
			if o := runIn(t, stage, c.argv...); o.code != c.code {
				t.Errorf("%q: status %d, want %d\n%s", c.argv, o.code, c.code, o.out)
			}
		}
		if files := tree(t); !strings.Contains(files, "file32 100644 1256:0\n") {
			t.Errorf("the file is not 1256's:\n%s", files)
		}
	})
}
