// Command bench measures the plugin beside one that does nothing, made with
// NRI's own library: the same runtime side drives both, by turns. It prints
// what it measured and which of its reaches were met, and fails only if it
// could not measure.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"uid-nri-plugin/tests/node"
	"uid-nri-plugin/tests/nri/internal/engine"
)

const (
	starts      = 31
	batch       = 100
	batches     = 40 // of containers that need nothing, for each plugin
	injections  = 30 // batches of pods, with mounts and as many without
	plainRounds = 2000
	soak        = 10000 // containers for the memory; every tenth pod is injected
)

// Reaches.
const (
	startReach    = 0.5                  // of the Go plugin's time
	callReach     = 0.6                  // of the Go plugin's p50
	injectReach   = time.Millisecond     // p50
	makingReach   = 2.0                  // times plain C
	residentReach = 1536                 // KiB
	flatReach     = 0.05                 // either way
	sizeReach     = 960 << 10            // bytes
	wholeReach    = 90 * time.Second     // of this program
	pause         = 2 * time.Millisecond // between batches, for the kernel to tidy up
)

func main() {
	names := []string{"UID_NRI_PLUGIN", "UID_NRI_NOTHING", "UID_NRI_USERNS"}
	var paths []string
	for _, name := range names {
		path := os.Getenv(name)
		if path == "" {
			fmt.Fprintf(os.Stderr, "bench: %s is not set\n", name)
			os.Exit(1)
		}
		paths = append(paths, path)
	}
	copies := node.Enter(paths...)
	if err := run(copies[0], copies[1], copies[2]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// side is one of the two plugins.
type side struct {
	name, path string
	engine     *engine.Engine
	pid        int
}

func run(ours, nothing, userns string) error {
	began := time.Now()
	sides := []*side{{name: "uid-nri-plugin", path: ours}, {name: "Go, nothing", path: nothing}}
	if err := facts(sides); err != nil {
		return err
	}
	var r reaches

	starting, err := measureStarts(sides)
	if err != nil {
		return fmt.Errorf("starts: %w", err)
	}
	pair("start to registered", sides, starting)
	r.ratio("registered in", starting[0].p(50), starting[1].p(50), startReach)

	process, err := node.StartPod(false)
	if err != nil {
		return err
	}
	defer process.Stop()
	if err := engine.PinNetwork(process); err != nil {
		return err
	}
	for _, s := range sides {
		if err := s.start(); err != nil {
			return err
		}
	}
	calls, err := measureCalls(sides, process)
	if err != nil {
		return fmt.Errorf("calls: %w", err)
	}
	pair("CreateContainer, left alone", sides, calls)
	r.ratio("CreateContainer p50 without injection", calls[0].p(50), calls[1].p(50), callReach)

	inject, err := measureInjections(sides[0], process, userns)
	if err != nil {
		return fmt.Errorf("injections: %w", err)
	}
	single("CreateContainer, injected, with sysfs and mqueue", inject.withMounts)
	single("CreateContainer, injected, without mounts", inject.bare)
	single("the pod's removal", inject.removal)
	single("a user namespace in plain C: make, map, pin", inject.plainC)
	r.atMost("injection p50, with sysfs and mqueue", inject.withMounts.p(50), injectReach)
	making := inject.bare.p(50) - calls[0].p(50)
	r.add(float64(making) <= makingReach*float64(inject.plainC.p(50)),
		"making a namespace: %v more than no injection, plain C %v: %.2f times (at most %.1f)",
		round(making), round(inject.plainC.p(50)), float64(making)/float64(inject.plainC.p(50)), makingReach)
	for _, s := range sides {
		s.engine.Stop()
	}

	memory, err := measureMemory(sides, process)
	if err != nil {
		return fmt.Errorf("memory: %w", err)
	}
	fmt.Printf("\nresident memory, KiB %26s %12s %14s\n", "at start", "after 1,000", "after 10,000")
	for i, s := range sides {
		fmt.Printf("  %-24s %20d %12d %14d\n", s.name, memory[i][0], memory[i][1], memory[i][2])
	}
	fmt.Printf("  %-24s %20.2f %12.2f %14.2f\n", "ratio", ratio(memory[0][0], memory[1][0]), ratio(memory[0][1], memory[1][1]), ratio(memory[0][2], memory[1][2]))
	highest := slices.Max(memory[0][:])
	r.add(highest <= residentReach, "resident: at most %d KiB (at most %d)", highest, residentReach)
	drift := ratio(memory[0][2], memory[0][1]) - 1
	r.add(drift <= flatReach && drift >= -flatReach, "resident from 1,000 to 10,000 containers: %+.1f%% (within %.0f%%)", 100*drift, 100*flatReach)

	size, err := os.Stat(ours)
	if err != nil {
		return err
	}
	r.add(size.Size() <= sizeReach, "size: %d bytes (at most %d)", size.Size(), sizeReach)
	took := time.Since(began)
	r.add(took <= wholeReach, "this run: %.1f s (at most %.0f s)", took.Seconds(), wholeReach.Seconds())

	fmt.Println("\nreaches")
	for _, line := range r {
		fmt.Println(" ", line)
	}
	return nil
}

// facts prints what the numbers depend on.
func facts(sides []*side) error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err
	}
	model := "unknown processor"
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for _, line := range strings.Split(string(data), "\n") {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	fmt.Printf("machine: Linux %s, %d cores, %s; %s; node of %d ids\n",
		unix.ByteSliceToString(name.Release[:]), runtime.NumCPU(), model, runtime.Version(), node.IDs)
	var sizes []int
	for _, s := range sides {
		info, err := os.Stat(s.path)
		if err != nil {
			return err
		}
		sizes = append(sizes, int(info.Size()))
	}
	fmt.Printf("size: %s %d bytes, %s %d bytes, ratio %.3f\n", sides[0].name, sizes[0], sides[1].name, sizes[1], ratio(sizes[0], sizes[1]))
	return nil
}

// start starts the plugin under a runtime of its own.
func (s *side) start() error {
	e, err := s.prepare()
	if err != nil {
		return err
	}
	if err := e.Start(); err != nil {
		return err
	}
	all, err := node.Processes()
	if err != nil {
		return err
	}
	s.engine, s.pid = e, 0
	for _, p := range all {
		if p.Exe == e.PluginPath() && p.State != "Z" {
			s.pid = p.PID
		}
	}
	if s.pid == 0 {
		return fmt.Errorf("%s is not running", s.name)
	}
	return nil
}

func (s *side) prepare() (*engine.Engine, error) {
	dir, err := os.MkdirTemp("", "runtime")
	if err != nil {
		return nil, err
	}
	return engine.New(engine.Config{Dir: dir, Plugin: s.path})
}

func measureStarts(sides []*side) ([]times, error) {
	took := make([]times, len(sides))
	for i := range starts + 1 {
		for j, s := range sides {
			e, err := s.prepare()
			if err != nil {
				return nil, err
			}
			began := time.Now()
			if err := e.Start(); err != nil {
				return nil, err
			}
			if i > 0 { // the first one reads the file
				took[j] = append(took[j], time.Since(began))
			}
			e.Stop()
		}
	}
	return took, nil
}

var (
	rootUser = engine.User{}
	highUser = engine.User{UID: 10001, GID: 10001}
)

func measureCalls(sides []*side, process *node.Pod) ([]times, error) {
	took := make([]times, len(sides))
	pod := engine.NewPod("alone", nil)
	for i := range batches + 1 {
		for j, s := range sides {
			for range batch {
				ctr := engine.NewContainer(pod, "c", rootUser, process)
				began := time.Now()
				_, err := s.engine.CreateContainer(pod, ctr)
				if err != nil {
					return nil, err
				}
				if i > 0 {
					took[j] = append(took[j], time.Since(began))
				}
			}
		}
	}
	return took, nil
}

type injected struct{ withMounts, bare, removal, plainC times }

func measureInjections(s *side, process *node.Pod, userns string) (injected, error) {
	var r injected
	for i := range injections + 1 {
		for _, mounts := range []bool{true, false} {
			holder, took := process, &r.withMounts
			if !mounts {
				holder, took = nil, &r.bare
			}
			for j := range batch / 2 {
				pod := engine.NewPod(fmt.Sprintf("pod-%d-%v-%d", i, mounts, j), nil)
				ctr := engine.NewContainer(pod, "c", highUser, holder)
				began := time.Now()
				adjust, err := s.engine.CreateContainer(pod, ctr)
				spent := time.Since(began)
				if err != nil {
					return r, err
				}
				if engine.UserNamespace(adjust) == "" {
					return r, errors.New("the container got no user namespace")
				}
				// Every pod is removed at once, as this is not about nodes
				// with a hundred pods that all start now.
				began = time.Now()
				if err := s.engine.RemovePod(pod); err != nil {
					return r, err
				}
				if i > 0 {
					*took = append(*took, spent)
					r.removal = append(r.removal, time.Since(began))
				}
			}
			time.Sleep(pause)
		}
		if i > 0 {
			more, err := plainC(userns, plainRounds/injections+1)
			if err != nil {
				return r, err
			}
			r.plainC = append(r.plainC, more...)
		}
	}
	return r, nil
}

// plainC runs the C program for some rounds.
func plainC(program string, rounds int) (times, error) {
	dir, err := os.MkdirTemp("", "userns")
	if err != nil {
		return nil, err
	}
	defer os.Remove(dir)
	cmd := exec.Command(program, fmt.Sprint(rounds), dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%v: %w", cmd.Args, err)
	}
	var all times
	for _, line := range bytes.Fields(out) {
		var ns int64
		if _, err := fmt.Sscan(string(line), &ns); err != nil {
			return nil, err
		}
		all = append(all, time.Duration(ns))
	}
	return all, nil
}

func measureMemory(sides []*side, process *node.Pod) ([][3]int, error) {
	all := make([][3]int, len(sides))
	pod := engine.NewPod("alone", nil)
	for i, s := range sides {
		if err := s.start(); err != nil {
			return nil, err
		}
		for n := range soak + 1 {
			if at := slices.Index([]int{0, 1000, soak}, n); at >= 0 {
				kib, err := node.Status(s.pid, "VmRSS")
				if err != nil {
					return nil, err
				}
				all[i][at] = kib
			}
			if _, err := s.engine.CreateContainer(pod, engine.NewContainer(pod, "c", rootUser, process)); err != nil {
				return nil, err
			}
			if n%10 != 0 {
				continue
			}
			high := engine.NewPod(fmt.Sprint("high", n), nil)
			if _, err := s.engine.CreateContainer(high, engine.NewContainer(high, "c", highUser, process)); err != nil {
				return nil, err
			}
			if err := s.engine.RemovePod(high); err != nil {
				return nil, err
			}
		}
		s.engine.Stop()
	}
	return all, nil
}
