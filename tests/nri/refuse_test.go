package nri

import (
	"strings"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"google.golang.org/protobuf/proto"

	"uid-nri-plugin/tests/nri/internal/engine"
)

// wantRefusal fails the test unless the runtime gets an error that names what
// is wrong.
func wantRefusal(t *testing.T, e *engine.Engine, pod *api.PodSandbox, ctr *api.Container, named string) {
	t.Helper()
	_, err := e.CreateContainer(pod, ctr)
	if err == nil {
		t.Errorf("a container of pod %s was not refused", pod.Id)
	} else if !strings.Contains(err.Error(), "uid-mapper: ") || !strings.Contains(err.Error(), named) {
		t.Errorf("refusal: got %q; want one that starts with \"uid-mapper: \" and names %q", err, named)
	}
}

func unmarshal(t *testing.T, data []byte, m proto.Message) {
	t.Helper()
	check(t, proto.Unmarshal(data, m))
}

func TestABadAnnotationRefusesTheContainerOnly(t *testing.T) {
	fixture(t)
	e := start(t, engine.Config{})
	for value, named := range map[string]string{
		"inject=perhaps":        "perhaps",
		"claim-uids=x":          "x",
		"claim-uids=5-1":        "5-1",
		"colour=red":            "colour",
		"claim-gids=4294967296": "4294967296",
	} {
		pod := engine.NewPod("bad", map[string]string{engine.AnnotationKey: value})
		wantRefusal(t, e, pod, engine.NewContainer(pod, "c", engine.User{}, nil), named)
	}
	pod := engine.NewPod("good", nil)
	create(t, e, pod, engine.NewContainer(pod, "c", engine.User{}, nil))
	wantUntouched(t, e)
	wantNoState(t)
}
