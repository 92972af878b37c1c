package supervise

import (
	"fmt"
	"strings"
	"testing"
)

// Every call of the family, each as a form that takes the two ids.
var chownForms = []struct {
	name, form string // on "f", which is also open as 9; "l" is a link to it
}{
	{"chown", "chown s:f %s %s"},
	{"chown through a link", "chown s:l %s %s"},
	{"lchown", "lchown s:f %s %s"},
	{"lchown of a link", "lchown s:l %s %s"},
	{"fchown", "fchown 9 %s %s"},
	{"fchownat", "fchownat -100 s:f %s %s 0"},
	{"fchownat of a link", "fchownat -100 s:l %s %s 0x100"},
	{"fchownat by descriptor", "fchownat 8 s:f %s %s 0"},
	{"fchownat of a descriptor", "fchownat 9 s: %s %s 0x1000"},
	{"i386 chown32", "i386:chown32 s:f %s %s"},
	{"i386 lchown32 of a link", "i386:lchown32 s:l %s %s"},
	{"i386 fchown32", "i386:fchown32 9 %s %s"},
	{"i386 fchownat", "i386:fchownat -100 s:l %s %s 0x100"},
}

func layFile() {
	file("f", 0o644, 0, 0)
	link("f", "l")
	file("f2", 0o644, 7, 7)
}

// The ids of each of these are put into one run, one after the other, since "owner" tells them all.
func TestChownPlaces(t *testing.T) {
	ids := []string{"65532", "12345", "1185200044", "4294967294", "2047", "2048", "65534", "4096", "2147483648", "1", "0", "-1",
		// The kernel does not look at the high words, and neither may the filter or the supervisor.
		"0xdeadbeef0000fffc", "0x800003e8", "0x100000000", "0x1000007ff", "0xdeadbeefffffffff", "0xffffffff00003039"}
	var scenes []scene
	for _, f := range chownForms {
		steps, want := []string{"open 9 r f", "open 8 d ."}, ""
		for i, id := range ids {
			other := ids[(i*5+3)%len(ids)]
			for _, pair := range [][2]string{{id, other}, {"-1", id}, {id, "-1"}} {
				for k := range pair {
					if pair[k] != "-1" {
						pair[k] = "#" + pair[k]
					}
				}
				steps = append(steps, fmt.Sprintf(f.form, pair[0], pair[1]), "owner f", "owner l")
				want += " 0"
			}
		}
		scenes = append(scenes, scene{name: f.name, lay: layFile, steps: steps, want: want[1:]})
	}
	play(t, scenes)
}

// The rule itself, told without the caller's own arithmetic.
func TestChownPlacesAreTheRule(t *testing.T) {
	inNode(t, func(t *testing.T) {
		freshStage(t)
		layFile()
		ids := []uint32{65532, 12345, 1185200044, 4294967294, 2047, 2048, 65534, 65535, 1000660000}
		// Whatever has the remainder 0, of the slots as of all ids.
		for m := uint32(2); m < 1<<20; m = m*3 + 1 {
			ids = append(ids, m*1048, m*2048)
		}
		var steps []string
		want := ""
		for _, id := range ids {
			steps = append(steps, fmt.Sprintf("chown s:f #%d #%d", id, id), "owner f")
			want += fmt.Sprintf("chown = 0\nf is of %d:%d\n", place(id), place(id))
			if place(id) < 1000 && id >= 1000 {
				t.Fatalf("the rule makes a system user of %d", id)
			}
		}
		o := runIn(t, stage, supervised(append([]string{caller}, steps...)...)...)
		if o.out != want {
			t.Errorf("got:\n%swant:\n%s", o.out, want)
		}
	})
}

// What the arguments other than the ids mean is the kernel's to say, in the kernel's order.
func TestChownArguments(t *testing.T) {
	ids := " #65532 #65532"
	lay := func() {
		layFile()
		folder("d", 0o755, 0, 0)
		file("d/x", 0o644, 0, 0)
		link("loop", "loop")
		link("nowhere", "dangling")
	}
	play(t, []scene{
		{name: "descriptors", lay: lay, steps: []string{"open 9 r f", "open 8 p f", "pipe 7", "open 6 pn l",
			"fchown 9" + ids, "fchown 0xdeadbeef00000009" + ids, "fchown 8" + ids, "fchown 7" + ids, "fchown 55" + ids, "fchown -1" + ids, "fchown -100" + ids, "fchown 6" + ids},
			want: "0 0 EBADF 0 EBADF EBADF EBADF EBADF"},
		{name: "AT_EMPTY_PATH", lay: lay, steps: []string{"open 9 r f", "open 8 p f2", "pipe 7", "open 6 pn l",
			"fchownat 9 s:" + ids + " 0x1000", "fchownat 8 s:" + ids + " 0x1000", "fchownat 7 s:" + ids + " 0x1000", "fchownat 6 s:" + ids + " 0x1000",
			"fchownat 6 s:" + ids + " 0x1100", "fchownat 55 s:" + ids + " 0x1000", "fchownat -100 s:" + ids + " 0x1000", "fchownat -100 s:d/x" + ids + " 0x1000",
			"fchownat 9 s:" + ids + " 0", "fchownat 9 s:x" + ids + " 0x1000"},
			want: "0 0 0 0 0 EBADF 0 0 ENOENT ENOTDIR"},
		{name: "a null path with AT_EMPTY_PATH", lay: lay, steps: []string{"open 9 r f", "fchownat 9 null" + ids + " 0x1000"}, want: "EFAULT"},
		{name: "empty, null and bad paths", lay: lay, steps: []string{"chown s:" + ids, "lchown s:" + ids, "fchownat -100 s:" + ids + " 0",
			"chown null" + ids, "chown bad" + ids, "chown all:0xffff888000000000" + ids, "chown all:0x8000000000000000" + ids, "fchownat -100 null" + ids + " 0", "chown u:f" + ids, "chown u:" + ids, "chown n:f" + ids},
			want: "ENOENT ENOENT ENOENT EFAULT EFAULT EFAULT EFAULT EFAULT EFAULT EFAULT EFAULT"},
		{name: "the end of memory", lay: lay, steps: []string{"chown e:f" + ids, "lchown e:l" + ids, "fchownat -100 e:d/x" + ids + " 0"}, want: "0 0 0"},
		{name: "long paths", lay: lay, steps: []string{"chown l:4095:f" + ids, "lchown l:4094:d/x" + ids, "chown l:4096:f" + ids, "chown l:9000:f" + ids, "chown s:" + strings.Repeat("n", 256) + ids,
			"chown l:4095:/run/stage/f2" + ids}, want: "0 0 ENAMETOOLONG ENAMETOOLONG ENAMETOOLONG ENOENT"},
		{name: "flags", lay: lay, steps: []string{"fchownat -100 s:f" + ids + " 1", "fchownat -100 s:f" + ids + " 0x400", "fchownat -100 null" + ids + " 0x200", "fchownat 55 s:f" + ids + " 0x80000000",
			"fchownat -100 s:l" + ids + " 0xdeadbeef00000100", "fchownat all:0xdeadbeefffffff9c s:f" + ids + " 0", "fchownat -100 s:f" + ids + " 0x800"}, want: "EINVAL EINVAL EINVAL EINVAL 0 0 EINVAL"},
		{name: "folders", lay: lay, steps: []string{"open 8 d d", "open 7 p d", "open 9 r f", "fchownat 8 s:x" + ids + " 0", "fchownat 7 s:x" + ids + " 0", "fchownat 9 s:x" + ids + " 0", "fchownat 55 s:x" + ids + " 0",
			"fchownat 55 s:/run/stage/f" + ids + " 0", "fchownat 9 s:/run/stage/f" + ids + " 0", "fchownat -1 s:f" + ids + " 0", "fchownat 8 s:../f2" + ids + " 0", "fchownat 9 s:." + ids + " 0"},
			want: "0 0 ENOTDIR EBADF 0 0 EBADF 0 ENOTDIR"},
		{name: "names", lay: lay, steps: []string{"chown s:d/" + ids, "chown s:f/" + ids, "lchown s:l/" + ids, "chown s:loop" + ids, "lchown s:loop" + ids, "chown s:dangling" + ids, "lchown s:dangling" + ids,
			"chown s:none" + ids, "chown s:none/x" + ids, "chown s:f/x" + ids, "chown s:." + ids, "chown s:d/.." + ids, "chown s://run///stage/d/../f" + ids},
			want: "0 ENOTDIR ENOTDIR ELOOP 0 ENOENT 0 ENOENT ENOENT ENOTDIR 0 0 0"},
		{name: "a removed current folder", lay: lay, steps: []string{"mkdir gone", "chdir gone", "rmdir ../gone", "chown s:x" + ids, "chown s:." + ids, "chown s:../f" + ids, "fchownat -100 s:" + ids + " 0x1000", "chown s:/run/stage/f2" + ids},
			want: "ENOENT 0 0 0 0"},
		{name: "i386", lay: lay, steps: []string{"open 9 r f", "open 8 p f", "i386:chown32 null" + ids, "i386:chown32 e:f" + ids, "i386:chown32 u:f" + ids, "i386:fchown32 8" + ids, "i386:fchownat 9 s:" + ids + " 0x1000",
			"i386:fchownat -100 s:f" + ids + " 1", "i386:lchown32 s:l" + ids, "i386:fchown 9 %65532 %65532"}, want: "EFAULT 0 EFAULT EBADF 0 EINVAL 0 0"},
		{name: "set-user-id bits", lay: func() { file("s", 0o6755, 0, 0); file("g", 0o2644, 0, 0); folder("d", 0o6755, 0, 0) },
			steps: []string{"chown s:s" + ids, "chown s:g" + ids, "chown s:d" + ids}, want: "0 0 0"},
	})
}

// The target of an absolute link is looked up from the caller's root, and ".." ends there.
func TestRoots(t *testing.T) {
	ids := " #65532 #65532"
	lay := func() {
		folder("jail/etc", 0o755, 0, 0)
		file("jail/etc/x", 0o644, 0, 0)
		folder("etc", 0o755, 0, 0)
		file("etc/x", 0o644, 0, 0)
		file("outside", 0o644, 0, 0)
		link("/etc/x", "jail/absolute")
		link("../../../../../../etc/x", "jail/climbing")
		link("/run/stage/outside", "jail/out")
		link("../outside", "jail/above")
		folder("jail/a/b", 0o755, 0, 0)
		link("/a", "jail/a/b/up")
	}
	in := []string{"chdir jail", "chroot ."}
	play(t, []scene{
		{name: "chroot", lay: lay, steps: append(in, "chown s:absolute"+ids, "chown s:/climbing"+ids, "chown s:out"+ids, "chown s:../../../../../outside"+ids, "chown s:/../../etc/x"+ids, "lchown s:/absolute"+ids,
			"chown s:/a/b/up/b"+ids), want: "0 0 ENOENT ENOENT 0 0 0"},
		{name: "current folder outside", lay: lay, steps: []string{"chroot jail", "chown s:outside" + ids, "chown s:/etc/x" + ids, "chown s:jail/absolute" + ids, "chown s:etc/../outside" + ids, "chown s:jail/above" + ids}, want: "0 0 0 0 ENOENT"},
		{name: "descriptor outside", lay: lay, steps: []string{"open 8 d .", "chroot jail", "chdir /", "fchownat 8 s:outside" + ids + " 0", "fchownat 8 s:/outside" + ids + " 0", "fchownat 8 s:jail/absolute" + ids + " 0"}, want: "0 ENOENT 0"},
		{name: "a thread's own root", lay: lay, steps: []string{"thread 65536", "unshare fs", "chroot jail", "chdir /a", "chown s:b" + ids, "chown s:/etc/x" + ids, "chown s:../climbing" + ids}, want: "0 0 0"},
		{name: "a mount that only the caller sees", lay: lay, steps: []string{"unshare mount", "private", "tmpfs etc", "touch etc/x", "touch etc/y", "chown s:etc/x" + ids, "chown s:/run/stage/etc/y" + ids, "owner etc/x", "owner etc/y"}, want: "0 0"},
		{name: "a read-only bind mount", lay: lay, steps: []string{"unshare mount", "private", "open 9 r etc/x", "bind etc jail/etc", "readonly jail/etc", "open 8 r jail/etc/x", "chown s:jail/etc/x" + ids, "fchown 8" + ids, "fchownat 8 s:" + ids + " 0x1000", "lchown s:/run/stage/jail/etc/x" + ids, "fchown 9" + ids},
			want: "EROFS EROFS EROFS EROFS 0"},
		{name: "a container", lay: lay, steps: []string{"unshare mount,pid,ipc,uts,net,cgroup", "fork", "private", "mkdir jail/proc", "proc jail/proc", "chroot jail", "chdir /", "open 9 r etc/x", "chown s:/absolute" + ids, "owner etc/x", "chown s:/proc/self/fd/9 #12345 #12345", "owner etc/x", "chown s:/run/stage/outside" + ids}, want: "0 0 ENOENT"},
	})
}

func TestRaces(t *testing.T) {
	inNode(t, func(t *testing.T) {
		for _, kind := range []string{"symlink", "rename"} {
			t.Run(kind, func(t *testing.T) {
				freshStage(t)
				folder("own", 0o755, 1000, 1000)
				file("own/own", 0o644, 1000, 1000)
				link("own", "own/link")
				folder("jail/a/b/c/d", 0o755, 0, 0)
				file("jail/victim", 0o644, 0, 0)
				file("victim", 0o644, 0, 0)
				file("own/victim", 0o644, 0, 0)
				dir := map[string]string{"symlink": stage + "/own", "rename": stage + "/jail"}[kind]
				o := runIn(t, dir, supervised(caller, "@race", kind, fmt.Sprint(raceTime().Seconds()))...)
				if o.out != "fine\n" {
					t.Errorf("status %d: %s", o.code, o.out)
				}
				for _, line := range strings.Split(tree(t), "\n") {
					if strings.HasPrefix(line, "victim ") && line != "victim 100644 0:0" || strings.HasPrefix(line, "own/victim ") && line != "own/victim 100644 0:0" {
						t.Errorf("not the caller's file: %s", line)
					}
				}
			})
		}
	})
}
