package supervise

import "testing"

// Whether a caller may is the kernel's to say, of that caller: its thread's ids, groups and capabilities.
func TestRights(t *testing.T) {
	lay := func() {
		file("roots", 0o644, 0, 0)
		file("own", 0o644, 1000, 1000)
		folder("closed", 0o700, 5, 5)
		file("closed/own", 0o644, 1000, 1000)
		folder("listed", 0o750, 0, 1256)
		file("listed/own", 0o644, 1000, 1000)
		file("of1256", 0o644, 1256, 1256)
		file("suid", 0o6755, 1000, 1000)
	}
	ids, group := " #65532 #65532", " -1 #1000660000" // whose place is 1256
	user := "become 1000 1000 1000"
	play(t, []scene{
		{name: "another's file", lay: lay, steps: []string{"open 9 r roots", user, "chown s:roots" + ids, "lchown s:roots" + ids, "fchown 9" + ids, "fchownat 9 s:" + ids + " 0x1000", "chown s:roots" + group, "chown s:roots #1000660000 -1", "i386:chown32 s:roots" + ids, "chown s:/proc/self/fd/9" + ids}, want: "EPERM EPERM EPERM EPERM EPERM EPERM EPERM EPERM"},
		{name: "an own file", lay: lay, steps: []string{user, "chown s:own" + ids, "chown s:own" + group, "chown s:own #1000660000 -1"}, want: "EPERM EPERM EPERM"},
		{name: "to a group that the caller is in", lay: lay, steps: []string{"become 1000 1000 1000,1256", "chown s:own" + group, "chown s:own -1 #65532", "chown s:listed/own" + group, "chown s:roots" + group, "chown s:own #1000660000 #1000660000", "i386:chown s:own %0xffff %1256"}, want: "0 EPERM 0 EPERM EPERM 0"},
		{name: "to the caller itself", lay: lay, steps: []string{"become 1256 1256 1256", "chown s:of1256 #1000660000 #1000660000", "chown s:own #1000660000 -1"}, want: "0 EPERM"},
		{name: "behind a closed folder", lay: lay, steps: []string{"open 9 r closed/own", "become 1000 1000 1000,1256", "chown s:closed/own" + group, "chown s:closed/none" + group, "fchown 9" + group, "fchownat 9 s:" + group + " 0x1000"}, want: "EACCES EACCES 0 0"},
		{name: "behind a folder of a group", lay: lay, steps: []string{user, "chown s:listed/own" + group}, want: "EACCES"},
		{name: "root in a foreigner's folder", lay: lay, steps: []string{"become 0 0 1256", "chown s:/run/foreign/file" + ids, "become 0 0 1", "chown s:/run/foreign/file" + ids}, want: "0 EACCES"},
		{name: "root without capabilities", lay: lay, steps: []string{"caps none", "chown s:roots" + ids, "chown s:own" + ids, "chown s:closed/own" + ids}, want: "EPERM EPERM EACCES"},
		{name: "root with CAP_CHOWN alone", lay: lay, steps: []string{"caps chown", "chown s:roots" + ids, "chown s:own" + ids, "chown s:closed/own" + ids, "chown s:suid" + ids}, want: "0 0 EACCES EPERM"},
		{name: "root without CAP_CHOWN", lay: lay, steps: []string{"caps dac,search,fowner,setuid,setgid,fsetid", "chown s:roots" + ids, "chown s:closed/own" + ids, "chown s:none" + ids}, want: "EPERM EPERM ENOENT"},
		{name: "a user with CAP_CHOWN alone", lay: lay, steps: []string{user, "caps chown", "chown s:roots" + ids, "chown s:closed/own" + ids, "chown s:suid" + ids}, want: "0 EACCES 0"},
		{name: "a user with CAP_DAC_READ_SEARCH", lay: lay, steps: []string{"become 1000 1000 1256", "caps search", "chown s:closed/own" + group, "chown s:closed/own" + ids}, want: "0 EPERM"},
		{name: "the file-system ids count", lay: lay, steps: []string{"keepcaps", "caps setuid", "setfsuid 1000", "chown s:own" + ids, "chown s:closed/own" + ids}, want: "0 EPERM EACCES", native: true},
		{name: "one thread's rights", lay: lay, steps: []string{"thread 262144", user, "chown s:roots" + ids, "chown s:own -1 #1000660000", "setresuid #65532 #65532 #65532", "status"}, want: "EPERM EPERM EPERM", native: true},
		// /proc/PID/root and cwd of such a process lead nowhere, those of its threads still do.
		{name: "a process without its first thread", lay: lay, steps: []string{"orphan", "chown s:roots" + ids, "lchown s:closed/own" + ids, "setgroups 2 g:#65532,5", "setresgid #65532 -1 -1", "setresuid #65532 #65532 #65532", "status", "setuid 0"}, want: "0 0 0 0 0 EPERM"},
		{name: "a caller that may not be read", lay: lay, steps: []string{"dumpable 0", "chown s:roots" + ids, "setresgid #65532 #65532 #65532", "setgroups 2 g:#65532,5", "status"}, want: "0 0 0"},
		{name: "a user that may not be read", lay: lay, steps: []string{"become 1000 1000 1256", "dumpable 0", "chown s:own" + group, "chown s:roots" + group}, want: "0 EPERM"},
	})
}

// Links in /proc that lead to what the reader has open must lead to what the caller has open. The exact names of
// descriptors are folded; other ways there may be left to the kernel, but nothing else may be changed by them.
func TestProc(t *testing.T) {
	ids := " #65532 #65532"
	lay := func() {
		file("f", 0o644, 0, 0)
		file("g", 0o644, 0, 0)
		folder("etc", 0o755, 0, 0)
		file("etc/x", 0o644, 0, 0)
		folder("inner", 0o755, 0, 0)
		file("inner/x", 0o644, 0, 0)
		file("x", 0o644, 0, 0)
		link("/proc/self/root/run/stage/etc/x", "through-root")
		link("/proc/self/fd/9", "through-fd")
		link("/proc/self/cwd/x", "through-cwd")
		link("/proc/thread-self/fd/9", "through-thread")
		// A root without /proc, where these are plain files.
		folder("fake/proc/self/fd", 0o755, 0, 0)
		folder("fake/proc/thread-self/fd", 0o755, 0, 0)
		folder("fake/dev/fd", 0o755, 0, 0)
		for _, name := range []string{"proc/self/fd/9", "proc/thread-self/fd/9", "dev/fd/9", "dev/stdin", "dev/stdout"} {
			file("fake/"+name, 0o644, 0, 0)
		}
	}
	scenes := []scene{
		{name: "a stand-in for proc", lay: lay, steps: []string{"open 9 r f", "open 0 r g", "open 3 r g", "chroot fake", "chdir /", "chown s:/proc/self/fd/9" + ids, "chown s:/proc/thread-self/fd/9" + ids, "chown s:/dev/fd/9" + ids, "chown s:/dev/stdin" + ids, "chown s:/proc/self/fd/3" + ids, "lchown s:/dev/stdout" + ids}, want: "0 0 0 0 ENOENT 0"},
		{name: "links that are to be changed themselves", lay: lay, steps: []string{"open 9 r f", "lchown s:through-fd" + ids, "fchownat -100 s:through-root" + ids + " 0x100"}, want: "0 0"},
		{name: "a thread's own descriptors", lay: lay, steps: []string{"open 9 r f", "thread 65536", "unshare files", "open 9 r g", "fchown 9" + ids, "fchownat 9 s: #12345 -1 0x1000", "chown s:/proc/thread-self/fd/9 -1 #12345", "chown s:/proc/self/fd/9 #50000 #50000"}, want: "0 0 0 0"},
		{name: "descriptors as folders", lay: lay, steps: []string{"open 9 d inner", "chown s:/proc/self/fd/9" + ids, "fchownat 9 s:x" + ids + " 0"}, want: "0 0"},
	}
	for _, path := range []string{"/proc/self/fd/9", "/proc/thread-self/fd/9", "/dev/fd/9"} {
		scenes = append(scenes, scene{name: path, lay: lay, steps: []string{"open 9 r f", "chown s:" + path + ids}, want: "0"},
			scene{name: "O_PATH " + path, lay: lay, steps: []string{"open 9 p f", "chown s:" + path + ids}, want: "0"},
			scene{name: "at " + path, lay: lay, steps: []string{"open 9 r f", "fchownat 55 s:" + path + ids + " 0"}, want: "0"},
			scene{name: "i386 " + path, lay: lay, steps: []string{"open 9 r f", "i386:chown32 s:" + path + ids}, want: "0"})
	}
	for i, path := range []string{"/dev/stdin", "/dev/stdout", "/dev/stderr"} {
		open := map[int]string{0: "open 0 r f", 1: "open 1 w f", 2: "open 2 w f"}[i]
		// Descriptor 1 takes the caller's answer away; what the files are afterwards tells enough.
		want := "0"
		if i == 1 {
			want = ""
		}
		scenes = append(scenes, scene{name: path, lay: lay, steps: []string{open, "chown s:" + path + ids}, want: want})
	}
	// Low numbers are open in the supervisor as well.
	for _, n := range []string{"3", "4", "5", "6", "7"} {
		scenes = append(scenes, scene{name: "descriptor " + n, lay: lay, steps: []string{"open " + n + " r f", "chown s:/proc/self/fd/" + n + ids, "fchown " + n + " #12345 #12345"}, want: "0 0"},
			scene{name: "no descriptor " + n, lay: lay, steps: []string{"chown s:/proc/self/fd/" + n + ids}, want: "ENOENT", either: true})
	}
	for _, path := range []string{"through-fd", "through-thread", "/proc//self/fd/9", "/proc/./self/fd/9", "/proc/self/../self/fd/9", "/proc/self/fd/../fd/9", "/dev/../dev/fd/9", "/proc/self/fd/9/"} {
		want := "0"
		if path == "/proc/self/fd/9/" {
			want = "ENOTDIR"
		}
		scenes = append(scenes, scene{name: path, lay: lay, steps: []string{"open 9 r f", "chown s:" + path + ids}, want: want, either: true})
	}
	for _, path := range []string{"/proc/self/cwd/x", "/proc/thread-self/cwd/x", "../through-cwd", "/proc/self/root/run/stage/inner/x", "/proc/self/task/../cwd/x"} {
		scenes = append(scenes, scene{name: path, lay: lay, steps: []string{"chdir inner", "chown s:" + path + ids}, want: "0", either: true})
	}
	scenes = append(scenes,
		scene{name: "a link to /proc/self/root", lay: lay, steps: []string{"chown s:through-root" + ids}, want: "0", either: true},
		// In a chroot that has a /proc, root is the caller's.
		scene{name: "a link to /proc/self/root in a chroot", lay: func() {
			lay()
			folder("jail/proc", 0o755, 0, 0)
			folder("jail/run/stage/etc", 0o755, 0, 0)
			file("jail/run/stage/etc/x", 0o644, 0, 0)
			link("/proc/self/root/run/stage/etc/x", "jail/l")
		}, steps: []string{"unshare mount", "private", "bind /proc jail/proc", "chroot jail", "chdir /", "chown s:/l" + ids, "chown s:/proc/self/root/run/stage/etc/x" + ids}, want: "0 0", either: true},
	)
	for _, path := range []string{"/proc/self/fd/09", "/proc/self/fd/+9", "/proc/self/fd/4294967305", "/proc/self/fd/-1", "/proc/self/fd/9x", "/proc/self/fd/55"} {
		scenes = append(scenes, scene{name: path, lay: lay, steps: []string{"open 9 r f", "chown s:" + path + ids}, want: "ENOENT", either: true})
	}
	play(t, scenes)
}
