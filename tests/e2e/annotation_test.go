package e2e

import (
	"encoding/json"
	"fmt"
	"testing"

	"uid-nri-plugin/tests/e2e/lab"
)

// The key of the plugin's pod annotation.
const annotation = "uid-mapper.noderesource.dev"

func annotated(value string) lab.Pod {
	return lab.Pod{Annotations: map[string]string{annotation: value}}
}

// What is written into config.json, for an operator with jq.
func TestAnnotationsOfTheContainer(t *testing.T) {
	s := equippedSite(t, plain)
	r := start(t, s.pod(t, lab.Pod{}), lab.Container{Image: tools, User: lab.ID(10001)})
	read := func(kind string) (extents []struct{ ContainerID, HostID, Size int }) {
		t.Helper()
		text, err := r.Config(fmt.Sprintf(".annotations[%q]", annotation+"/"+kind))
		must(t, err)
		if err := json.Unmarshal([]byte(text), &extents); err != nil {
			t.Fatalf("%s: %v: %s", kind, err, text)
		}
		return extents
	}
	hosts := map[int]int{}
	for _, e := range read("uid-mappings") {
		for i := range e.Size {
			if before, twice := hosts[e.HostID+i]; twice {
				t.Errorf("node id %d stands for %d and %d", e.HostID+i, before, e.ContainerID+i)
			}
			hosts[e.HostID+i] = e.ContainerID + i
		}
	}
	equal(t, "who is on slot 1569", hosts[1569], 10001)
	equal(t, "who is on slot 0", hosts[0], 0)
	equal(t, "ids in all", len(hosts), 2048)
	read("gid-mappings")
	_, err := s.Run("sh", "-c", "jq -e .annotations /run/containerd/io.containerd.runtime.v2.task/k8s.io/"+r.ID+"/config.json")
	must(t, err)

	// The slots that two ids want: default claims 65532-65535 meet nobody here, these do.
	r = start(t, s.pod(t, lab.Pod{Name: "collide"}), lab.Container{Image: tools, User: lab.ID(10001), Groups: []int{50000, 51048}})
	text, err := r.Config(fmt.Sprintf(".annotations[%q]", annotation+"/collisions"))
	must(t, err)
	contains(t, "collisions", text, "51048")
	contains(t, "collisions", text, "50000")
	var list []any
	if err := json.Unmarshal([]byte(text), &list); err != nil || len(list) != 1 {
		t.Errorf("collisions: want a list of one, got %q (%v)", text, err)
	}
	s.said(t, "the collision", func(e lab.Entry) bool {
		return e["PRIORITY"] == "4" && e["POD"] == "collide" && has(e["MESSAGE"], "51048", "50000")
	})
}

func TestInjectNever(t *testing.T) {
	s := equippedSite(t, careful)
	// It wins over what else is asked for.
	pod := s.pod(t, annotated("inject=never claim-uids=50000"))
	refused(t, pod, highUser, noSuchOwner)
	untouched(t, s, start(t, pod, lab.Container{Image: tools}))
}

func TestInjectAlways(t *testing.T) {
	c := lab.Container{Image: tools, User: lab.ID(1000)}
	untouched(t, bareSite(t, careful), start(t, bareSite(t, careful).pod(t, annotated("inject=always")), c))

	s := equippedSite(t, careful)
	r := start(t, s.pod(t, annotated("inject=always")), c)
	mapped(t, s, r)
	equal(t, "id -u", sh(t, r, "id -u"), "1000")
}

// An annotation may be for one container.
func TestAnnotationOfOneContainer(t *testing.T) {
	s := equippedSite(t, careful)
	pod := s.pod(t, lab.Pod{Annotations: map[string]string{
		annotation + "/container.chosen": "inject=always",
		annotation + "/pod":              "collisions=allow",
		annotation:                       "inject=always",
	}})
	mapped(t, s, start(t, pod, lab.Container{Name: "chosen", Image: tools}))
	untouched(t, s, start(t, pod, lab.Container{Name: "other", Image: tools}))
}

func TestCollisionsRefused(t *testing.T) {
	c := lab.Container{Image: tools, User: lab.ID(10001), Groups: []int{50000, 51044}}
	s := equippedSite(t, careful)
	pod := s.pod(t, annotated("collisions=refuse"))
	for _, words := range []string{"uid-mapper: ", "50000", "51044"} {
		refused(t, pod, c, words)
	}
	// The same pod, when collisions are all right.
	equal(t, "groups", groups(t, start(t, s.pod(t, lab.Pod{Name: "allowed"}), c)), "0 50000 51044")
}

func TestBadAnnotation(t *testing.T) {
	s := equippedSite(t, careful)
	for name, bad := range map[string]string{"word": "inject=sometimes", "key": "claim-pids=7", "range": "claim-uids=9-3", "junk": "please"} {
		t.Run(name, func(t *testing.T) {
			pod := s.pod(t, annotated(bad))
			c := lab.Container{Name: "refused", Image: tools}
			_, err := pod.Start(c)
			if err == nil {
				t.Fatalf("a pod with the annotation %q started", bad)
			}
			contains(t, "the error", err.Error(), "uid-mapper: ")
			start(t, bareSite(t, careful).pod(t, annotated(bad)), c)
		})
	}
}
