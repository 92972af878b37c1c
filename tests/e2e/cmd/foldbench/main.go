// Command foldbench measures "uid-nri-plugin supervise": what a call costs below it, what an image costs to unpack, and
// what the programs that users have today for ids they lack cost on the same tree. It prints what it measured and which
// reaches were met, and fails only if it could not measure. FOLDBENCH=calls, fairness, unpack or peers: that part only.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"uid-nri-plugin/tests/e2e/lab"
)

// Reaches.
const (
	passedReach  = 1.10                   // times native
	chownReach   = 35 * time.Microsecond  // median
	oldReach     = 95 * time.Microsecond  // before Linux 6.6
	setidReach   = 150 * time.Microsecond // median
	highReach    = 1.5                    // times the same image owned by root
	lowReach     = 1.02                   // times without the supervisor
	callRounds   = 3
	unpackRounds = 6
	files        = 20000
	machineBase  = 2937359488 // the machine's id for root of a namespace here
	pool         = 2048
)

func main() {
	lab.Main()
	if len(os.Args) == 3 && (os.Args[1] == "calls" || os.Args[1] == "floor") {
		work := calls
		if os.Args[1] == "floor" {
			work = floor
		}
		if err := work(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "foldbench:", err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 2 {
		var err error
		switch os.Args[1] {
		case "fairness":
			err = fairly(os.Args[2], os.Args[3])
		case "few":
			err = few(os.Args[2])
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "foldbench:", err)
			os.Exit(1)
		}
		if os.Args[1] != "supervise" {
			return
		}
	}
	// In place of our binary, a program of the least filter: "supervise -- COMMAND".
	if len(os.Args) > 3 && os.Args[1] == "supervise" {
		err := leastFilter()
		if err == nil {
			var path string
			if path, err = exec.LookPath(os.Args[3]); err == nil {
				err = syscall.Exec(path, os.Args[3:], os.Environ())
			}
		}
		fmt.Fprintln(os.Stderr, "foldbench:", err)
		os.Exit(1)
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "foldbench:", err)
		os.Exit(1)
	}
}

type bench struct {
	binary  string // ours
	self    string
	work    string // on a disk
	memory  string // on tmpfs
	reaches []string
}

func (b *bench) reach(met bool, format string, args ...any) {
	word := "MISS"
	if met {
		word = "PASS"
	}
	b.reaches = append(b.reaches, word+"  "+fmt.Sprintf(format, args...))
}

func run() error {
	began := time.Now()
	binary := os.Getenv("UID_NRI_PLUGIN")
	if binary == "" {
		return errors.New("UID_NRI_PLUGIN is not set")
	}
	work, err := os.MkdirTemp("", "foldbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	memory, err := os.MkdirTemp("/dev/shm", "foldbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(memory)
	b := &bench{binary: work + "/uid-nri-plugin", self: work + "/foldbench", work: work, memory: memory}
	caller := os.Getenv("UID_NRI_CALLER")
	if caller == "" {
		return errors.New("UID_NRI_CALLER is not set: it must name the caller of tests/supervise")
	}
	for to, from := range map[string]string{b.binary: binary, b.self: "/proc/self/exe", work + "/caller": caller} {
		program, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := os.WriteFile(to, program, 0o755); err != nil {
			return err
		}
	}
	if err := errors.Join(os.Chmod(work, 0o755), os.Mkdir(work+"/disk", 0o755), os.Chown(work+"/disk", machineBase, machineBase),
		os.Chmod(memory, 0o755), os.Chown(memory, machineBase, machineBase)); err != nil {
		return err
	}
	for _, part := range []struct {
		name string
		run  func() error
	}{{"calls", b.calls}, {"fairness", b.fairness}, {"unpack", b.unpack}, {"peers", b.peers}} {
		if only := os.Getenv("FOLDBENCH"); only != "" && only != part.name {
			continue
		}
		if err := part.run(); err != nil {
			return err
		}
	}
	fmt.Printf("\nthis took %.1f s\n\nreaches of supervise\n", time.Since(began).Seconds())
	for _, line := range b.reaches {
		fmt.Println(" ", line)
	}
	return nil
}

// inside is a command as root of a new user namespace of 2048 ids, and of a mount namespace.
func (b *bench) inside(supervised bool, argv ...string) *exec.Cmd {
	if supervised {
		argv = append([]string{b.binary, "supervise", "--log-level", "error", "--"}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	m := []syscall.SysProcIDMap{{ContainerID: 0, HostID: machineBase, Size: pool}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: m, GidMappings: m, GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{},
	}
	cmd.Dir = b.memory
	cmd.Env = environment
	return cmd
}

var environment = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}

func (b *bench) as(supervised bool) func(argv ...string) *exec.Cmd {
	return func(argv ...string) *exec.Cmd { return b.inside(supervised, argv...) }
}

// calls measures single calls, with and without the filter by turns, on tmpfs and on the disk.
func (b *bench) calls() error {
	places := map[string]string{"tmpfs": b.memory, "ext4": b.work + "/disk"}
	kind, err := fileSystem(places["ext4"])
	if err != nil {
		return err
	}
	if kind != "ext4" {
		fmt.Printf("note: %s is no ext4; the file system there is measured in its place\n", os.TempDir())
	}
	reach := chownReach
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		var major, minor int
		fmt.Sscanf(string(release), "%d.%d", &major, &minor)
		if major < 6 || major == 6 && minor < 6 {
			reach = oldReach
		}
	}
	for _, name := range []string{"tmpfs", "ext4"} {
		// By name and by whether it is supervised, a median a round.
		took := map[bool]map[string][]time.Duration{false: {}, true: {}}
		for range callRounds {
			for _, supervised := range []bool{false, true} {
				dir := filepath.Join(places[name], "calls")
				if err := errors.Join(os.Mkdir(dir, 0o755), os.Chown(dir, machineBase, machineBase)); err != nil {
					return err
				}
				cmd := b.inside(supervised, b.self, "calls", dir)
				cmd.Stderr = os.Stderr
				out, err := cmd.Output()
				os.RemoveAll(dir)
				if err != nil {
					return fmt.Errorf("calls on %s, supervised %v: %w", name, supervised, err)
				}
				for line := range strings.Lines(string(out)) {
					what, spent, _ := strings.Cut(strings.TrimSpace(line), "\t")
					d, err := time.ParseDuration(spent)
					if err != nil {
						return err
					}
					took[supervised][what] = append(took[supervised][what], d)
				}
			}
		}
		native, folded := took[false], took[true]
		fmt.Printf("\ncalls on %s, medians %26s %12s %8s\n", name, "native", "supervised", "ratio")
		for _, what := range measured {
			line := fmt.Sprintf("  %-40s", what)
			if n := native[what]; n != nil {
				line += fmt.Sprintf(" %12v %12v %8.2f", median(n), median(folded[what]), ratio(folded[what], n))
			} else {
				line += fmt.Sprintf(" %12s %12v", "EINVAL", median(folded[what]))
			}
			fmt.Println(line)
		}
		got := ratio(folded[passedChown], native[passedChown])
		b.reach(got <= passedReach, "%s: chown that is not notified: %.2f times native (at most %.2f)", name, got, passedReach)
		b.reach(median(folded[notifiedChown]) <= reach, "%s: notified chown: %v (at most %v)", name, median(folded[notifiedChown]), reach)
		if name == "ext4" {
			continue
		}
		for _, what := range []string{foldedSetid, foldedGroups} {
			b.reach(median(folded[what]) <= setidReach, "%s: %v (at most %v)", what, median(folded[what]), setidReach)
		}
		var least []time.Duration
		for range callRounds {
			cmd := b.inside(false, b.self, "floor", "/")
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				return fmt.Errorf("floor: %w", err)
			}
			d, err := time.ParseDuration(strings.TrimSpace(string(out)))
			if err != nil {
				return err
			}
			least = append(least, d)
		}
		fmt.Printf("  %-40s %12s %12v\n", "getppid under a filter of one instruction", "", median(least))
		got = ratio(folded[getppid], least)
		b.reach(got <= passedReach, "getppid: %.3f times under a filter of one instruction (at most %.2f)", got, passedReach)
		noise := float64(slices.Max(native[getppid])) / float64(median(native[getppid]))
		got = ratio(folded[getppid], native[getppid])
		b.reach(got <= max(noise, 1.02), "getppid: %.3f times native (noise of native itself: %.3f; any filter at all: %.3f)", got, noise, ratio(least, native[getppid]))
	}
	return nil
}

// fileSystem tells ext4 from others.
func fileSystem(dir string) (string, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return "", err
	}
	if s.Type == 0xef53 {
		return "ext4", nil
	}
	return "other", nil
}

func median(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

func ratio(a, b []time.Duration) float64 { return float64(median(a)) / float64(median(b)) }
