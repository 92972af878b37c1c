//go:build !nri08

package nri

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"golang.org/x/sys/unix"

	"uid-nri-plugin/tests/node"
	"uid-nri-plugin/tests/nri/internal/engine"
)

// stopAt lets a process run until its n-th system call from now is about to
// begin, while act makes it work, and kills it there. With n = 0 it only
// counts the calls that act takes. It returns the calls it saw.
func stopAt(pid, n int, act func()) (int, error) {
	// All requests about a traced process must come from one thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	if err := unix.PtraceSeize(pid); err != nil {
		return 0, fmt.Errorf("seize: %w", err)
	}
	if err := unix.PtraceInterrupt(pid); err != nil {
		return 0, fmt.Errorf("interrupt: %w", err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil {
		return 0, fmt.Errorf("wait: %w", err)
	}
	if err := unix.PtraceSetOptions(pid, unix.PTRACE_O_TRACESYSGOOD); err != nil {
		return 0, fmt.Errorf("set options: %w", err)
	}
	acted := make(chan struct{})
	go func() {
		act()
		close(acted)
	}()

	calls := 0
	entering, done := true, false
	for signal := 0; ; {
		if err := unix.PtraceSyscall(pid, signal); err != nil {
			return calls, fmt.Errorf("continue: %w", err)
		}
		for {
			got, err := unix.Wait4(pid, &status, unix.WNOHANG, nil)
			if err != nil {
				return calls, fmt.Errorf("wait: %w", err)
			}
			if got == pid {
				break
			}
			select {
			case <-acted:
				// Nothing more to come: the process waits for a request.
				// Whatever it stops for next stands for the interrupt.
				if err := unix.PtraceInterrupt(pid); err != nil {
					return calls, fmt.Errorf("interrupt: %w", err)
				}
				acted, done = nil, true
			default:
				runtime.Gosched()
			}
		}
		signal = 0
		switch {
		case status.Exited() || status.Signaled():
			return calls, errors.New("the plugin ended by itself")
		case done:
			return calls, unix.PtraceDetach(pid)
		case status.StopSignal() == unix.SIGTRAP|0x80: // TRACESYSGOOD
			if entering {
				calls++
			}
			entering = !entering
			if calls == n {
				if err := unix.Kill(pid, unix.SIGKILL); err != nil {
					return calls, err
				}
				// Or the library waits for it first.
				for err := error(nil); err != unix.ECHILD && !status.Signaled(); {
					if _, err = unix.Wait4(pid, &status, 0, nil); err != nil && err != unix.ECHILD && err != unix.EINTR {
						return calls, fmt.Errorf("wait for its end: %w", err)
					}
				}
				<-acted
				return calls, nil
			}
		default:
			signal = int(status.StopSignal())
		}
	}
}

func TestAKilledPluginLeavesNoOrphans(t *testing.T) {
	fixture(t)
	user := engine.User{UID: 10001, GID: 10001}
	process := newPodProcess(t, true)
	containerOf := func(pod *api.PodSandbox) *api.Container {
		ctr := engine.NewContainer(pod, "c", user, process)
		for _, ns := range ctr.Linux.Namespaces {
			if ns.Type == "pid" {
				ns.Path = process.Namespace("pid")
			}
		}
		return ctr
	}

	e := start(t, engine.Config{})
	pod := wanting("counted", user)
	total, err := stopAt(pluginPID(t, e), 0, func() { e.CreateContainer(pod, containerOf(pod)) })
	check(t, err)
	if total < 10 {
		t.Fatalf("a creation takes %d system calls: too few to be one", total)
	}
	t.Logf("a creation takes %d system calls", total)
	check(t, e.RemovePod(pod))
	wantNoState(t)
	e.Stop()

	for i := range total {
		n := i + 1
		// Half of the pods are still there when the plugin comes back.
		lives := i%2 == 0
		e := start(t, engine.Config{})
		older, hit := wanting(fmt.Sprint("older", i), user), wanting(fmt.Sprint("hit", i), user)
		before := inode(t, namespaceOf(t, older, create(t, e, older, containerOf(older))))
		if _, err := stopAt(pluginPID(t, e), n, func() { e.CreateContainer(hit, containerOf(hit)) }); err != nil {
			t.Fatalf("kill at call %d: %v", n, err)
		}
		e.Stop()
		eventually(t, fmt.Sprintf("no processes after a kill at call %d", n), func() error {
			if left := pluginProcesses(t); len(left) != 0 {
				return fmt.Errorf("left: %+v", left)
			}
			return nil
		})

		known := []*api.PodSandbox{older}
		if lives {
			known = append(known, hit)
		}
		e = start(t, engine.Config{Pods: known})
		wantLockOf(t, pluginPID(t, e))
		mounts, err := node.MountsUnder(stateDir)
		check(t, err)
		for _, point := range mounts {
			if !strings.HasPrefix(point, podsDir+"/"+older.Id+"/") && (!lives || !strings.HasPrefix(point, podsDir+"/"+hit.Id+"/")) {
				t.Errorf("killed at call %d: %s is still mounted", n, point)
			}
		}
		if !lives {
			wantPods(t, older.Id)
		}
		// The pod that it was killed over can have its container now.
		adjust := create(t, e, hit, containerOf(hit))
		namespaceOf(t, hit, adjust)
		wantMaps(t, adjust, mapOf([]uint32{10001}, defaultClaims), mapOf([]uint32{10001}, defaultClaims))
		if after := inode(t, namespaceOf(t, older, create(t, e, older, containerOf(older)))); after != before {
			t.Errorf("killed at call %d: the namespace of another pod changed", n)
		}
		check(t, e.RemovePod(hit))
		check(t, e.RemovePod(older))
		wantNoState(t)
		e.Stop()
		if t.Failed() {
			t.Fatalf("stopped at the first kill that went wrong: call %d of %d", n, total)
		}
	}
}

func TestAPluginKilledInARemovalLeavesNoOrphans(t *testing.T) {
	fixture(t)
	user := engine.User{UID: 10001, GID: 10001}
	process := newPodProcess(t, false)
	pod := wanting("removed", user)
	total := 0
	// The first time nothing is killed, only counted.
	for n := 0; n <= total; n++ {
		e := start(t, engine.Config{})
		namespaceOf(t, pod, create(t, e, pod, engine.NewContainer(pod, "c", user, process)))
		calls, err := stopAt(pluginPID(t, e), n, func() { e.RemovePod(pod) })
		if err != nil {
			t.Fatalf("kill at call %d: %v", n, err)
		}
		if n == 0 {
			total = calls
		}
		e.Stop()
		// The runtime was told of the removal and does not know the pod any more.
		e = start(t, engine.Config{})
		wantNoState(t)
		e.Stop()
		if t.Failed() {
			t.Fatalf("stopped at the first kill that went wrong: call %d of %d", n, total)
		}
	}
	if total < 5 {
		t.Errorf("a removal takes %d system calls: too few to be one", total)
	}
}
