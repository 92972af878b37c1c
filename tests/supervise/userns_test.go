package supervise

import "testing"

// A caller in another user namespace has ids of its own. The plugin's namespaces are pinned as files; others are none
// of the supervisor's business.
func TestUserNamespaces(t *testing.T) {
	lay := func() {
		file("f", 0o666, 0, 0)
		file("g", 0o666, 5, 5)
		file("foreign", 0o666, 2040, 2040)
		file("other", 0o666, 2046, 2046)
	}
	// As the plugin makes them: identity, but 65532 has the slot that the rule gives to it.
	const made = "userns 0:0:1556,65532:1556:1,1557:1557:491"
	// Without the node's 2040: then the node's root could do to files what this namespace's may not.
	const lacking = "userns 0:0:1556,65532:1556:1,1557:1557:483,2041:2041:7"
	ids := " #12345 #12345"
	play(t, []scene{
		// 65532 is in its map: the kernel's. To the node it is 1000.
		{name: "an id that the namespace knows", lay: lay, steps: []string{"userns 0:0:500,65532:1000:10", "chown s:f 65532 65533", "setgroups 1 g:65534", "setresgid 65532 65532 65532", "setresuid 65533 65533 65533", "status", "setuid 0"},
			want: "0 0 0 0 EPERM", native: true},
		{name: "an id that it does not know", lay: lay, steps: []string{"userns 0:0:500,65532:1000:10", "chown s:f 12345 -1", "lchown s:f -1 12345", "setresuid 12345 -1 -1", "setresgid 12345 -1 -1", "setgroups 1 g:12345", "setgroups 1 g:7", "status"},
			want: "EINVAL EINVAL EINVAL EINVAL EINVAL 0", native: true},
		// What a builder makes of its own has no pin, though it knows some ids under their own names.
		{name: "a builder's own", lay: lay, steps: []string{"userns 0:0:2048", "chown s:f 65532 65532", "setresuid 65532 65532 65532", "setgroups 1 g:65532", "i386:chown32 s:f 65532 65532"}, want: "EINVAL EINVAL EINVAL EINVAL", native: true},
		{name: "pinned: chown", lay: lay, steps: []string{"helper", made, "pin x", "chown s:f" + ids, "owner f", "chown s:g #2053 #2652>65532", "owner g", "chown s:g 65532 -1", "owner g", "unpin x"}, want: "0 0 0"},
		{name: "pinned: set-id", lay: lay, steps: []string{"helper", made, "pin x", "setgroups 3 g:#12345,7,#2652>65532", "setresgid #12345 #2652>65532 -1", "setregid #12345 #12345", "setresuid #12345 #12345 #12345", "status", "setuid 0", "unpin x"}, want: "0 0 0 0 EPERM"},
		{name: "pinned: i386", lay: lay, steps: []string{"helper", made, "pin x", "i386:chown32 s:f" + ids, "i386:setresuid32 #12345 #2652>65532 -1", "status", "unpin x"}, want: "0 0"},
		{name: "pinned: a map that lacks an id", lay: lay, steps: []string{"helper", lacking, "pin x", "chown s:foreign 12345 12345", "chown s:other 12345 12345", "chown s:f 2088 2088", "setresuid 2088 2088 2088", "setgroups 1 g:12345", "chown s:other 65532 2045", "unpin x"}, want: "EINVAL EINVAL EINVAL EINVAL EINVAL 0", native: true},
		{name: "pinned: a user without rights", lay: lay, steps: []string{"helper", made, "pin x", "become 1000 1000 1000", "chown s:f" + ids, "setuid #12345", "setgroups 1 g:#12345", "unpin x"}, want: "EPERM EPERM EPERM"},
		{name: "no longer pinned", lay: lay, steps: []string{"helper", made, "pin x", "chown s:f" + ids, "unpin x", "chown s:f 50000 50000", "setresgid 50000 -1 -1"}, want: "0 EINVAL EINVAL"},
		{name: "pinned late", lay: lay, steps: []string{"helper", made, "chown s:f 50000 50000", "pin x", "chown s:f" + ids, "unpin x"}, want: "EINVAL 0"},
		// The node's root may change the owner of a file that has none here; the root of a pinned namespace may not. 6.3: an
		// id-mapped mount of a tmpfs.
		{name: "pinned: a file without a valid owner", since: "5.12", itself: "6.3", lay: func() {
			lay()
			folder("mapped", 0o755, 0, 0)
			file("mapped/f", 0o666, 500, 500)
			file("mapped/own", 0o666, 1000, 1000)
		},
			steps: []string{"helper", "unshare mount", "private", "idmap mapped 1000:1000:1048", made, "pin x", "chown s:mapped/f" + ids, "chown s:mapped/f -1 #12345", "open 9 r mapped/f", "fchown 9" + ids, "chown s:mapped/own" + ids, "unpin x"},
			want:  "EPERM EOVERFLOW EPERM 0"},
		// Made inside of a pinned one: not pinned itself.
		{name: "below a pinned one", lay: lay, steps: []string{"helper", made, "pin x", "fork", "userns 0:0:1000", "chown s:f 12345 12345", "setresuid 12345 12345 12345", "unpin x"}, want: "EINVAL EINVAL", native: true},
	})
}
