package engine

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/nri/pkg/api"
	"golang.org/x/sys/unix"

	"uid-nri-plugin/tests/node"
)

// AnnotationKey is what a pod asks the plugin by.
const AnnotationKey = "uid-mapper.noderesource.dev"

// Network is the network namespace of pods, as a file that a network plugin
// leaves. PinNetwork makes it.
const Network = "/run/netns/cni"

// PinNetwork pins a process's network namespace as Network.
func PinNetwork(process *node.Pod) error {
	if err := os.MkdirAll(filepath.Dir(Network), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(Network, nil, 0o644); err != nil {
		return err
	}
	return unix.Mount(process.Namespace("net"), Network, "", unix.MS_BIND, "")
}

// NewPod is a pod as containerd tells of it.
func NewPod(id string, annotations map[string]string) *api.PodSandbox {
	return &api.PodSandbox{
		Id:          id,
		Name:        "pod-" + id,
		Uid:         "uid-" + id,
		Namespace:   "default",
		Annotations: annotations,
		Linux: &api.LinuxPodSandbox{Namespaces: []*api.LinuxNamespace{
			{Type: "pid"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "network", Path: Network},
		}},
	}
}

// User is what a container runs as.
type User struct {
	UID, GID uint32
	GIDs     []uint32
}

// NewContainer is a container of a pod as containerd tells of it before its
// creation: with the usual mounts, in the namespaces of the pod's process.
// Without a process it has no mounts of sysfs and mqueue.
func NewContainer(pod *api.PodSandbox, name string, user User, process *node.Pod) *api.Container {
	ctr := &api.Container{
		Id:           pod.Id + "-" + name,
		PodSandboxId: pod.Id,
		Name:         name,
		Args:         []string{"/bin/server"},
		Env:          []string{"PATH=/bin"},
		Mounts: []*api.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		},
		Linux: &api.LinuxContainer{Namespaces: []*api.LinuxNamespace{{Type: "pid"}, {Type: "mount"}, {Type: "cgroup"}}},
	}
	if TellsUser {
		setUser(ctr, user.UID, user.GID, user.GIDs)
	}
	if process == nil {
		ctr.Linux.Namespaces = append(ctr.Linux.Namespaces, &api.LinuxNamespace{Type: "network", Path: Network})
		return ctr
	}
	ctr.Mounts = append(ctr.Mounts,
		&api.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		&api.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
	)
	for kind, file := range map[string]string{"network": "net", "ipc": "ipc", "uts": "uts"} {
		ctr.Linux.Namespaces = append(ctr.Linux.Namespaces, &api.LinuxNamespace{Type: kind, Path: process.Namespace(file)})
	}
	return ctr
}

// Claim is the value of a pod's annotation that asks for ids.
func Claim(user User) string {
	value := fmt.Sprintf("claim-uids=%d claim-gids=%d", user.UID, user.GID)
	for _, gid := range user.GIDs {
		value += fmt.Sprintf(",%d", gid)
	}
	return value
}
