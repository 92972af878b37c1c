package supervise

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// stage is the folder of a scene, a file system of its own.
const stage = "/run/stage"

// scene is a caller with what it finds, run three times from the same start:
//
//   - not supervised, as it is: the control, in which the kernel refuses the ids;
//   - not supervised, with the ids placed by the caller itself: what is right, as the kernel sees it;
//   - supervised: must do and answer what is right.
type scene struct {
	name  string
	lay   func() // makes what the caller finds in stage, its current folder
	steps []string
	// want is the answer of each system call in order, apart by blanks; it is compared with both later runs.
	want string
	// native: the kernel refuses nothing in the control, since all ids are mapped or the call tells no errors.
	native bool
	// either: the supervised run may also answer as in the control, where the kernel decides. What may not be is
	// another effect.
	either bool
	// since is the first kernel on which this can be played: 5.12, say. What SUPERVISE_KERNEL cannot hide is in itself.
	since, itself string
}

// file makes a file.
func file(path string, mode fs.FileMode, uid, gid int) {
	path = filepath.Join(stage, path)
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		panic(err)
	}
	own(path, mode, uid, gid)
}

// folder makes a folder, with its parents.
func folder(path string, mode fs.FileMode, uid, gid int) {
	path = filepath.Join(stage, path)
	if err := os.MkdirAll(path, 0o755); err != nil {
		panic(err)
	}
	own(path, mode, uid, gid)
}

func own(path string, mode fs.FileMode, uid, gid int) {
	if err := os.Chown(path, uid, gid); err != nil {
		panic(err)
	}
	if err := syscall.Chmod(path, uint32(mode)); err != nil { // os.Chmod has other bits for set-uid
		panic(err)
	}
}

// link makes a symbolic link.
func link(to, path string) {
	if err := os.Symlink(to, filepath.Join(stage, path)); err != nil {
		panic(err)
	}
}

// freshStage mounts a new file system for a scene. The supervisor itself never is in it.
func freshStage(t *testing.T) {
	t.Helper()
	unix.Unmount(stage, unix.MNT_DETACH)
	if err := os.Mkdir(stage, 0o755); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	check(t, unix.Mount("tmpfs", stage, "tmpfs", 0, "mode=755"))
}

// tree is what is on the stage, a line for each file.
func tree(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	check(t, filepath.WalkDir(stage, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var s unix.Stat_t
		if err := unix.Lstat(path, &s); err != nil {
			return err
		}
		name, _ := filepath.Rel(stage, path)
		fmt.Fprintf(&b, "%s %o %d:%d\n", name, s.Mode, s.Uid, s.Gid)
		return nil
	}))
	return b.String()
}

// answers are the results in a caller's output.
func answers(out string) string {
	var all []string
	for line := range strings.Lines(out) {
		if _, answer, found := strings.Cut(strings.TrimSuffix(line, "\n"), " = "); found {
			all = append(all, answer)
		}
	}
	return strings.Join(all, " ")
}

var filtered = regexp.MustCompile(`Seccomp:\t2\n`)

type played struct {
	outcome
	tree string
}

func (s scene) play(t *testing.T, argv ...string) played {
	t.Helper()
	freshStage(t)
	if s.lay != nil {
		s.lay()
	}
	// The supervisor starts elsewhere, so that its own current folder helps nobody.
	o := runIn(t, "/run/tmp", append(argv, append([]string{"chdir " + stage}, s.steps...)...)...)
	return played{o, tree(t)}
}

func (s scene) run(t *testing.T) {
	t.Helper()
	t.Run(s.name, func(t *testing.T) {
		t.Helper()
		control := s.play(t, caller)
		if !s.native && strings.Contains(" "+s.want+" ", " 0 ") && !strings.Contains(control.out, "EINVAL") {
			t.Errorf("the control was not refused the ids:\n%s", control.out)
		}
		right := s.play(t, caller, "-p")
		if got := answers(right.out); right.code != 0 || got != s.want {
			t.Errorf("without supervision, ids placed: answers %q, want %q, status %d\n%s", got, s.want, right.code, right.out)
		}
		got := s.play(t, supervised(caller)...)
		if s.either && answers(got.out) == answers(control.out) && got.tree == control.tree {
			return
		}
		if got.code != 0 || answers(got.out) != s.want {
			t.Errorf("supervised: answers %q, want %q, status %d", answers(got.out), s.want, got.code)
		}
		// "status" tells that the supervised one has a filter.
		if got.out = filtered.ReplaceAllString(got.out, "Seccomp:\t0\n"); got.out != right.out {
			t.Errorf("supervised, it says:\n%swant:\n%s", got.out, right.out)
		}
		if got.tree != right.tree {
			t.Errorf("supervised, the files are:\n%swant:\n%s", got.tree, right.tree)
		}
	})
}

func play(t *testing.T, scenes []scene) {
	t.Helper()
	inNode(t, func(t *testing.T) {
		for _, s := range scenes {
			if hides(s.since) || lacks(s.itself) {
				t.Logf("not played, as it takes Linux %s%s: %s", s.since, s.itself, s.name)
				continue
			}
			steps, want := playable(s.steps, s.want)
			if s.want != "" && want == "" {
				t.Logf("not played, as this machine has none of its calls: %s", s.name)
				continue
			}
			s.steps, s.want = steps, want
			s.run(t)
		}
	})
}
