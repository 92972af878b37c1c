//go:build !nri08

package nri

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"golang.org/x/sys/unix"

	"uid-nri-plugin/tests/node"
	"uid-nri-plugin/tests/nri/internal/engine"
)

func TestNetworkAndMessageQueuesAreThePods(t *testing.T) {
	fixture(t)
	e := start(t, engine.Config{})
	user := engine.User{UID: 10001, GID: 10001}
	for _, sharedPID := range []bool{false, true} {
		t.Run(fmt.Sprint("shared pid namespace ", sharedPID), func(t *testing.T) {
			process := newPodProcess(t, sharedPID)
			pod := wanting(fmt.Sprint("mounts-", sharedPID), user)
			pod.Linux.Namespaces = []*api.LinuxNamespace{{Type: "network", Path: process.Namespace("net")}}
			ctr := engine.NewContainer(pod, "c", user, process)
			if sharedPID {
				for _, ns := range ctr.Linux.Namespaces {
					if ns.Type == "pid" {
						ns.Path = process.Namespace("pid")
					}
				}
			}
			asked := map[string]*api.Mount{}
			for _, m := range ctr.Mounts {
				asked[m.Destination] = m
			}
			create(t, e, pod, ctr)

			// What the plugin sent: the library's own summary drops the removals.
			var reply api.CreateContainerResponse
			unmarshal(t, lastReply(t, e, "CreateContainer").Response, &reply)
			given := map[string]*api.Mount{}
			removed := map[string]bool{}
			for _, m := range reply.GetAdjust().GetMounts() {
				if destination, marked := m.IsMarkedForRemoval(); marked {
					removed[destination] = true
					continue
				}
				if !removed[m.Destination] {
					t.Errorf("%s is added before the old one is removed", m.Destination)
				}
				given[m.Destination] = m
			}
			destinations := []string{"/dev/mqueue", "/sys"}
			if sharedPID {
				destinations = append(destinations, "/proc")
			}
			slices.Sort(destinations)
			if got := slices.Sorted(maps.Keys(given)); !slices.Equal(got, destinations) || len(removed) != len(given) {
				t.Fatalf("mounts replaced: got %q (removed %v), want %q", got, removed, destinations)
			}
			for destination, m := range given {
				want := append(slices.Clone(asked[destination].Options), "bind")
				got := slices.Clone(m.Options)
				slices.Sort(want)
				slices.Sort(got)
				if !slices.Equal(got, want) {
					t.Errorf("%s: options %q, want %q", destination, m.Options, want)
				}
				if filepath.Dir(m.Source) != podsDir+"/"+pod.Id {
					t.Errorf("%s: source %q is not in the pod's folder", destination, m.Source)
				}
			}

			wantType(t, given["/sys"].Source, unix.SYSFS_MAGIC)
			wantNames(t, given["/sys"].Source+"/class/net", node.PodInterface)
			const mqueueMagic = 0x19800202
			wantType(t, given["/dev/mqueue"].Source, mqueueMagic)
			wantNames(t, given["/dev/mqueue"].Source, node.PodQueue)
			if sharedPID {
				wantType(t, given["/proc"].Source, unix.PROC_SUPER_MAGIC)
				pids, err := filepath.Glob(given["/proc"].Source + "/[0-9]*")
				check(t, err)
				if len(pids) != 1 || filepath.Base(pids[0]) != "1" {
					t.Errorf("/proc shows %q, the pod has one process", pids)
				}
			}

			check(t, e.RemovePod(pod))
			wantNoState(t)
		})
	}
}

func TestNamespacesThatAreNotThere(t *testing.T) {
	fixture(t)
	e := start(t, engine.Config{})
	user := engine.User{UID: 10001, GID: 10001}
	process := newPodProcess(t, false)
	fifo := t.TempDir() + "/fifo"
	check(t, unix.Mkfifo(fifo, 0o600))
	for name, path := range map[string]string{
		"gone":            "/run/netns/gone",
		"another kind":    process.Namespace("uts"),
		"a file":          plugin,
		"a folder":        "/run",
		"a fifo":          fifo,
		"a relative path": "proc/self/ns/net",
	} {
		t.Run(name, func(t *testing.T) {
			pod := wanting("odd", user)
			ctr := engine.NewContainer(pod, "c", user, process)
			for _, ns := range ctr.Linux.Namespaces {
				if ns.Type == "network" {
					ns.Path = path
				}
			}
			named := path
			if name == "another kind" {
				named = "" // it opens, only to be entered it is not
			}
			wantRefusal(t, e, pod, ctr, named)
			check(t, e.RemovePod(pod))
			wantNoState(t)

			// Nothing hangs on the start of a pod either.
			pod.Linux.Namespaces = []*api.LinuxNamespace{{Type: "network", Path: path}}
			check(t, e.RunPod(pod))
			if call := e.Calls("")[len(e.Calls(""))-1]; call.Err != nil {
				t.Errorf("%s: %v", call.Method, call.Err)
			}
		})
	}
	pod := wanting("even", user)
	namespaceOf(t, pod, create(t, e, pod, engine.NewContainer(pod, "c", user, process)))
}

func wantType(t *testing.T, path string, magic int64) {
	t.Helper()
	var fs unix.Statfs_t
	check(t, unix.Statfs(path, &fs))
	if int64(fs.Type) != magic {
		t.Errorf("%s: file system of type %#x, want %#x", path, fs.Type, magic)
	}
}

func wantNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	check(t, err)
	var got []string
	for _, entry := range entries {
		got = append(got, entry.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q, want %q", dir, got, want)
	}
}
