package supervise

import (
	"fmt"
	"strings"
	"testing"
)

// Access control lists and capabilities of files have ids in them.
func TestAttributes(t *testing.T) {
	const access, initial, capability = "s:system.posix_acl_access", "s:system.posix_acl_default", "s:security.capability"
	lay := func() {
		file("f", 0o640, 0, 0)
		folder("d", 0o750, 0, 0)
		link("f", "l")
	}
	scenes := []scene{
		{name: "access", steps: []string{"setxattr s:f " + access + " a:u#65532,u7,g#12345 60 0", "attributes f", "open 5 w f", "fsetxattr 5 " + access + " a:u#50000 44 0", "attributes f", "setxattr s:l " + access + " a:g#50000 44 0", "attributes f", "lsetxattr s:l " + access + " a:g#50000 44 0"}, want: "0 0 0 EOPNOTSUPP"},
		{name: "default", steps: []string{"lsetxattr s:d " + initial + " a:u#65532,g#4294967294 52 0", "attributes d", "touch d/new", "attributes d/new", "setxattr s:f " + initial + " a:u#65532 44 0"}, want: "0 EACCES"},
		{name: "two ids with one place", steps: []string{"setxattr s:f " + access + " a:u#50000,u#51048 52 0", "attributes f"}, want: "0"},
		{name: "many", steps: []string{"setxattr s:f " + access + " a:" + many("u#%d", 65000, 250) + " 2036 0", "attributes f"}, want: "0"},
		{name: "flags", steps: []string{"setxattr s:f " + access + " a:u#65532 44 2", "setxattr s:f " + access + " a:u#65532 44 1", "setxattr s:f " + access + " a:u#65532 44 1", "setxattr s:f " + access + " a:u#65532 44 8", "attributes f"}, want: "0 0 0 EINVAL"},
		{name: "capability", steps: []string{"setxattr s:f " + capability + " c:#100000 24 0", "attributes f", "setxattr s:f " + capability + " c:0 24 0", "attributes f", "setxattr s:f " + capability + " c:#100000 20 0"}, want: "0 0 EINVAL"},
		{name: "others of these sizes", steps: []string{"setxattr s:f s:trusted.x a:u#65532 44 0", "setxattr s:f s:user.overlong.name.that.goes.on.and.on.for.more.than.32 c:#65532 24 0", "setxattr s:f s:system.posix_acl_accessx a:u#65532 44 0", "setxattr s:f s: a:u#65532 44 0"}, want: "EPERM 0 EOPNOTSUPP ERANGE", native: true},
		{name: "bad ones", steps: []string{"setxattr s:f " + access + " a:u#65532 43 0", "setxattr s:f " + access + " a:u#65532 45 0", "setxattr s:f " + access + " bad 44 0", "setxattr bad " + access + " a:u7 44 0", "setxattr s:f bad a:u#65532 44 0", "setxattr s:f " + access + " a:u-1 44 0", "setxattr s:f " + access + " a:u#65532 70000 0", "setxattr s:none " + access + " a:u7 44 0", "fsetxattr 77 " + access + " a:u7 44 0"}, want: "EINVAL EINVAL EFAULT EFAULT EFAULT EINVAL E2BIG ENOENT EBADF", native: true},
		{name: "by a user", steps: []string{"become 1000 1000 1000", "setxattr s:f " + access + " a:u#65532 44 0", "setxattr s:f " + capability + " c:#65532 24 0", "attributes f"}, want: "EPERM EPERM"},
		{name: "by the owner", lay: func() { file("f", 0o640, 1000, 1000) }, steps: []string{"become 1000 1000 1000", "setxattr s:f " + access + " a:u#65532 44 0", "attributes f"}, want: "0"},
		{name: "i386", steps: []string{"i386:setxattr s:f " + access + " a:u#65532,g#12345 52 0", "attributes f", "open 5 w f", "i386:fsetxattr 5 " + access + " a:u#50000 44 0", "attributes f", "i386:lsetxattr s:f " + capability + " c:#65532 24 0", "attributes f"}, want: "0 0 0"},
		{name: "by a struct", since: "6.13", steps: []string{"setxattrat -100 s:f 0 " + access + " t:u#65532,g#12345 16", "attributes f", "open 5 d d", "setxattrat 5 s:../l 0x100 " + access + " t:u#65532 16", "setxattrat 5 s:../l 0 " + access + " t:u#50000 16", "attributes f", "setxattrat 5 s:../l 0 " + access + " bad 16"}, want: "0 EOPNOTSUPP 0 EFAULT"},
		{name: "in a thread, by processes that share memory", steps: []string{"vfork", "setxattr s:f " + access + " a:u#65532 44 0", "thread 262144", "setxattr s:f " + access + " a:g#65532 44 0", "attributes f"}, want: "0 0"},
	}
	for i := range scenes {
		if scenes[i].lay == nil {
			scenes[i].lay = lay
		}
	}
	play(t, scenes)
}

// A value that nobody can write to is refused as it is, and stays.
func TestAttributeOfAFile(t *testing.T) {
	inNode(t, func(t *testing.T) {
		freshStage(t)
		file("f", 0o640, 0, 0)
		o := runIn(t, stage, supervised(caller, "setxattr s:f s:system.posix_acl_access A:u#65532 44 0", "setxattr s:f s:system.posix_acl_access A:u7 44 0", "attributes f")...)
		if got := answers(o.out); o.code != 0 || got != "EINVAL 0" {
			t.Errorf("answers %q, status %d\n%s", got, o.code, o.out)
		}
	})
}

func many(format string, first, count int) string {
	all := make([]string, count)
	for i := range all {
		all[i] = fmt.Sprintf(format, first+i)
	}
	return strings.Join(all, ",")
}
