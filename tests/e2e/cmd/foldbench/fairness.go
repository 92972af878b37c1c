package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

const (
	crowdThreads = 5000
	fairCalls    = 3000            // measured
	fairTime     = 4 * time.Second // at most
	fairTimes    = 3               // times idle
	fairReach    = time.Millisecond
)

var crowds = []string{"quick", "set-id", "slow", "all"}

// fairness measures what a container with many threads, which do nothing but make calls that are folded, does to another
// container's calls. A container is what has a mount namespace of its own.
func (b *bench) fairness() error {
	fmt.Printf("\nfairness: a folded chown of one container beside %d threads of another at nice 19\n", crowdThreads)
	fmt.Printf("  %-12s %12s %12s %12s %12s %12s %12s\n", "their calls", "idle median", "99%", "most", "median", "99%", "most")
	for _, kind := range crowds {
		dir := filepath.Join(b.memory, "fairness")
		if err := errors.Join(os.Mkdir(dir, 0o755), os.Chown(dir, machineBase, machineBase)); err != nil {
			return err
		}
		cmd := b.inside(true, b.self, "fairness", kind, dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		os.RemoveAll(dir)
		if err != nil {
			return fmt.Errorf("fairness, %s calls: %w", kind, err)
		}
		var all []time.Duration
		line := fmt.Sprintf("  %-12s", kind)
		for _, word := range strings.Fields(string(out)) {
			d, err := time.ParseDuration(word)
			if err != nil {
				return err
			}
			all = append(all, d)
			line += fmt.Sprintf(" %12v", d.Round(time.Microsecond))
		}
		if len(all) != 6 {
			return fmt.Errorf("fairness said %q", out)
		}
		fmt.Println(line)
		most := max(fairTimes*all[1], fairReach)
		b.reach(all[4] <= most, "a container's folded chown beside %d threads with %s calls: 99%% within %v (at most %v)", crowdThreads, kind, all[4], most)
	}
	return nil
}

// fairly is one such measurement, below the supervisor.
func fairly(kind, dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	container := func(argv ...string) (*exec.Cmd, io.WriteCloser, *bufio.Reader, error) {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			return nil, nil, nil, err
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return nil, nil, nil, err
		}
		return cmd, in, bufio.NewReader(out), cmd.Start()
	}
	runtime.LockOSThread()
	one, ask, answer, err := container(self, "few", dir)
	if err != nil {
		return err
	}
	defer one.Process.Kill()
	measure := func() error {
		fmt.Fprintln(ask, "go")
		line, err := answer.ReadString('\n')
		fmt.Print(line)
		return err
	}
	if err := measure(); err != nil {
		return err
	}
	file := filepath.Join(dir, "crowd")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		return err
	}
	crowd, _, ready, err := container("nice", "-n", "19", filepath.Join(filepath.Dir(self), "caller"), "@crowd", fmt.Sprint(crowdThreads), kind, file)
	if err != nil {
		return err
	}
	defer crowd.Process.Kill()
	if _, err := ready.ReadString('\n'); err != nil {
		return fmt.Errorf("no crowd: %w", err)
	}
	time.Sleep(time.Second)
	return measure()
}

// few makes one call after the other each time it is asked, and tells the median, the 99th percentile and the longest.
func few(dir string) error {
	runtime.LockOSThread()
	file := filepath.Join(dir, "few")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		return err
	}
	path := append([]byte(file), 0)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var took []time.Duration
		for began := time.Now(); len(took) < fairCalls && time.Since(began) < fairTime; {
			start := time.Now()
			id := uintptr(50000 + len(took)%2)
			if _, _, e := syscall.RawSyscall6(syscall.SYS_FCHOWNAT, fdCwd, uintptr(unsafe.Pointer(&path[0])), id, id, 0, 0); e != 0 {
				return fmt.Errorf("chown: %w", e)
			}
			took = append(took, time.Since(start))
			time.Sleep(200 * time.Microsecond)
		}
		slices.Sort(took)
		fmt.Println(took[len(took)/2], took[len(took)*99/100], took[len(took)-1])
	}
	return nil
}
