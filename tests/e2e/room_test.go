package e2e

import (
	"testing"

	"uid-nri-plugin/tests/e2e/lab"
)

// A node of one id has no slot for another: the plugin leaves such a container to supervise, if there is one.
func TestNoSlotIsLeft(t *testing.T) {
	one := layout{
		name: "one", uids: lab.Single, pool: 1,
		pause:  lab.Image{Name: pauseAsRoot, Cmd: forever},
		images: []lab.Image{{Name: tools, Cmd: forever}},
	}
	user999 := lab.Container{Image: tools, User: lab.ID(999)}
	const noSlot = "user ids: no slot is left for id 999"
	node := func(name string, o options) *site {
		s := ready(t)(newSite("one-"+name, one, o))
		t.Cleanup(s.close)
		return s
	}
	control := node("plugin", options{plugin: true})
	refused(t, control.pod(t, lab.Pod{}), user999, noSlot)

	left := func(s *site) {
		t.Helper()
		pod := s.pod(t, lab.Pod{})
		r := start(t, pod, user999)
		equal(t, "id -u", sh(t, r, "id -u"), "0")
		untouched(t, s, r)
		s.said(t, "a container that is left to supervise", func(e lab.Entry) bool {
			return e["PRIORITY"] == "4" && e["POD"] == podName(t) && has(e["MESSAGE"], "left alone, and folded by supervise: "+noSlot)
		})
		strict := annotated("collisions=refuse")
		strict.Name = "strict"
		refused(t, s.pod(t, strict), user999, noSlot)
	}
	left(node("launched", options{plugin: true, supervise: true}))
	// One that containerd has not launched has no filter, and goes by containerd's.
	external := node("external", options{supervise: true})
	_, err := external.StartDaemon("external", lab.Supervisor)
	must(t, err)
	external.registered(t, 1)
	left(external)
}
