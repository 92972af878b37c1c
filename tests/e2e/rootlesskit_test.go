package e2e

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"uid-nri-plugin/tests/e2e/lab"
)

// Nodes that a user with 2048 subordinate ids starts with RootlessKit, for each snapshotter: first without the plugin,
// then with it, then with containerd below "uid-nri-plugin supervise" besides.

// kit is what RootlessKit makes of such a user: the own id is root, and the 2048 others follow.
var kit = layout{
	name: "rootlesskit", uids: lab.OfUser, pool: 2049,
	pause:  lab.Image{Name: pauseAsRoot, Cmd: forever},
	images: []lab.Image{{Name: tools, Cmd: forever}, {Name: user10001, User: "10001:10001", Cmd: forever}},
}

func TestRootlessKitNative(t *testing.T)    { inRootlessKit(t, lab.Native) }
func TestRootlessKitOverlayfs(t *testing.T) { inRootlessKit(t, lab.Overlayfs) }

func TestRootlessKitFuseOverlayfs(t *testing.T) {
	if os.Getenv("LAB_FUSE_OVERLAYFS") == "" {
		t.Fatal("LAB_FUSE_OVERLAYFS is not set: start the tests with tests/run.sh")
	}
	inRootlessKit(t, lab.FuseOverlayfs)
}

func inRootlessKit(t *testing.T, snapshotter string) {
	binary, err := pluginBinary()
	must(t, err)
	s := ownSite(t, kit, options{rootlessKit: true, snapshotter: snapshotter})
	for _, file := range []string{"uid_map", "gid_map"} {
		out, err := s.Run("cat", "/proc/self/"+file)
		must(t, err)
		equal(t, file+" of the node", strings.Join(strings.Fields(out), " "), fmt.Sprintf("0 %d 1 1 %d 2048", kit.uids[0].Machine, kit.uids[1].Machine))
	}
	high := withFiles("high", lab.Owned{Uid: 65532, Gid: 65532}, lab.Owned{Uid: 1185200044, Gid: 1185200044}, lab.Owned{Uid: 2048, Gid: 2048})

	t.Run("bare", func(t *testing.T) {
		pod := s.pod(t, lab.Pod{})
		refused(t, pod, lab.Container{Image: tools, User: lab.ID(10001)}, noSuchOwner)
		refused(t, pod, lab.Container{Image: user10001}, noSuchOwner)
		s.notUnpacked(t, high)
	})

	must(t, s.InstallPlugin(binary))
	must(t, s.RestartContainerd())
	t.Run("plugin", func(t *testing.T) {
		s.notUnpacked(t, high)
		s.runs10001(t, snapshotter)
	})

	must(t, s.SetUp(pauseStock))
	must(t, s.RestartContainerd())
	must(t, s.Import(lab.Image{Name: pauseStock, User: "65535:65535", Cmd: forever}))
	t.Run("stock pause", func(t *testing.T) {
		if _, err := s.RunPod(lab.Pod{Name: "stock"}); err == nil {
			t.Error("the stock pause image ran without the supervisor")
		} else {
			contains(t, "the error", err.Error(), noSuchGroups)
		}
	})

	must(t, s.Supervise(binary))
	must(t, s.RestartContainerd())
	t.Run("supervised", func(t *testing.T) {
		s.runs10001(t, snapshotter)
		must(t, s.Import(high))
		s.unpacked(t, kit, high)
		pod := s.pod(t, lab.Pod{})
		equal(t, "the pause process", s.process(t, s.sandboxPid(t, pod)),
			fmt.Sprintf("Uid: %s Gid: %s Groups: 1497", four(1497), four(1497)))
		r := start(t, pod, lab.Container{Image: high.Name, Command: forever})
		equal(t, "the image's user", sh(t, r, "id -u; id -G"), "65532\n65532")
		equal(t, "owners inside", sh(t, r, "cd /home/nonroot && touch new && stat -c %u:%g . new"), "65532:65532\n65532:65532")
		alone := s.pod(t, lab.Pod{Name: "alone", Annotations: map[string]string{"uid-mapper.noderesource.dev": "inject=never"}})
		r = start(t, alone, lab.Container{Image: tools, User: lab.ID(10001)})
		equal(t, "without a namespace", sh(t, r, "id -u; touch /tmp/x && stat -c %u:%g /tmp/x"), "1560\n1560:0")
		r = start(t, alone, lab.Container{Name: "root", Image: tools})
		equal(t, "chown", sh(t, r, "touch /tmp/x && chown 12345:1185200044 /tmp/x && stat -c %u:%g /tmp/x"), fmt.Sprintf("1806:%d", kit.place(1185200044)))
	})
}

// rootMount is what a container's root is mounted from, by snapshotter. A native one is a folder of the user's home.
var rootMount = map[string]string{
	lab.Native:        "node on / type tmpfs ",
	lab.Overlayfs:     "overlay on / type overlay ",
	lab.FuseOverlayfs: "fuse-overlayfs on / type fuse.fuse-overlayfs ",
}

// runs10001 runs containers as 10001, which the node lacks, on what the snapshotter gives them.
func (s *site) runs10001(t *testing.T, snapshotter string) {
	t.Helper()
	pod := s.pod(t, lab.Pod{})
	volume := s.volume(t, "0:0", "1777")
	for _, c := range []struct {
		lab.Container
		ids, gids string
	}{
		{lab.Container{Image: tools, User: lab.ID(10001)}, "10001 0", "0 0 1\n1 1 1493\n1498 1498 551\n65532 1494 4"},
		{lab.Container{Image: user10001}, "10001 10001", "0 0 1\n1 1 1493\n1498 1498 62\n1561 1561 488\n10001 1560 1\n65532 1494 4"},
	} {
		c.Name, c.Mounts = strings.TrimSuffix(strings.TrimPrefix(c.Image, "localhost/"), ":test"), []lab.Mount{volume}
		r := start(t, pod, c.Container)
		mapped(t, s, r)
		equal(t, "id", sh(t, r, "echo $(id -u) $(id -g)"), c.ids)
		equal(t, "gid_map", idMap(t, r, "gid_map"), c.gids)
		equal(t, "uid_map", idMap(t, r, "uid_map"), "0 0 1\n1 1 1493\n1498 1498 62\n1561 1561 488\n10001 1560 1\n65532 1494 4")
		equal(t, "owner inside", sh(t, r, "cd /tmp && touch mine /data/file && stat -c '%u %g' mine"), c.ids)
		contains(t, "the root file system", sh(t, r, "mount | head -n 1"), rootMount[snapshotter])
		must(t, r.Remove())
	}
	equal(t, "owner on the node", s.owner(t, volume.Node+"/file"), "1560:0")
	info, err := os.Stat(s.Path(volume.Node + "/file"))
	must(t, err)
	owner := info.Sys().(*syscall.Stat_t)
	equal(t, "owner on the machine", fmt.Sprintf("%d:%d", owner.Uid, owner.Gid), fmt.Sprintf("%d:%d", kit.uids[1].Machine+1559, kit.uids[0].Machine))
}
