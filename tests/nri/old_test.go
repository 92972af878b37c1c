//go:build nri08 || nri011

// What takes a runtime that does not tell its NRI version: only the version of
// containerd says then what it can do.

package nri

import (
	"strings"
	"testing"

	"uid-nri-plugin/tests/nri/internal/engine"
)

func TestRuntimesThatCannotTakeANamespace(t *testing.T) {
	for _, version := range []string{"1.7.24", "v2.0.4", "v2.1.5"} {
		t.Run(version, func(t *testing.T) {
			fixture(t)
			book := journal(t)
			e := start(t, engine.Config{Version: version})
			wantsID := engine.NewPod("wants", map[string]string{engine.AnnotationKey: "claim-uids=10001"})
			wantRefusal(t, e, wantsID, engine.NewContainer(wantsID, "c", engine.User{}, nil), "10001")
			wantsAny := engine.NewPod("any", map[string]string{engine.AnnotationKey: "inject=always"})
			wantRefusal(t, e, wantsAny, engine.NewContainer(wantsAny, "c", engine.User{}, nil), "")
			hasID := engine.NewPod("has", map[string]string{engine.AnnotationKey: "claim-uids=1000"})
			create(t, e, hasID, engine.NewContainer(hasID, "c", engine.User{}, nil))
			wantUntouched(t, e)
			plain := engine.NewPod("plain", nil)
			create(t, e, plain, engine.NewContainer(plain, "c", engine.User{}, nil))
			wantUntouched(t, e)
			wantNoState(t)
			told := 0
			for _, entry := range book.all() {
				if strings.Contains(entry, version) {
					told++
				}
			}
			if told == 0 {
				t.Errorf("the log does not name containerd %s: %q", version, book.all())
			}
		})
	}
}
