package e2e

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"uid-nri-plugin/tests/e2e/lab"
)

// identity is a container that asks for ids which the node does not map.
type identity struct {
	name    string
	on      layout
	c       lab.Container
	control string // what the runtime says without the plugin
	uid     int    // what the container must then be
	groups  string // the first is the one of new files
}

var identities = []identity{
	{"runAsUser 10001", careful, lab.Container{Image: tools, User: lab.ID(10001)}, noSuchOwner, 10001, "0"},
	{"runAsUser 1000660000", careful, lab.Container{Image: tools, User: lab.ID(1000660000)}, noSuchOwner, 1000660000, "0"},
	{"runAsUser and runAsGroup", careful, lab.Container{Image: tools, User: lab.ID(50000), Group: lab.ID(50001)}, noSuchOwner, 50000, "50001"},
	{"group only", careful, lab.Container{Image: tools, User: lab.ID(1000), Group: lab.ID(10001)}, noSuchGroups, 1000, "10001"},
	{"supplementalGroups", careful, lab.Container{Image: tools, User: lab.ID(1000), Groups: []int{50000, 60001}}, noSuchGroups, 1000, "0 50000 60001"},
	{"root with a supplemental group", careful, lab.Container{Image: tools, Groups: []int{50000}}, noSuchGroups, 0, "0 50000"},
	// 51044 = 50000 + 1044: both belong on one slot.
	{"groups that collide", careful, lab.Container{Image: tools, User: lab.ID(10001), Groups: []int{50000, 51044}}, noSuchOwner, 10001, "0 50000 51044"},
	// place(10001) is 1605, an id that this container itself is a member of.
	{"a group on its own group's slot", careful, lab.Container{Image: tools, User: lab.ID(1000), Groups: []int{1605, 10001}}, noSuchGroups, 1000, "0 1605 10001"},
	// 2071 = 2044 + 27: group sudo's own id stays with sudo.
	{"a group with the remainder of sudo", careful, lab.Container{Image: tools, Groups: []int{2071}}, noSuchGroups, 0, "0 2071"},
	{"image with a high USER", careful, lab.Container{Image: user10001}, noSuchOwner, 10001, "10001"},
	{"image with a very high USER", careful, lab.Container{Image: userBig}, noSuchOwner, 1000660000, "0"},
	{"largest id", careful, lab.Container{Image: tools, User: lab.ID(2147483647)}, noSuchOwner, 2147483647, "0"},
	// A multiple of the pool: root's own id stays with root.
	{"an id with the remainder of root", careful, lab.Container{Image: tools, User: lab.ID(2044)}, noSuchOwner, 2044, "0"},

	{"runAsUser 10001", plain, lab.Container{Image: tools, User: lab.ID(10001)}, noSuchOwner, 10001, "0"},
	{"runAsUser 65532", plain, lab.Container{Image: tools, User: lab.ID(65532), Group: lab.ID(65532)}, noSuchOwner, 65532, "65532"},
	{"runAsUser 65534", plain, lab.Container{Image: tools, User: lab.ID(65534), Group: lab.ID(65534)}, noSuchOwner, 65534, "65534"},
	{"image with a very high USER", plain, lab.Container{Image: userBig}, noSuchOwner, 1000660000, "0"},
}

func TestIdentityWithoutPlugin(t *testing.T) {
	for _, i := range identities {
		t.Run(i.on.name+"/"+i.name, func(t *testing.T) {
			refused(t, bareSite(t, i.on).pod(t, lab.Pod{}), i.c, i.control)
		})
	}
}

func TestIdentity(t *testing.T) {
	for _, i := range identities {
		t.Run(i.on.name+"/"+i.name, func(t *testing.T) {
			s := equippedSite(t, i.on)
			volume := s.volume(t, "0:0", "1777")
			i.c.Mounts = []lab.Mount{volume}
			c := start(t, s.pod(t, lab.Pod{}), i.c)

			equal(t, "id -u", sh(t, c, "id -u"), fmt.Sprint(i.uid))
			equal(t, "groups", groups(t, c), sorted(i.groups))
			mapped(t, s, c)

			group, _, _ := strings.Cut(i.groups, " ")
			equal(t, "owner of a new file, inside", sh(t, c, "touch /data/file && stat -c %u:%g /data/file"), fmt.Sprintf("%d:%s", i.uid, group))
			var gid int
			fmt.Sscan(group, &gid)
			equal(t, "owner of a new file, on the node", s.owner(t, volume.Node+"/file"), fmt.Sprintf("%d:%d", i.on.place(i.uid), i.on.place(gid)))
		})
	}
}

// groups are the groups of a process in the container, in order: the kernel sorts them by the node's ids.
func groups(t *testing.T, r *lab.Running) string {
	t.Helper()
	return sorted(sh(t, r, "id -G"))
}

func sorted(numbers string) string {
	list := strings.Fields(numbers)
	slices.SortFunc(list, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	return strings.Join(list, " ")
}

// The numbers that users meet, spelt out, so that the rule above is not its own judge.
func TestPlaces(t *testing.T) {
	for _, want := range []struct {
		on        layout
		id, place int
	}{
		{careful, 10001, 1605}, {plain, 10001, 1569}, {plain, 65532, 1556}, {careful, 65532, 65532},
		{plain, 1000660000, 1256}, {careful, 2044, 2000}, {careful, 1000, 1000},
	} {
		equal(t, fmt.Sprintf("place(%d) on the %s node", want.id, want.on.name), want.on.place(want.id), want.place)
	}
}

// A node may map groups otherwise than users.
func TestGroupsMappedOtherwise(t *testing.T) {
	mixed := careful
	mixed.gids, mixed.pause, mixed.images = plain.uids, plain.pause, plain.images
	c := lab.Container{Image: tools, User: lab.ID(65534), Group: lab.ID(65534)}
	control := ownSite(t, mixed, options{})
	refused(t, control.pod(t, lab.Pod{}), c, noSuchGroups)

	s := ownSite(t, mixed, options{plugin: true})
	volume := s.volume(t, "0:0", "1777")
	c.Mounts = []lab.Mount{volume}
	r := start(t, s.pod(t, lab.Pod{}), c)
	mapped(t, s, r)
	equal(t, "id", sh(t, r, "id -u; id -G"), "65534\n65534")
	sh(t, r, "touch /data/file")
	equal(t, "owner on the node", s.owner(t, volume.Node+"/file"), "65534:1558")
}

// Where nothing is missing the plugin says so, and keeps out of the way.
func TestNodeWithAllIds(t *testing.T) {
	whole := plain
	whole.uids = lab.Whole
	s := ownSite(t, whole, options{plugin: true})
	r := start(t, s.pod(t, lab.Pod{}), highUser)
	equal(t, "id -u", sh(t, r, "id -u"), "10001")
	untouched(t, s, r)
	s.said(t, "having nothing to do", func(e lab.Entry) bool { return e["PRIORITY"] == "6" && has(e["MESSAGE"], "nothing to do") })
	s.only(t, lab.PluginFile) // it stays, since containerd would log its end as a failure
}

// kubelet starts pods side by side.
func TestManyAtOnce(t *testing.T) {
	s := equippedSite(t, careful)
	shared := s.pod(t, lab.Pod{Name: "at-once"})
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			pod, c := shared, lab.Container{Name: fmt.Sprintf("c%d", i), Image: tools, User: lab.ID(10001 + i/2)}
			if i%2 == 1 {
				var err error
				if pod, err = s.RunPod(lab.Pod{Name: fmt.Sprintf("at-once-%d", i)}); err != nil {
					t.Error(err)
					return
				}
				defer pod.Remove()
			}
			r, err := pod.Start(c)
			if err != nil {
				t.Error(err)
				return
			}
			out, err := r.Sh("id -u; ls /sys/class/net")
			if err != nil {
				t.Error(err)
			}
			equal(t, c.Name, out, fmt.Sprintf("%d\neth0\nlo", *c.User))
		})
	}
	wait.Wait()
	equal(t, "namespaces of the shared pod", s.pinned(t, shared), 4)
}

// Ids that the node maps need no plugin, and get none.
func TestMappedIdsAreLeftAlone(t *testing.T) {
	s := equippedSite(t, careful)
	pod := s.pod(t, lab.Pod{})
	for _, c := range []lab.Container{
		{Name: "root", Image: tools},
		{Name: "user", Image: tools, User: lab.ID(1000), Groups: []int{2043}},
		{Name: "nonroot", Image: nonroot},
		{Name: "nobody", Image: tools, User: lab.ID(65534)},
	} {
		untouched(t, s, start(t, pod, c))
	}
	if left := s.states(t, pod); left != "" {
		t.Errorf("the plugin made something for the pod: %s", left)
	}
}

// fsGroup: kubelet gives a volume to the group, on the node, where only the group's place is an id.
func TestVolumeOfFsGroup(t *testing.T) {
	group := 50000
	c := lab.Container{Image: tools, User: lab.ID(10001), Groups: []int{group}}
	control := bareSite(t, careful)
	c.Mounts = []lab.Mount{control.volume(t, fmt.Sprintf("0:%d", careful.place(group)), "2770")}
	refused(t, control.pod(t, lab.Pod{}), c, noSuchOwner)

	s := equippedSite(t, careful)
	volume := s.volume(t, fmt.Sprintf("0:%d", careful.place(group)), "2770")
	c.Mounts = []lab.Mount{volume}
	r := start(t, s.pod(t, lab.Pod{}), c)
	equal(t, "owner of the volume, inside", sh(t, r, "stat -c %u:%g /data"), "0:50000")
	equal(t, "owner of a file in it, inside", sh(t, r, "echo hello >/data/file && stat -c %u:%g /data/file"), "10001:50000")
	equal(t, "owner of a file in it, on the node", s.owner(t, volume.Node+"/file"), fmt.Sprintf("1605:%d", careful.place(group)))
}

// Two containers with different users, and the files that they share.
func TestTwoUsersInOnePod(t *testing.T) {
	first := lab.Container{Name: "first", Image: tools, User: lab.ID(10001)}
	second := lab.Container{Name: "second", Image: tools, User: lab.ID(50000), Groups: []int{10001}}
	control := bareSite(t, careful).pod(t, lab.Pod{})
	refused(t, control, first, noSuchOwner)

	s := equippedSite(t, careful)
	volume := s.volume(t, "0:0", "1777")
	first.Mounts, second.Mounts = []lab.Mount{volume}, []lab.Mount{volume}
	pod := s.pod(t, lab.Pod{})
	a, b := start(t, pod, first), start(t, pod, second)
	mapped(t, s, a)
	mapped(t, s, b)
	sh(t, a, "echo hello >/data/file && chmod 600 /data/file")
	equal(t, "first's user", sh(t, a, "id -u"), "10001")
	equal(t, "second's user", sh(t, b, "id -u"), "50000")
	if out, err := b.Sh("cat /data/file"); err == nil {
		t.Errorf("the second container read the first one's file: %q", out)
	}
	equal(t, "the file's owner on the node", s.owner(t, volume.Node+"/file"), "1605:0")
	equal(t, "namespaces of the pod", s.pinned(t, pod), 2)
}

// Init containers: one after the other, with the same ids and so the same namespace.
func TestInitContainers(t *testing.T) {
	initial := lab.Container{Name: "init", Image: tools, User: lab.ID(10001), Command: []string{"sh", "-c", "id -u; echo ready >/data/file"}}
	control := bareSite(t, careful).pod(t, lab.Pod{})
	refused(t, control, initial, noSuchOwner)

	s := equippedSite(t, careful)
	volume := s.volume(t, "0:0", "1777")
	initial.Mounts = []lab.Mount{volume}
	pod := s.pod(t, lab.Pod{})
	first := start(t, pod, initial)
	code, err := first.Wait()
	must(t, err)
	equal(t, "exit code of the init container", code, 0)
	equal(t, "output of the init container", first.Output(), "10001\n")

	main := start(t, pod, lab.Container{Image: tools, User: lab.ID(10001), Mounts: initial.Mounts})
	equal(t, "what the init container left", sh(t, main, "cat /data/file; stat -c %u /data/file"), "ready\n10001")
	equal(t, "namespaces of the pod", s.pinned(t, pod), 1)
}

func TestExec(t *testing.T) {
	c := lab.Container{Image: tools, User: lab.ID(10001), Groups: []int{50000}}
	refused(t, bareSite(t, careful).pod(t, lab.Pod{}), c, noSuchOwner)

	s := equippedSite(t, careful)
	r := start(t, s.pod(t, lab.Pod{}), c)
	// Both ways that the CRI has: one call, and a stream.
	for _, sync := range []string{"-s=true", "-s=false"} {
		out, err := s.Run("crictl", "exec", sync, r.ID, "sh", "-c", "id -u; id -G; readlink /proc/self/ns/user")
		must(t, err)
		equal(t, "crictl exec "+sync, strings.TrimSpace(out), "10001\n0 50000\n"+userNamespace(t, s, r))
	}
}

func TestReadOnlyRootFilesystem(t *testing.T) {
	c := lab.Container{Image: tools, User: lab.ID(10001), ReadOnly: true}
	refused(t, bareSite(t, careful).pod(t, lab.Pod{}), c, noSuchOwner)

	s := equippedSite(t, careful)
	c.Mounts = []lab.Mount{s.volume(t, "0:0", "1777")}
	r := start(t, s.pod(t, lab.Pod{}), c)
	equal(t, "id -u", sh(t, r, "id -u"), "10001")
	if _, err := r.Sh("touch /tmp/file"); err == nil {
		t.Error("the root file system can be written")
	} else {
		contains(t, "the error", err.Error(), "Read-only file system")
	}
	sh(t, r, "touch /data/file")
}

// More claims than a map has room for: what the container runs as comes first, and it starts.
func TestClaimsWithoutEnd(t *testing.T) {
	s := equippedSite(t, careful)
	r := start(t, s.pod(t, annotated("claim-uids=10000-19999 claim-gids=10000-19999")), lab.Container{Image: tools, User: lab.ID(77777)})
	equal(t, "id -u", sh(t, r, "id -u"), "77777")
	mapped(t, s, r)
}

// Ids that a container does not run as, but its pod claims: a program in it may chown to them, and become them.
func TestClaimedIds(t *testing.T) {
	c := lab.Container{Image: tools}
	const script = "touch /tmp/file && chown 50000:50007 /tmp/file && stat -c %u:%g /tmp/file"
	control := start(t, bareSite(t, careful).pod(t, lab.Pod{}), c)
	if _, err := control.Sh(script); err == nil {
		t.Error("chown to an unmapped id worked without the plugin")
	} else {
		contains(t, "the error", err.Error(), "Invalid argument")
	}

	s := equippedSite(t, careful)
	r := start(t, s.pod(t, lab.Pod{Annotations: map[string]string{
		annotation: "claim-uids=50000,10001-10005 claim-gids=50000-50010",
	}}), c)
	mapped(t, s, r)
	equal(t, "chown", sh(t, r, script), "50000:50007")
	for _, id := range []int{10001, 10005} {
		equal(t, "su", sh(t, r, fmt.Sprintf("echo u:x:%d:50010::/:/bin/sh >>/etc/passwd; su u -c 'id -u; id -g'; sed -i /^u:/d /etc/passwd", id)), fmt.Sprintf("%d\n50010", id))
	}
}
