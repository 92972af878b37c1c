//go:build nri011 || nri0120

package nri

import (
	"fmt"
	"strings"
	"testing"

	"uid-nri-plugin/tests/nri/internal/engine"
)

// A runtime that tells no image: that is said once, and annotations work as ever.
func TestClaimsByImageUntold(t *testing.T) {
	fixture(t)
	book := journal(t)
	e := start(t, engine.Config{Conf: "image * claim-uids=70000\n"})
	pod := engine.NewPod("plain", nil)
	for i := range 3 {
		create(t, e, pod, engine.NewContainer(pod, fmt.Sprint("c", i), engine.User{}, nil))
		wantUntouched(t, e)
	}
	asking := engine.NewPod("asking", map[string]string{engine.AnnotationKey: "claim-uids=50000"})
	wantMaps(t, create(t, e, asking, engine.NewContainer(asking, "c", engine.User{}, nil)), claimed(50000), claimed())
	eventually(t, "one warning", func() error {
		told := 0
		for _, entry := range book.all() {
			if strings.Contains(entry, "PRIORITY=4\n") && strings.Contains(entry, "image lines have no effect; containerd 2.4 or later tells") {
				told++
			}
		}
		if told != 1 {
			return fmt.Errorf("it is said %d times", told)
		}
		return nil
	})
}
