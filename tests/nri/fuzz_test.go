//go:build !nri08 && !nri011 && !nri0120

package nri

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"uid-nri-plugin/tests/node"
	"uid-nri-plugin/tests/wait"
)

const (
	memoryLimit = 16 << 10 // KiB resident, four times the largest frame

	// More than this of addresses and the plugin cannot go on, so that one
	// allocation of what a length claims is seen even if it is never touched.
	addressLimit = 64 << 20
)

// mutate damages a stream in one to four places.
func mutate(rng *rand.Rand, stream []byte) []byte {
	out := append([]byte(nil), stream...)
	lengths := []uint32{0, 1, 9, 10, 0x7f, 0x80, 0xff, 0x1000, frameLimit, frameLimit + 1, frameLimit + 10, 0x7fffffff, 0x80000000, 0xffffffff}
	for range 1 + rng.IntN(4) {
		if len(out) < 16 {
			break
		}
		at := rng.IntN(len(out) - 4)
		end := at + 1 + rng.IntN(min(64, len(out)-at))
		switch rng.IntN(7) {
		case 0:
			out[at] ^= 1 << rng.IntN(8)
		case 1:
			out[at] = byte(rng.IntN(256))
		case 2:
			binary.BigEndian.PutUint32(out[at:], lengths[rng.IntN(len(lengths))])
		case 3:
			out = append(out[:at:at], out[end:]...)
		case 4:
			out = append(out[:end:end], out[at:]...)
		case 5:
			junk := make([]byte, 1+rng.IntN(64))
			for i := range junk {
				junk[i] = byte(rng.IntN(256))
			}
			out = append(out[:at:at], append(junk, out[at:]...)...)
		case 6:
			out = out[:at]
		}
	}
	return out
}

// sessions are what a runtime may say, from its first byte on.
func sessions() [][]byte {
	calls := func(methods ...string) (frames [][]byte) {
		payloads := map[string][]byte{
			"Configure":        join(text(1, "claim-uids = 70000\n"), configure),
			"Synchronize":      join(field(1, onePod), field(2, plainContainer), number(3, 1)),
			"CreateContainer":  createNeeded,
			"RemovePodSandbox": removePod,
			"RunPodSandbox":    removePod,
			"StateChange":      join(number(1, 3), field(2, onePod)),
			"Shutdown":         nil,
		}
		for i, method := range methods {
			frames = append(frames, frame(uint32(1+2*i), request, call(pluginService, method, payloads[method])))
		}
		return frames
	}
	annotated := join(text(1, "asks"), text(2, "p"), text(4, "ns"), field(8, field(5, network)),
		field(6, join(text(1, "uid-mapper.noderesource.dev"), text(2, "inject=always claim-uids=50000,10001-10005 collisions=allow"))))
	rich := join(plainContainer,
		field(9, join(text(1, "/sys"), text(2, "sysfs"), text(3, "sysfs"), text(4, "ro"))),
		field(9, join(text(1, "/dev/mqueue"), text(2, "mqueue"), text(3, "mqueue"))),
		field(11, join(field(1, network), field(1, text(1, "pid")))))
	everything := calls("Configure", "Synchronize", "RunPodSandbox", "CreateContainer", "StateChange", "RemovePodSandbox", "Shutdown")

	var one []byte
	for _, f := range everything {
		one = append(one, f...)
	}
	var each []byte
	for _, f := range everything {
		each = append(each, chunk(toPlugin, f)...)
	}
	asking := frame(99, request, call(pluginService, "CreateContainer", join(field(1, annotated), field(2, rich))))
	return [][]byte{
		join(answer(1), each, chunk(toPlugin, asking)),
		join(answer(1), chunk(toPlugin, one)),
		join(chunk(toPlugin, one[:40]), answer(1), chunk(toPlugin, one[40:]), chunk(toPlugin, asking)),
	}
}

// feed launches the plugin, says a stream to it, and returns how it ended and
// the most memory it had, as far as it lived to show it.
func feed(t *testing.T, stream []byte) (end *os.ProcessState, errs string, peak int) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	check(t, err)
	ours, theirs := os.NewFile(uintptr(fds[0]), "runtime"), os.NewFile(uintptr(fds[1]), "plugin")
	conn, err := net.FileConn(ours)
	check(t, err)
	ours.Close()
	defer conn.Close()

	var out strings.Builder
	cmd := exec.Command(plugin)
	cmd.Env = []string{"NRI_PLUGIN_NAME=uid-mapper", "NRI_PLUGIN_IDX=00", "NRI_PLUGIN_SOCKET=3"}
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = &out
	check(t, cmd.Start())
	theirs.Close()
	defer cmd.Process.Kill()
	limit := unix.Rlimit{Cur: addressLimit, Max: addressLimit}
	check(t, unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_AS, &limit, nil))

	quiet := make(chan struct{})
	go func() {
		io.Copy(io.Discard, conn)
		close(quiet)
	}()
	conn.SetWriteDeadline(time.Now().Add(wait.Scaled(5 * time.Second)))
	conn.Write(stream) // which the plugin need not want to the end

	raw, err := conn.(*net.UnixConn).SyscallConn()
	check(t, err)
	for deadline := time.Now().Add(wait.Scaled(5 * time.Second)); ; {
		unread := 0
		check(t, raw.Control(func(fd uintptr) { unread, err = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ) }))
		check(t, err)
		if mem, err := node.Status(cmd.Process.Pid, "VmHWM"); err == nil {
			peak = max(peak, mem)
		} else {
			break // it ended
		}
		if unread == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the plugin does not read: %d bytes are waiting", unread)
		}
		time.Sleep(20 * time.Microsecond)
	}
	conn.(*net.UnixConn).CloseWrite()

	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(wait.Scaled(5 * time.Second)):
		t.Fatal("the plugin did not end")
	}
	<-quiet
	return cmd.ProcessState, out.String(), peak
}

func TestDamagedStreams(t *testing.T) {
	fixture(t)
	const streams = 2000
	starts := sessions()
	ends := map[string]int{}
	highest := 0
	for i, whole := range starts {
		if end, errs, _ := feed(t, whole); end.ExitCode() != 0 && end.ExitCode() != 1 {
			t.Fatalf("session %d, not damaged: %v, %q", i, end, errs)
		}
	}
	for i := range streams {
		stream := mutate(rand.New(rand.NewPCG(2048, uint64(i))), starts[i%len(starts)])
		end, errs, peak := feed(t, stream)
		highest = max(highest, peak)
		ends[end.String()]++
		if code := end.ExitCode(); code != 0 && code != 1 {
			t.Errorf("stream %d: %v, standard error %q\n%x", i, end, errs, stream)
		}
		if peak > memoryLimit {
			t.Errorf("stream %d: %d KiB resident\n%x", i, peak, stream)
		}
		if lines := strings.Count(errs, "\n"); lines > 1 || strings.Contains(errs, "panicked") {
			t.Errorf("stream %d: standard error %q", i, errs)
		}
		if t.Failed() {
			t.Fatalf("stopped at the first stream that went wrong, %d of %d", i, streams)
		}
	}
	t.Log(fmt.Sprint("ends: ", ends, "; at most ", highest, " KiB resident"))
	if highest == 0 {
		t.Error("no plugin lived long enough to show its memory")
	}

	// What was made for pods that were never removed is swept at a start.
	started(t).close()
	wantNoState(t)
}
