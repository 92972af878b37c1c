package lab

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Where things are in a node. The plugin's are containerd's defaults.
const (
	PluginFile   = "/opt/nri/plugins/00-uid-mapper"
	PluginConfig = "/etc/nri/conf.d/00-uid-mapper.conf"
	StateDir     = "/run/uid-nri-plugin"
	Supervisor   = "/opt/uid-nri-plugin/uid-nri-plugin"

	containerdConfig = "/etc/containerd/config.toml"
	baseSpec         = "/etc/containerd/cri-base.json"
	hookFile         = "/kind/mount-file.sh"
	hookContent      = "/kind/content"
	fuseSocket       = "/run/containerd-fuse-overlayfs.sock"
	// A runtime handler whose containers get the hook that kind's node image has.
	Hooked = "hooked"
)

// %s: the name of the pause image, the command for runc (twice).
const configText = `version = 3
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "%s"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  BinaryName = "%s"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.hooked]
  runtime_type = "io.containerd.runc.v2"
  base_runtime_spec = "` + baseSpec + `"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.hooked.options]
  BinaryName = "%s"
`

// The same for containerd 1.7.
const configText17 = `version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "%s"
  restrict_oom_score_adj = true
  disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  BinaryName = "%s"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.hooked]
  runtime_type = "io.containerd.runc.v2"
  base_runtime_spec = "` + baseSpec + `"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.hooked.options]
  BinaryName = "%s"
`

// The snapshotter, if it is not containerd's own choice. %s: its name.
const snapshotterText = `[plugins."io.containerd.cri.v1.images"]
  snapshotter = "%s"
[proxy_plugins.` + FuseOverlayfs + `]
  type = "snapshot"
  address = "` + fuseSocket + `"
`

// Snapshotters of containerd. The last is a program of its own.
const (
	Native        = "native"
	Overlayfs     = "overlayfs"
	FuseOverlayfs = "fuse-overlayfs"
)

// A bridge of the node's own: pods can reach each other and the node.
const networkText = `{
  "cniVersion": "1.0.0", "name": "pods",
  "plugins": [{"type": "bridge", "bridge": "pods0", "isDefaultGateway": true,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]]}}]
}
`

// cgroup v2 without the cpu controller (a machine that still mounts it as v1) stops runc at the first limit, and
// containerd always sets some. /dev/pts for the group of terminals stops it where the node lacks that. %s is for jq.
const editAndRunc = `#!/bin/sh
bundle=
for word; do
	[ "$before" != --bundle ] || bundle=$word
	before=$word
done
if [ -n "$bundle" ]; then
	jq '%s' "$bundle/config.json" >"$bundle/config.json.new" && mv "$bundle/config.json.new" "$bundle/config.json"
fi
exec /usr/local/sbin/runc "$@"
`

// What kind's node image does for every container: a file is copied into the root file system and bind-mounted,
// read-only, over one under /sys. %s is that one.
const hookText = `#!/bin/sh
set -eu
bundle=$(jq -r .bundle)
rootfs=$(jq -r .root.path "$bundle/config.json")
case $rootfs in /*) ;; *) rootfs=$bundle/$rootfs ;; esac
mkdir -p "$rootfs/kind"
cp /kind/content "$rootfs/kind/content"
mount -o ro,bind "$rootfs/kind/content" "$rootfs%s"
`

// HookContent is what the hook puts over HookTarget.
const HookContent = "from the hook\n"

// HookTarget is a file of this machine's /sys for the hook to cover: kind's own choice if there is one.
func HookTarget() (string, error) {
	for _, file := range []string{"/sys/class/dmi/id/product_name", "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel/uevent_seqnum"} {
		if _, err := os.ReadFile(file); err == nil {
			return file, nil
		}
	}
	return "", errors.New("no file known under /sys to bind over")
}

// What a user's node has from the machine or from RootlessKit, or can have nowhere.
var notUsers = []string{"/etc/passwd", "/etc/group", "/etc/resolv.conf", "/etc/hosts", hookFile, hookContent}

// SetUp writes the configuration of containerd and what it names. The pause image is the pods' first process.
func (n *Node) SetUp(pause string) error {
	runc := "/usr/local/sbin/runc"
	var edits []string
	if controllers := n.ReadFile("/sys/fs/cgroup/cgroup.controllers"); !strings.Contains(" "+controllers, " cpu ") {
		edits = append(edits, "del(.linux.resources)")
	}
	if !n.hasTerminals {
		edits = append(edits, `del(.mounts[].options[]? | select(. == "gid=5"))`)
	}
	if edits != nil {
		runc = "/etc/containerd/edit-and-runc"
		if err := n.WriteFile(runc, fmt.Appendf(nil, editAndRunc, strings.Join(edits, " | ")), 0o755); err != nil {
			return err
		}
	}
	target, err := HookTarget()
	if err != nil {
		return err
	}
	spec, err := n.Run("sh", "-c", `ctr oci spec | jq '.hooks.createContainer = [{"path": "`+hookFile+`"}]'`)
	if err != nil {
		return err
	}
	version, err := n.Run("containerd", "--version")
	if err != nil {
		return err
	}
	config := configText
	if strings.Contains(version, " v1.") || strings.Contains(version, " 1.") {
		config = configText17
	}
	config = fmt.Sprintf(config, pause, runc, runc)
	if n.snapshotter != "" {
		config += fmt.Sprintf(snapshotterText, n.snapshotter)
	}
	for _, f := range []struct {
		path, text string
		mode       os.FileMode
	}{
		{containerdConfig, config, 0o644},
		{baseSpec, spec, 0o644},
		{hookFile, fmt.Sprintf(hookText, target), 0o755},
		{hookContent, HookContent, 0o644},
		{"/etc/cni/net.d/10-pods.conflist", networkText, 0o644},
		{"/etc/crictl.yaml", "timeout: 30\n", 0o644},
		{"/etc/passwd", "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n", 0o644},
		{"/etc/group", "root:x:0:\n", 0o644},
		{"/etc/resolv.conf", "", 0o644},
		{"/etc/hosts", "127.0.0.1 localhost\n", 0o644},
	} {
		if n.user && slices.Contains(notUsers, f.path) {
			continue
		}
		if err := n.WriteFile(f.path, []byte(f.text), f.mode); err != nil {
			return err
		}
	}
	return nil
}

// UseSnapshotter has images and containers kept by one of the snapshotters. Call it before SetUp.
func (n *Node) UseSnapshotter(name string) error {
	n.snapshotter = name
	if name != FuseOverlayfs {
		return nil
	}
	d, err := n.StartDaemon(name, "/opt/fuse-overlayfs/containerd-fuse-overlayfs-grpc", fuseSocket, "/var/lib/containerd/io.containerd.snapshotter.v1."+name)
	if err != nil {
		return err
	}
	err = Await(5*time.Second, "the socket of "+name, func() bool {
		_, err := os.Lstat(n.Path(fuseSocket))
		return err == nil || !d.Running()
	})
	if err != nil || !d.Running() {
		return fmt.Errorf("%s is not ready (%v): %s", name, err, d.Output())
	}
	return nil
}

// Snapshots is a pattern for the shell, of the folders in which the snapshotter keeps files.
func (n *Node) Snapshots() string {
	switch n.snapshotter {
	case Native:
		return "/var/lib/containerd/io.containerd.snapshotter.v1.native/snapshots/*"
	case FuseOverlayfs:
		return "/var/lib/containerd/io.containerd.snapshotter.v1.fuse-overlayfs/snapshots/*/fs"
	default:
		return "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/*/fs"
	}
}

// StartContainerd starts containerd, and waits until it answers and has its network.
func (n *Node) StartContainerd() error {
	d, err := n.StartDaemon("containerd", n.Supervised("containerd", "--log-level", "debug")...)
	if err != nil {
		return err
	}
	var last string
	err = Await(20*time.Second, "containerd's answer", func() bool {
		last, _ = n.Run("crictl", "info", "-o", "go-template", "--template", "{{range .status.conditions}}{{.type}}={{.status}} {{end}}")
		return strings.Contains(last, "RuntimeReady=true") && strings.Contains(last, "NetworkReady=true") || !d.Running()
	})
	if err != nil || !d.Running() {
		return fmt.Errorf("containerd is not ready (%v): %s\n%s", err, last, tail(d.Output(), 30))
	}
	return nil
}

// StopContainerd stops containerd alone; its pods stay.
func (n *Node) StopContainerd() error { return n.daemons["containerd"].Stop() }

// RestartContainerd is what systemctl restart containerd does.
func (n *Node) RestartContainerd() error {
	if err := n.StopContainerd(); err != nil {
		return err
	}
	return n.StartContainerd()
}

// KillContainerd ends it as a crash would.
func (n *Node) KillContainerd() error {
	d := n.daemons["containerd"]
	if err := d.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	_, err := d.Wait(5 * time.Second)
	return err
}

// ContainerdLog is all that containerd has logged.
func (n *Node) ContainerdLog() string { return n.daemons["containerd"].Output() }

// Import makes images known to the node's containerd.
func (n *Node) Import(images ...Image) error {
	for _, i := range images {
		archive, err := i.Archive()
		if err != nil {
			return err
		}
		if err := n.WriteFile("/tmp/image.tar", archive, 0o644); err != nil {
			return err
		}
		args := []string{"-n", "k8s.io", "images", "import", "--local", "/tmp/image.tar"}
		if n.snapshotter != "" {
			args = slices.Insert(args, 5, "--snapshotter", n.snapshotter)
		}
		if _, err := n.Run("ctr", args...); err != nil {
			return err
		}
		// The CRI part of containerd hears of it a little later.
		err = Await(5*time.Second, "image "+i.Name, func() bool {
			_, err := n.Run("crictl", "inspecti", "-q", i.Name)
			return err == nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// InstallPlugin copies the plugin to where containerd starts it from, at its next start.
func (n *Node) InstallPlugin(binary string) error { return n.CopyIn(binary, PluginFile) }

// Supervise has containerd started below "uid-nri-plugin supervise" from now on.
func (n *Node) Supervise(binary string) error {
	n.supervise = true
	return n.CopyIn(binary, Supervisor)
}

// Supervised is a command line as this node starts its daemons.
func (n *Node) Supervised(argv ...string) []string {
	if !n.supervise {
		return argv
	}
	return append([]string{Supervisor, "supervise", "--"}, argv...)
}

// CopyIn copies a program from the machine.
func (n *Node) CopyIn(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return n.WriteFile(to, content, 0o755)
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
