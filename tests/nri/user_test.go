//go:build !nri08 && !nri011

// What takes a runtime that tells a container's user.

package nri

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/nri/pkg/api"

	"uid-nri-plugin/tests/nri/internal/engine"
)

func TestRequiredGroupsThatCollideAllGetASlot(t *testing.T) {
	fixture(t)
	e := start(t, engine.Config{})
	user := engine.User{UID: 10001, GID: 10001, GIDs: []uint32{10001 + slots, 1568, 10001 + 2*slots}}
	pod := engine.NewPod("groups", nil)
	adjust := create(t, e, pod, engine.NewContainer(pod, "c", user, nil))
	wantMaps(t, adjust, mapOf([]uint32{10001}, defaultClaims), mapOf([]uint32{10001, 10001 + slots, 1568, 10001 + 2*slots}, defaultClaims))
	collisions := adjust.Annotations[engine.AnnotationKey+"/collisions"]
	var list []any
	if err := json.Unmarshal([]byte(collisions), &list); err != nil || len(list) == 0 {
		t.Errorf("collisions: %q, %v", collisions, err)
	}
}

func TestUsersThatNoNamespaceCanHoldAreRefused(t *testing.T) {
	fixture(t)
	e := start(t, engine.Config{})
	pod := engine.NewPod("nobody", nil)
	for _, user := range []engine.User{{UID: 4294967295}, {GID: 4294967295}, {GIDs: []uint32{4294967295}}} {
		wantRefusal(t, e, pod, engine.NewContainer(pod, "c", user, nil), "4294967295")
	}
	// More than a map can hold, and none of them may be left out.
	var many engine.User
	for i := range uint32(400) {
		many.GIDs = append(many.GIDs, 3000000001+4*i)
	}
	wantRefusal(t, e, pod, engine.NewContainer(pod, "c", many, nil), "")
	wantNoState(t)

	user := engine.User{UID: 10001, GID: 10001}
	namespaceOf(t, pod, create(t, e, pod, engine.NewContainer(pod, "c", user, nil)))
}

// What supervise folds runs without a namespace; a pod that refuses collisions is told so all the same.
func TestUsersThatNoNamespaceCanHoldAreLeftToSupervise(t *testing.T) {
	fixture(t)
	book := journal(t)
	e := listen(t, engine.Config{})
	var many engine.User
	for i := range uint32(400) {
		many.GIDs = append(many.GIDs, 3000000001+4*i)
	}
	const tooMany = "group ids: the id map would be over the kernel's 340 lines or 4095 bytes"
	pod := engine.NewPod("many", nil)
	ctr := engine.NewContainer(pod, "c", many, nil)

	control := startExternal(t, "--socket", e.Socket())
	connected(t, e, 1)
	wantRefusal(t, e, pod, ctr, tooMany)
	control.kill()

	startExternal(t, "supervise", "--", plugin, "--socket", e.Socket())
	connected(t, e, 2)
	create(t, e, pod, ctr)
	wantUntouched(t, e)
	wantNoState(t)
	eventually(t, "a warning", func() error {
		for _, entry := range book.all() {
			if strings.Contains(entry, "left alone, and folded by supervise: "+tooMany) && strings.Contains(entry, "PRIORITY=4") {
				return nil
			}
		}
		return errors.New("nothing of it is in the log")
	})
	strict := engine.NewPod("strict", map[string]string{engine.AnnotationKey: "collisions=refuse"})
	wantRefusal(t, e, strict, engine.NewContainer(strict, "c", many, nil), tooMany)
	nobody := engine.NewContainer(pod, "nobody", engine.User{UID: 4294967295}, nil)
	wantRefusal(t, e, pod, nobody, "4294967295")
}

// What containerd created while no plugin acted runs with folded ids, if at all: a plugin that comes tells of it.
func TestContainersOfTheMeantime(t *testing.T) {
	fixture(t)
	book := journal(t)
	pod := engine.NewPod("meantime", nil)
	missed := engine.NewContainer(pod, "missed", engine.User{UID: 10001, GID: 1000, GIDs: []uint32{30001}}, nil)
	mapped := engine.NewContainer(pod, "mapped", engine.User{UID: 1000, GID: 1000}, nil)
	given := engine.NewContainer(pod, "given", engine.User{UID: 10001}, nil)
	given.Linux.Namespaces = append(given.Linux.Namespaces, &api.LinuxNamespace{Type: "user", Path: "/run/somewhere"})
	host := engine.NewContainer(pod, "host", engine.User{UID: 10001}, nil)
	for _, ns := range host.Linux.Namespaces {
		if ns.Type == "network" {
			ns.Path = "/proc/1/ns/net"
		}
	}
	start(t, engine.Config{Pods: []*api.PodSandbox{pod}, Containers: []*api.Container{missed, mapped, given, host}})
	eventually(t, "lines about the container", func() error {
		var told []string
		for _, entry := range book.all() {
			if strings.Contains(entry, "was created while no plugin acted") {
				told = append(told, entry)
			}
		}
		all := strings.Join(told, "")
		if len(told) != 2 || !strings.Contains(all, "uid 10001 is folded") || !strings.Contains(all, "gid 30001 is folded") ||
			strings.Count(all, "CONTAINER=missed\n") != 2 || strings.Count(all, "POD=pod-meantime\n") != 2 {
			return fmt.Errorf("told %q", told)
		}
		return nil
	})
}
