//go:build !nri08

package nri

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/nri/pkg/api"

	"uid-nri-plugin/tests/node"
	"uid-nri-plugin/tests/nri/internal/engine"
)

// wanting is a pod of a container that needs a user's ids: told by the
// container where the runtime tells its user, else by the pod's annotation.
func wanting(id string, user engine.User) *api.PodSandbox {
	if engine.TellsUser {
		return engine.NewPod(id, nil)
	}
	return engine.NewPod(id, map[string]string{engine.AnnotationKey: engine.Claim(user)})
}

// namespaceOf is the user namespace's file of a container that got one.
func namespaceOf(t *testing.T, pod *api.PodSandbox, adjust *api.ContainerAdjustment) string {
	t.Helper()
	path := engine.UserNamespace(adjust)
	if match, _ := filepath.Match(podsDir+"/"+pod.Id+"/*.user", path); !match {
		t.Fatalf("user namespace: got path %q", path)
	}
	return path
}

// wantMaps fails the test unless the namespace, and the annotations that tell
// of it, have exactly these maps.
func wantMaps(t *testing.T, adjust *api.ContainerAdjustment, uids, gids idMap) {
	t.Helper()
	uidText, gidText := mapsOf(t, engine.UserNamespace(adjust))
	for _, c := range []struct {
		kind, text, annotation string
		want                   idMap
	}{
		{"uid", uidText, "/uid-mappings", uids},
		{"gid", gidText, "/gid-mappings", gids},
	} {
		got, err := mapFromText(c.text)
		check(t, err)
		if !maps.Equal(got, c.want) {
			t.Errorf("%s map: %s", c.kind, differences(got, c.want))
		}
		var extents []struct{ ContainerID, HostID, Size *uint32 }
		value := adjust.Annotations[engine.AnnotationKey+c.annotation]
		if err := json.Unmarshal([]byte(value), &extents); err != nil {
			t.Fatalf("annotation %s: %v in %q", c.annotation, err, value)
		}
		var text strings.Builder
		for _, x := range extents {
			if x.ContainerID == nil || x.HostID == nil || x.Size == nil {
				t.Fatalf("annotation %s lacks a field: %q", c.annotation, value)
			}
			fmt.Fprintln(&text, *x.ContainerID, *x.HostID, *x.Size)
		}
		if told, want := text.String(), strings.Join(strings.Fields(c.text), " "); strings.Join(strings.Fields(told), " ") != want {
			t.Errorf("annotation %s tells another map than the namespace has:\n%s\nand\n%s", c.annotation, told, c.text)
		}
		if !strings.Contains(value, `"containerID":`) || !strings.Contains(value, `"hostID":`) || !strings.Contains(value, `"size":`) {
			t.Errorf("annotation %s is not spelled as in OCI: %q", c.annotation, value)
		}
	}
}

func TestContainerGetsTheMapOfTheRule(t *testing.T) {
	fixture(t)
	e := start(t, engine.Config{})
	for i, user := range []engine.User{
		{UID: 10001, GID: 10001},
		{UID: 1000660000, GID: 0, GIDs: []uint32{1000660000}},
		{UID: 50000, GID: 3, GIDs: []uint32{2048, 27}},
		{UID: 4294967294, GID: 4294967294},
		{UID: 65535, GID: 65535},
		{UID: 2652, GID: 65534}, // on the slot of 65532, which is only claimed
		{UID: 2096, GID: 2096},  // on the first slot of all
	} {
		t.Run(fmt.Sprint(user), func(t *testing.T) {
			pod := wanting(fmt.Sprint("rule", i), user)
			adjust := create(t, e, pod, engine.NewContainer(pod, "c", user, nil))
			namespaceOf(t, pod, adjust)
			wantMaps(t, adjust, mapOf([]uint32{user.UID}, defaultClaims),
				mapOf(append([]uint32{user.GID}, user.GIDs...), defaultClaims))
			check(t, e.RemovePod(pod))
		})
	}
	wantNoState(t)
}

func TestConfiguredAndAnnotatedIDs(t *testing.T) {
	fixture(t)
	e := start(t, engine.Config{Conf: "claim-uids = 70000\nclaim-gids = 70001-70003\n"})
	pod := engine.NewPod("annotated", map[string]string{
		engine.AnnotationKey:                     "inject=never",
		engine.AnnotationKey + "/pod":            "claim-uids=1",
		engine.AnnotationKey + "/container.main": "claim-uids=50000,10001-10005 claim-gids=60000",
	})
	adjust := create(t, e, pod, engine.NewContainer(pod, "main", engine.User{}, nil))
	namespaceOf(t, pod, adjust)
	wantMaps(t, adjust,
		mapOf([]uint32{0}, []uint32{50000, 10001, 10002, 10003, 10004, 10005, 70000}),
		mapOf([]uint32{0}, []uint32{60000, 70001, 70002, 70003}))
}

func TestAnnotatedNeverAndAlways(t *testing.T) {
	fixture(t)
	e := start(t, engine.Config{})
	user := engine.User{UID: 10001, GID: 10001}
	never := engine.NewPod("never", map[string]string{engine.AnnotationKey: "inject=never claim-uids=10001"})
	create(t, e, never, engine.NewContainer(never, "c", user, nil))
	wantUntouched(t, e)
	always := engine.NewPod("always", map[string]string{engine.AnnotationKey + "/pod": "inject=always"})
	adjust := create(t, e, always, engine.NewContainer(always, "c", engine.User{}, nil))
	wantMaps(t, adjust, mapOf([]uint32{0}, defaultClaims), mapOf([]uint32{0}, defaultClaims))
}

func TestInjectAllAndAnnotatedOnly(t *testing.T) {
	t.Run("all", func(t *testing.T) {
		fixture(t)
		e := start(t, engine.Config{Conf: "inject = all\nskip-namespaces = kube-system\n"})
		pod := engine.NewPod("all", nil)
		adjust := create(t, e, pod, engine.NewContainer(pod, "c", engine.User{}, nil))
		namespaceOf(t, pod, adjust)
		skipped := engine.NewPod("skipped", nil)
		skipped.Namespace = "kube-system"
		create(t, e, skipped, engine.NewContainer(skipped, "c", engine.User{}, nil))
		wantUntouched(t, e)
	})
	t.Run("annotated", func(t *testing.T) {
		fixture(t)
		e := start(t, engine.Config{Conf: "inject = annotated\n"})
		user := engine.User{UID: 10001, GID: 10001}
		silent := engine.NewPod("silent", nil)
		create(t, e, silent, engine.NewContainer(silent, "c", user, nil))
		wantUntouched(t, e)
		pod := engine.NewPod("asking", map[string]string{engine.AnnotationKey: engine.Claim(user)})
		adjust := create(t, e, pod, engine.NewContainer(pod, "c", user, nil))
		namespaceOf(t, pod, adjust)
	})
}

func TestContainersThatAreLeftAlone(t *testing.T) {
	fixture(t)
	e := start(t, engine.Config{Conf: "inject = all\n"})
	process := newPodProcess(t, false)
	user := engine.User{UID: 10001, GID: 10001}

	t.Run("host network", func(t *testing.T) {
		pod := wanting("hostnet", user)
		ctr := engine.NewContainer(pod, "c", user, process)
		pod.Linux.Namespaces = slices.DeleteFunc(pod.Linux.Namespaces, func(ns *api.LinuxNamespace) bool { return ns.Type == "network" })
		for _, ns := range ctr.Linux.Namespaces {
			if ns.Type == "network" {
				ns.Path = fmt.Sprintf("/proc/%d/ns/net", os.Getpid())
			}
		}
		create(t, e, pod, ctr)
		wantUntouched(t, e)
	})
	t.Run("privileged", func(t *testing.T) {
		pod := wanting("privileged", user)
		ctr := engine.NewContainer(pod, "c", user, process)
		for _, m := range ctr.Mounts {
			m.Options = slices.DeleteFunc(m.Options, func(o string) bool { return o == "ro" })
		}
		create(t, e, pod, ctr)
		wantUntouched(t, e)
	})
	t.Run("own user namespace", func(t *testing.T) {
		pod := wanting("hostusers", user)
		ctr := engine.NewContainer(pod, "c", user, process)
		ctr.Linux.Namespaces = append(ctr.Linux.Namespaces, &api.LinuxNamespace{Type: "user", Path: process.Namespace("user")})
		create(t, e, pod, ctr)
		wantUntouched(t, e)
	})
	t.Run("none of these", func(t *testing.T) {
		pod := wanting("control", user)
		namespaceOf(t, pod, create(t, e, pod, engine.NewContainer(pod, "c", user, process)))
	})
}

func TestOnePodOneNamespace(t *testing.T) {
	fixture(t)
	e := start(t, engine.Config{})
	user := engine.User{UID: 10001, GID: 10001}
	other := engine.User{UID: 10002, GID: 10002}

	pod := wanting("one", user)
	first := namespaceOf(t, pod, create(t, e, pod, engine.NewContainer(pod, "init", user, nil)))
	again := namespaceOf(t, pod, create(t, e, pod, engine.NewContainer(pod, "main", user, nil)))
	if first != again {
		t.Errorf("two containers of a pod with the same ids: %s and %s", first, again)
	}

	if !engine.TellsUser {
		pod.Annotations[engine.AnnotationKey+"/container.side"] = engine.Claim(other)
	}
	side := create(t, e, pod, engine.NewContainer(pod, "side", other, nil))
	if namespaceOf(t, pod, side) == first {
		t.Errorf("containers with different ids share %s", first)
	}
	wantMaps(t, side, mapOf([]uint32{10002}, defaultClaims), mapOf([]uint32{10002}, defaultClaims))

	pod2 := wanting("two", user)
	second := namespaceOf(t, pod2, create(t, e, pod2, engine.NewContainer(pod2, "main", user, nil)))
	if inode(t, second) == inode(t, first) {
		t.Errorf("two pods share a user namespace")
	}

	check(t, e.RemovePod(pod))
	wantPods(t, "two")
	mapsOf(t, second)
	check(t, e.RemovePod(pod2))
	wantNoState(t)
}

func TestCollisionsAreToldAndLargeRepliesArrive(t *testing.T) {
	fixture(t)
	e := start(t, engine.Config{})
	// 2101, 3149, 4197 ... all belong on slot 1005, and so on for slots up to 1014.
	var claims []string
	for i := range 300 {
		claims = append(claims, fmt.Sprint(5+i%10+(2+i/10)*slots))
	}
	pod := engine.NewPod("crowded", map[string]string{engine.AnnotationKey: "claim-uids=" + strings.Join(claims, ",")})
	adjust := create(t, e, pod, engine.NewContainer(pod, "c", engine.User{}, nil))
	namespaceOf(t, pod, adjust)

	var want []uint32
	for i := range uint32(10) {
		want = append(want, 5+i+2*slots)
	}
	wantMaps(t, adjust, mapOf([]uint32{0}, append(want, defaultClaims...)), mapOf([]uint32{0}, defaultClaims))
	var collisions []any
	check(t, json.Unmarshal([]byte(adjust.Annotations[engine.AnnotationKey+"/collisions"]), &collisions))
	if told := len(collisions); told < 100 || told > len(claims)-len(want) {
		t.Errorf("%d collisions told, of %d", told, len(claims)-len(want))
	}
	// The library reads a reply's first bytes into a buffer of 4096 and fails
	// on a longer first piece, so this size tells whether ours is cut right.
	if size := len(lastReply(t, e, "CreateContainer").Response); size <= 4096 {
		t.Errorf("the reply has %d bytes: too few to test a large one", size)
	}

	refusing := engine.NewPod("refusing", map[string]string{engine.AnnotationKey: "collisions=refuse claim-uids=2101,3149"})
	wantRefusal(t, e, refusing, engine.NewContainer(refusing, "c", engine.User{}, nil), "3149")
}

func TestRepliesOfAllSizes(t *testing.T) {
	fixture(t)
	e := start(t, engine.Config{})
	// Every id between others is two more lines in a map: from some hundred
	// bytes the replies grow past 4096 and 8192 in small steps.
	sizes := map[int]bool{}
	for n := 1; n <= 120; n++ {
		var claims []string
		for i := range n {
			claims = append(claims, fmt.Sprint(100000+2*i))
		}
		pod := engine.NewPod(fmt.Sprint("size", n), map[string]string{engine.AnnotationKey: "claim-gids=" + strings.Join(claims, ",")})
		adjust := create(t, e, pod, engine.NewContainer(pod, "c", engine.User{}, nil))
		namespaceOf(t, pod, adjust)
		sizes[len(lastReply(t, e, "CreateContainer").Response)/4096] = true
		check(t, e.RemovePod(pod))
	}
	if !sizes[0] || !sizes[1] || !sizes[2] {
		t.Errorf("replies of under 4096, under 8192 and more bytes were wanted, got %v", sizes)
	}
}

func TestAClaimOfNoIDIsRefused(t *testing.T) {
	fixture(t)
	e := start(t, engine.Config{})
	bad := engine.NewPod("bad", map[string]string{engine.AnnotationKey: "claim-uids=4294967295"})
	wantRefusal(t, e, bad, engine.NewContainer(bad, "c", engine.User{}, nil), "4294967295")
	wantNoState(t)

	user := engine.User{UID: 10001, GID: 10001}
	pod := wanting("after", user)
	namespaceOf(t, pod, create(t, e, pod, engine.NewContainer(pod, "c", user, nil)))
}

func TestMoreClaimsThanAMapHolds(t *testing.T) {
	fixture(t)
	e := start(t, engine.Config{})
	var claims []string
	for i := range 400 {
		claims = append(claims, fmt.Sprint(3000000001+4*i))
	}
	pod := engine.NewPod("many", map[string]string{engine.AnnotationKey: "claim-uids=" + strings.Join(claims, ",")})
	adjust := create(t, e, pod, engine.NewContainer(pod, "c", engine.User{}, nil))
	namespaceOf(t, pod, adjust)
	text, _ := mapsOf(t, engine.UserNamespace(adjust))
	if lines := strings.Count(text, "\n"); lines < 100 || lines > 340 {
		t.Errorf("the map has %d lines", lines)
	}
}

func TestPodsSurviveAPluginAndOnlyThoseThatStillLive(t *testing.T) {
	fixture(t)
	user := engine.User{UID: 10001, GID: 10001}
	process := newPodProcess(t, false)
	first := start(t, engine.Config{})
	kept, gone := wanting("kept", user), wanting("gone", user)
	before := namespaceOf(t, kept, create(t, first, kept, engine.NewContainer(kept, "c", user, process)))
	number := inode(t, before)
	create(t, first, gone, engine.NewContainer(gone, "c", user, process))
	first.Stop()
	wantPods(t, "gone", "kept")

	second := start(t, engine.Config{Pods: []*api.PodSandbox{kept}})
	wantPods(t, "kept")
	mounts, err := node.MountsUnder(stateDir)
	check(t, err)
	for _, point := range mounts {
		if !strings.HasPrefix(point, podsDir+"/kept/") {
			t.Errorf("%s is still mounted", point)
		}
	}
	after := namespaceOf(t, kept, create(t, second, kept, engine.NewContainer(kept, "d", user, process)))
	if before != after || number != inode(t, after) {
		t.Errorf("the pod's namespace changed: %s (%d) to %s (%d)", before, number, after, inode(t, after))
	}
	check(t, second.RemovePod(kept))
	wantNoState(t)
}
