package supervise

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// goProgram takes over if this program was started as what Go programs under supervision are: runtimes and daemons.
func goProgram() {
	if filepath.Base(os.Args[0]) != filepath.Base(program) || len(os.Args) < 2 {
		return
	}
	var err error
	switch os.Args[1] {
	case "set-ids":
		err = setIDsFromThreads()
	case "unpack":
		err = unpack(os.Args[2])
	case "start":
		err = startAsAnother()
	case "features":
		if err = features(); err == nil {
			os.Exit(0)
		}
	default:
		return
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("fine")
	os.Exit(0)
}

// setIDsFromThreads changes the ids of all threads at once, from many goroutines: Go ends the program when the threads'
// results differ.
func setIDsFromThreads() error {
	if _, _, e := syscall.AllThreadsSyscall(unix.SYS_GETPID, 0, 0, 0); e != 0 {
		return fmt.Errorf("built with cgo, which hands these calls to libc: %w", e)
	}
	var started, done sync.WaitGroup
	leave := make(chan struct{})
	for i := range 24 {
		started.Add(1)
		done.Add(1)
		go func() {
			runtime.LockOSThread()
			started.Done()
			if i%2 == 0 { // threads in a call
				for {
					select {
					case <-leave:
						done.Done()
						return
					default:
						time.Sleep(50 * time.Microsecond)
					}
				}
			}
			<-leave // threads that sleep
			done.Done()
		}()
	}
	started.Wait()
	groups := make([]int, 300)
	for i := range groups {
		groups[i] = 65532 + 7919*i
	}
	errs := make(chan error, 64)
	var calls sync.WaitGroup
	for i := range 8 {
		calls.Go(func() {
			errs <- syscall.Setgroups(groups)
			errs <- syscall.Setresgid(65532+i, 65532, -1)
			errs <- syscall.Setregid(-1, 1000660000)
		})
	}
	calls.Wait()
	for _, last := range []func() error{
		func() error { return syscall.Setgroups([]int{50000, 65534, 27}) },
		func() error { return syscall.Setresgid(65532, 65532, 65532) },
		func() error { return syscall.Setuid(1000660000) },
	} {
		errs <- last()
	}
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	if err := syscall.Setuid(0); err != syscall.EPERM {
		return fmt.Errorf("setuid(0) afterwards: %v", err)
	}
	paths, _ := filepath.Glob("/proc/self/task/*/status")
	if len(paths) < 24 {
		return fmt.Errorf("only %d threads", len(paths))
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, want := range []string{"Uid:\t1256\t1256\t1256\t1256\n", "Gid:\t1556\t1556\t1556\t1556\n", "Groups:\t27 1558 1744 \n"} {
			if !strings.Contains(string(text), want) {
				return fmt.Errorf("%s has no %q:\n%s", path, want, text)
			}
		}
	}
	close(leave)
	done.Wait()
	return nil
}

// unpack makes 10,000 files of random owners as containerd does, with a timer's signal every millisecond.
func unpack(dir string) error {
	ticks := make(chan os.Signal, 16)
	signal.Notify(ticks, syscall.SIGALRM)
	every := unix.Itimerval{Interval: unix.Timeval{Usec: 1000}, Value: unix.Timeval{Usec: 1000}}
	if _, err := unix.Setitimer(unix.ITIMER_REAL, every); err != nil {
		return err
	}
	errs := make(chan error, 8)
	for w := range 8 {
		go func() {
			errs <- func() error {
				for i := w; i < 10000; i += 8 {
					path := filepath.Join(dir, strconv.Itoa(i))
					uid, gid := owners(i)
					if err := os.WriteFile(path, nil, 0o644); err != nil {
						return err
					}
					if err := os.Lchown(path, int(uid), int(gid)); err != nil {
						return err
					}
				}
				return nil
			}()
		}()
	}
	for range 8 {
		if err := <-errs; err != nil {
			return err
		}
	}
	if len(ticks) == 0 {
		return fmt.Errorf("no signal came")
	}
	return nil
}

// owners are the ids of a file, of all sizes, 0 and mapped ones among them.
func owners(i int) (uid, gid uint32) {
	x := uint32(i)*2654435761 + 12345
	uid, gid = x>>(x%17), (x*2246822519)>>(x%13)
	if i%10 == 0 {
		uid = uint32(i/10) * 2048
	}
	return min(uid, 1<<32-2), min(gid, 1<<32-2)
}

// startAsAnother starts programs as other users, which Go does in a child that shares its memory until the exec.
func startAsAnother() error {
	for i := range uint32(50) {
		uid := 65532 + i*7919
		cmd := exec.Command(caller, "status", "setuid 0")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid + 1, Groups: []uint32{uid + 2, 7}}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		slot := place(uid)
		for _, want := range []string{fmt.Sprintf("Uid:\t%d\t%[1]d\t%[1]d\t%[1]d\n", slot), fmt.Sprintf("Gid:\t%d\t%[1]d\t", place(uid+1)), "setuid = EPERM"} {
			if !strings.Contains(string(out), want) {
				return fmt.Errorf("no %q in:\n%s", want, out)
			}
		}
	}
	return nil
}

func TestGoPrograms(t *testing.T) {
	inNode(t, func(t *testing.T) {
		for _, argv := range [][]string{{program, "set-ids"}, {program, "unpack", stage}, {program, "start"}} {
			t.Run(argv[1], func(t *testing.T) {
				freshStage(t)
				if o := run(t, argv...); o.code == 0 || !strings.Contains(o.out, "invalid argument") {
					t.Errorf("not supervised: status %d\n%s", o.code, o.out)
				}
				freshStage(t)
				o := run(t, supervised(argv...)...)
				if o.code != 0 || o.out != "fine\n" {
					t.Errorf("status %d\n%s", o.code, o.out)
				}
				t.Log(o.within)
				if argv[1] != "unpack" {
					return
				}
				wrong := 0
				for i := range 10000 {
					var s unix.Stat_t
					check(t, unix.Stat(filepath.Join(stage, strconv.Itoa(i)), &s))
					uid, gid := owners(i)
					if s.Uid != place(uid) || s.Gid != place(gid) {
						if wrong++; wrong < 5 {
							t.Errorf("file %d of %d:%d is of %d:%d, want %d:%d", i, uid, gid, s.Uid, s.Gid, place(uid), place(gid))
						}
					}
				}
			})
		}
	})
}
