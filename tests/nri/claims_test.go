//go:build !nri08 && !nri011 && !nri0120

// What takes a runtime that tells a container's image.

package nri

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"

	"uid-nri-plugin/tests/nri/internal/engine"
	"uid-nri-plugin/tests/wait"
)

const (
	postgres       = "docker.io/library/postgres:17"
	manifestDigest = "sha256:ee6521f290b2168b6aa9e6bd8ad0e69d78ed9f6a3c0e5aef8ca9d51876a3f2c1"
	configDigest   = "sha256:873ed75102791e5b0b8a7fcd41606c92fcec98d56d05ead4ac5131650004c136"
)

// ofImage is a container that runs as root, of an image.
func ofImage(pod *api.PodSandbox, name, image string) *api.Container {
	ctr := engine.NewContainer(pod, name, engine.User{}, nil)
	ctr.Image = &api.Image{Name: image, Digest: manifestDigest, ConfigDigest: configDigest}
	return ctr
}

func TestClaimsByImage(t *testing.T) {
	fixture(t)
	e := start(t, engine.Config{Conf: "image postgres:* claim-uids=70000 claim-gids=71000\nimage quay.io/* inject=always\n"})
	pod := engine.NewPod("plain", nil)
	asking := engine.NewPod("asking", map[string]string{engine.AnnotationKey: "claim-uids=50000"})
	wantMaps(t, create(t, e, pod, ofImage(pod, "c", postgres)), claimed(70000), claimed(71000))
	wantMaps(t, create(t, e, asking, ofImage(asking, "c", postgres)), claimed(50000), claimed(71000))
	wantMaps(t, create(t, e, pod, ofImage(pod, "always", "quay.io/a/b:1")), claimed(), claimed())
	create(t, e, pod, ofImage(pod, "other", "docker.io/library/mysql:9"))
	wantUntouched(t, e)
	create(t, e, pod, engine.NewContainer(pod, "restored", engine.User{}, nil))
	wantUntouched(t, e)
	never := engine.NewPod("never", map[string]string{engine.AnnotationKey: "inject=never"})
	create(t, e, never, ofImage(never, "c", postgres))
	wantUntouched(t, e)
}

// Where claims want one slot: what the annotation names it names in place of the line, and both go before the
// configuration.
func TestClaimsInOrder(t *testing.T) {
	fixture(t)
	const a, b, c = 70000, 70000 + slots, 70000 + 2*slots
	e := start(t, engine.Config{Conf: fmt.Sprintf("claim-uids=%d\nimage %s claim-uids=%d\n", c, configDigest, b)})
	pod := engine.NewPod("order", map[string]string{engine.AnnotationKey + "/container.first": fmt.Sprint("claim-uids=", a)})
	wantMaps(t, create(t, e, pod, ofImage(pod, "first", postgres)), mapOf([]uint32{0}, []uint32{a}), claimed())
	wantMaps(t, create(t, e, pod, ofImage(pod, "second", postgres)), mapOf([]uint32{0}, []uint32{b}), claimed())
}

// The name of an image is its author's: it costs little time, and does nothing to the log.
func TestHostileImageNames(t *testing.T) {
	fixture(t)
	book := journal(t)
	stars := strings.Repeat("a*", 1000)
	e := start(t, engine.Config{Conf: "log-level = debug\nimage *" + stars + "c inject=always\nimage *" + stars + "b claim-uids=70000\n"})
	pod := engine.NewPod("hostile", nil)
	long := strings.Repeat("a", 3<<20)
	for i, c := range []struct {
		name  string
		match bool
	}{
		{long, false}, {long + "b", true}, {strings.Repeat("\x1b[2J\n", 500_000), false}, {strings.Repeat("é/:@*", 300_000), false},
		{"*", false}, {"@:", false}, {"", false}, {"\nPRIORITY=0\nMESSAGE=forged", false},
	} {
		before := time.Now()
		adjust := create(t, e, pod, ofImage(pod, fmt.Sprint("c", i), c.name))
		if took := time.Since(before); took > wait.Scaled(500*time.Millisecond) {
			t.Errorf("name %d took %v", i, took)
		}
		if c.match {
			wantMaps(t, adjust, claimed(70000), claimed())
		} else {
			wantUntouched(t, e)
		}
	}
	eventually(t, "the last name in the log", func() error {
		for _, entry := range book.all() {
			if strings.Contains(entry, "\x1b") || strings.Contains(entry, "\nPRIORITY=0") {
				t.Fatalf("not quoted: %q", entry)
			}
			if strings.Contains(entry, `its image is "\nPRIORITY=0\nMESSAGE=forged"`) {
				return nil
			}
		}
		return errors.New("not there yet")
	})
}
