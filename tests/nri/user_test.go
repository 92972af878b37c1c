//go:build !nri08 && !nri011

// What takes a runtime that tells a container's user.

package nri

import (
	"encoding/json"
	"testing"

	"uid-nri-plugin/tests/nri/internal/engine"
	"uid-nri-plugin/tests/nri/internal/node"
)

func TestRequiredGroupsThatCollideAllGetASlot(t *testing.T) {
	fixture(t)
	e := start(t, engine.Config{})
	user := engine.User{UID: 10001, GID: 10001, GIDs: []uint32{10001 + node.IDs, 1808, 10001 + 2*node.IDs}}
	pod := engine.NewPod("groups", nil)
	adjust := create(t, e, pod, engine.NewContainer(pod, "c", user, nil))
	wantMaps(t, adjust, mapOf([]uint32{10001}, defaultClaims), mapOf([]uint32{10001, 10001 + node.IDs, 1808, 10001 + 2*node.IDs}, defaultClaims))
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
