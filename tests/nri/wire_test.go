//go:build !nri08 && !nri011 && !nri0120

package nri

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"uid-nri-plugin/tests/node"
	"uid-nri-plugin/tests/nri/internal/engine"
	"uid-nri-plugin/tests/wait"
)

// The wire by hand, for what the library never sends. On the socket there are
// chunks, "channel u32, length u32, bytes"; the bytes of a channel are frames,
// "length u32, stream u32, type u8, flags u8, message".

const (
	toPlugin  = 1 // the channel of calls by the runtime
	toRuntime = 2 // the channel of calls by the plugin

	request  = 1
	response = 2

	pluginService  = "nri.pkg.api.v1alpha1.Plugin"
	runtimeService = "nri.pkg.api.v1alpha1.Runtime"

	frameLimit = 4 << 20

	// Codes of the ttrpc status.
	invalidArgument   = 3
	resourceExhausted = 8
	unimplemented     = 12
)

func chunk(channel uint32, payload []byte) []byte {
	out := binary.BigEndian.AppendUint32(nil, channel)
	out = binary.BigEndian.AppendUint32(out, uint32(len(payload)))
	return append(out, payload...)
}

func frame(stream uint32, kind byte, message []byte) []byte {
	out := binary.BigEndian.AppendUint32(nil, uint32(len(message)))
	out = binary.BigEndian.AppendUint32(out, stream)
	return append(append(out, kind, 0), message...)
}

// field is a length-delimited field of a protobuf message.
func field(number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), value)
}

func text(number protowire.Number, value string) []byte { return field(number, []byte(value)) }

func number(n protowire.Number, value uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), value)
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func call(service, method string, payload []byte) []byte {
	return join(text(1, service), text(2, method), field(3, payload))
}

var (
	configure = join(text(2, "containerd"), text(3, engine.Version), number(4, 5000), number(5, 2000), text(6, "v0.12.5"))
	network   = join(text(1, "network"), text(2, engine.Network))
	onePod    = join(text(1, "wire"), text(2, "pod-wire"), text(3, "uid-wire"), text(4, "default"), field(8, field(5, network)))
	// container of pod "wire", as root and as 10001
	plainContainer  = join(text(1, "c1"), text(2, "wire"), text(3, "c"), field(11, field(1, network)), field(21, nil))
	neededContainer = join(text(1, "c2"), text(2, "wire"), text(3, "c"), field(11, field(1, network)), field(21, join(number(1, 10001), number(2, 10001))))
	createPlain     = join(field(1, onePod), field(2, plainContainer))
	createNeeded    = join(field(1, onePod), field(2, neededContainer))
	removePod       = field(1, onePod)
)

// message reads the fields of a protobuf message that are needed here: the
// last value of each number.
type message struct {
	texts   map[protowire.Number][]byte
	numbers map[protowire.Number]uint64
}

func parse(data []byte) (message, error) {
	m := message{map[protowire.Number][]byte{}, map[protowire.Number]uint64{}}
	for len(data) > 0 {
		n, kind, size := protowire.ConsumeTag(data)
		if size < 0 {
			return m, protowire.ParseError(size)
		}
		data = data[size:]
		switch kind {
		case protowire.BytesType:
			m.texts[n], size = protowire.ConsumeBytes(data)
		case protowire.VarintType:
			m.numbers[n], size = protowire.ConsumeVarint(data)
		default:
			size = protowire.ConsumeFieldValue(n, kind, data)
		}
		if size < 0 {
			return m, protowire.ParseError(size)
		}
		data = data[size:]
	}
	return m, nil
}

// got is a frame that the plugin sent.
type got struct {
	channel, stream uint32
	kind            byte
	message         []byte
}

// readFrames cuts what the plugin sends into frames, until its end.
func readFrames(conn io.Reader, frames chan<- got) error {
	pending := map[uint32][]byte{}
	for {
		var head [8]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return ending(err)
		}
		channel, size := binary.BigEndian.Uint32(head[:]), binary.BigEndian.Uint32(head[4:])
		if size > frameLimit+10 {
			return fmt.Errorf("the plugin sent a chunk of %d bytes", size)
		}
		payload := make([]byte, size)
		if _, err := io.ReadFull(conn, payload); err != nil {
			return ending(err)
		}
		buf := append(pending[channel], payload...)
		for len(buf) >= 10 {
			end := 10 + int(binary.BigEndian.Uint32(buf))
			if len(buf) < end {
				break
			}
			frames <- got{channel, binary.BigEndian.Uint32(buf[4:]), buf[8], bytes.Clone(buf[10:end])}
			buf = buf[end:]
		}
		pending[channel] = bytes.Clone(buf)
	}
}

// ending takes away from an error of reading what an end of the plugin, or of
// the test, explains.
func ending(err error) error {
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.ECONNRESET} {
		if errors.Is(err, end) {
			return nil
		}
	}
	return err
}

// wire is a plugin launched by hand, and the runtime's end of its socket.
type wire struct {
	t      *testing.T
	conn   *net.UnixConn
	cmd    *exec.Cmd
	errs   bytes.Buffer
	frames chan got
	done   chan struct{} // closed at the plugin's end
	stream uint32        // the last one used
}

// launch starts the plugin as containerd does, and says nothing to it.
func launch(t *testing.T) *wire {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	check(t, err)
	ours, theirs := os.NewFile(uintptr(fds[0]), "runtime"), os.NewFile(uintptr(fds[1]), "plugin")
	conn, err := net.FileConn(ours)
	check(t, err)
	ours.Close()
	w := &wire{t: t, conn: conn.(*net.UnixConn), cmd: exec.Command(plugin), frames: make(chan got, 1000), done: make(chan struct{})}
	w.cmd.Env = []string{"NRI_PLUGIN_NAME=uid-mapper", "NRI_PLUGIN_IDX=00", "NRI_PLUGIN_SOCKET=3"}
	w.cmd.ExtraFiles = []*os.File{theirs}
	w.cmd.Stderr = &w.errs
	check(t, w.cmd.Start())
	theirs.Close()
	go func() {
		w.cmd.Wait()
		close(w.done)
	}()
	go func() {
		defer close(w.frames)
		if err := readFrames(conn, w.frames); err != nil {
			t.Errorf("what the plugin sends: %v", err)
		}
	}()
	t.Cleanup(w.close)
	return w
}

func (w *wire) close() {
	w.conn.Close()
	w.cmd.Process.Kill()
	<-w.done
	for range w.frames {
		// until its reader has ended
	}
}

// send writes bytes as they are.
func (w *wire) send(data []byte) {
	w.t.Helper()
	w.conn.SetWriteDeadline(time.Now().Add(wait.Scaled(5 * time.Second)))
	if _, err := w.conn.Write(data); err != nil {
		w.t.Fatalf("the plugin does not read: %v; standard error %q", err, w.stderr())
	}
}

func (w *wire) stderr() string {
	select {
	case <-w.done:
		return w.errs.String()
	case <-time.After(100 * time.Millisecond):
		return "(still running)"
	}
}

// next is the next frame from the plugin.
func (w *wire) next() got {
	w.t.Helper()
	select {
	case f, ok := <-w.frames:
		if !ok {
			w.t.Fatalf("the plugin closed the connection; standard error %q", w.stderr())
		}
		return f
	case <-time.After(wait.Scaled(5 * time.Second)):
		w.t.Fatal("no answer from the plugin in 5 s")
	}
	return got{}
}

// wantRegister reads the plugin's RegisterPlugin and returns its stream.
func (w *wire) wantRegister() uint32 {
	w.t.Helper()
	f := w.next()
	m, err := parse(f.message)
	check(w.t, err)
	if f.channel != toRuntime || f.kind != request || f.stream%2 != 1 || string(m.texts[1]) != runtimeService || string(m.texts[2]) != "RegisterPlugin" {
		w.t.Fatalf("first frame: channel %d, stream %d, type %d, %q %q", f.channel, f.stream, f.kind, m.texts[1], m.texts[2])
	}
	who, err := parse(m.texts[3])
	check(w.t, err)
	if string(who.texts[1]) != "uid-mapper" || string(who.texts[2]) != "00" {
		w.t.Errorf("registers as %q, index %q", who.texts[1], who.texts[2])
	}
	return f.stream
}

// answer is the reply to the plugin's RegisterPlugin.
func answer(stream uint32) []byte { return chunk(toRuntime, frame(stream, response, nil)) }

// ask makes the next call and returns its bytes as one frame.
func (w *wire) ask(method string, payload []byte) []byte {
	w.stream += 2
	return frame(w.stream-1, request, call(pluginService, method, payload))
}

// reply reads the answer to the call on a stream.
func (w *wire) reply(stream uint32) (code uint64, text string, payload []byte) {
	w.t.Helper()
	f := w.next()
	if f.channel != toPlugin || f.kind != response || f.stream != stream {
		w.t.Fatalf("reply: channel %d, type %d, stream %d; want stream %d", f.channel, f.kind, f.stream, stream)
	}
	m, err := parse(f.message)
	check(w.t, err)
	status, err := parse(m.texts[1])
	check(w.t, err)
	return status.numbers[1], string(status.texts[2]), m.texts[2]
}

// wantReply fails the test unless the call on a stream is answered with a code.
func (w *wire) wantReply(stream uint32, want uint64) []byte {
	w.t.Helper()
	code, text, payload := w.reply(stream)
	if code != want {
		w.t.Fatalf("reply: code %d %q, want %d", code, text, want)
	}
	return payload
}

// call makes a call in one chunk, and wants it to be answered with a code.
func (w *wire) call(method string, payload []byte, want uint64) []byte {
	w.t.Helper()
	w.send(chunk(toPlugin, w.ask(method, payload)))
	return w.wantReply(w.stream-1, want)
}

// usable fails the test unless the plugin still does its work.
func (w *wire) usable() {
	w.t.Helper()
	if reply := w.call("CreateContainer", createPlain, 0); len(reply) != 0 {
		w.t.Errorf("a container that needs nothing: reply of %d bytes", len(reply))
	}
	if reply := w.call("CreateContainer", createNeeded, 0); !bytes.Contains(reply, []byte(podsDir+"/wire/")) {
		w.t.Errorf("a container that needs a namespace: reply %q", reply)
	}
	w.call("RemovePodSandbox", removePod, 0)
}

// ended waits for the plugin's end, which must be its own, in words.
func (w *wire) ended() {
	w.t.Helper()
	select {
	case <-w.done:
	case <-time.After(wait.Scaled(5 * time.Second)):
		w.t.Fatal("the plugin did not end")
	}
	if code := w.cmd.ProcessState.ExitCode(); code != 1 {
		w.t.Errorf("the plugin's end: %v, want exit status 1", w.cmd.ProcessState)
	}
	wantOneErrorLine(w.t, w.errs.String(), "")
}

// wantLittleMemory fails the test if the plugin ever had more than the largest
// frame accounts for.
func (w *wire) wantLittleMemory() {
	w.t.Helper()
	peak, err := node.Status(w.cmd.Process.Pid, "VmHWM")
	check(w.t, err)
	if peak > memoryLimit {
		w.t.Errorf("%d KiB resident, at most %d are wanted", peak, memoryLimit)
	}
}

// started launches a plugin that is registered, configured and synchronized.
func started(t *testing.T) *wire {
	t.Helper()
	w := launch(t)
	w.send(answer(w.wantRegister()))
	w.call("Configure", configure, 0)
	w.call("Synchronize", nil, 0)
	return w
}

func TestWire(t *testing.T) {
	everything := func(w *wire) []byte {
		return join(w.ask("Configure", configure), w.ask("Synchronize", nil), w.ask("CreateContainer", createNeeded),
			w.ask("CreateContainer", createPlain), w.ask("RemovePodSandbox", removePod))
	}
	answered := func(w *wire) {
		w.t.Helper()
		for stream := uint32(1); stream <= w.stream-1; stream += 2 {
			w.wantReply(stream, 0)
		}
		w.usable()
	}

	for name, test := range map[string]func(*wire){
		"as usual": func(w *wire) {
			w.send(answer(w.wantRegister()))
			w.send(chunk(toPlugin, everything(w)))
			answered(w)
		},
		"one chunk for every byte": func(w *wire) {
			stream := w.wantRegister()
			for _, b := range frame(stream, response, nil) {
				w.send(chunk(toRuntime, []byte{b}))
			}
			var all []byte
			for _, b := range everything(w) {
				all = append(all, chunk(toPlugin, []byte{b})...)
			}
			w.send(all)
			answered(w)
		},
		"a frame cut in two chunks at every byte": func(w *wire) {
			w.send(answer(w.wantRegister()))
			w.call("Configure", configure, 0)
			w.call("Synchronize", nil, 0)
			for cut := 1; ; cut++ {
				f := w.ask("CreateContainer", createPlain)
				if cut == len(f) {
					w.stream -= 2
					break
				}
				w.send(join(chunk(toPlugin, f[:cut]), chunk(toPlugin, f[cut:])))
				w.wantReply(w.stream-1, 0)
			}
			w.usable()
		},
		"the socket's bytes one by one": func(w *wire) {
			for _, b := range answer(w.wantRegister()) {
				w.send([]byte{b})
			}
			for _, b := range chunk(toPlugin, everything(w)) {
				w.send([]byte{b})
			}
			answered(w)
		},
		"calls before the answer to RegisterPlugin": func(w *wire) {
			stream := w.wantRegister()
			w.send(chunk(toPlugin, everything(w)))
			w.send(answer(stream))
			answered(w)
		},
		"a call around the answer to RegisterPlugin": func(w *wire) {
			first := answer(w.wantRegister())
			f := w.ask("Configure", configure)
			w.send(join(chunk(toPlugin, f[:7]), first, chunk(toPlugin, f[7:])))
			w.wantReply(1, 0)
			w.call("Synchronize", nil, 0)
			w.usable()
		},
		"channels that take turns": func(w *wire) {
			stream := w.wantRegister()
			one, two := everything(w), frame(stream, response, join(field(2, make([]byte, 300))))
			for len(one)+len(two) > 0 {
				if len(one) > 0 {
					w.send(chunk(toPlugin, one[:1]))
					one = one[1:]
				}
				if len(two) > 0 {
					w.send(chunk(toRuntime, two[:1]))
					two = two[1:]
				}
			}
			answered(w)
		},
		"an error as the answer to RegisterPlugin": func(w *wire) {
			status := field(1, join(number(1, 2), text(2, "no such plugin here")))
			w.send(chunk(toRuntime, frame(w.wantRegister(), response, status)))
			w.ended()
			if !strings.Contains(w.errs.String(), "no such plugin here") {
				w.t.Errorf("the reason is not told: %q", w.errs.String())
			}
		},
		"the end before the answer to RegisterPlugin": func(w *wire) {
			w.wantRegister()
			w.conn.CloseWrite()
			w.ended()
		},
	} {
		t.Run(name, func(t *testing.T) {
			fixture(t)
			test(launch(t))
		})
	}
}

func TestConfigureReply(t *testing.T) {
	fixture(t)
	w := launch(t)
	w.send(answer(w.wantRegister()))
	reply, err := parse(w.call("Configure", configure, 0))
	check(t, err)
	if reply.numbers[2] != 1|1<<2|1<<3 {
		t.Errorf("events: %#b", reply.numbers[2])
	}
	// NRI 0.12.5 knows it: fail a request that the plugin did not answer, and
	// keep the plugin.
	policy, err := parse(reply.texts[3])
	check(t, err)
	if policy.numbers[1] != 1 || policy.numbers[2] != 1 {
		t.Errorf("failure policy: %v", policy.numbers)
	}
}

func TestWireOnceStarted(t *testing.T) {
	junk := bytes.Repeat([]byte{0xff}, 40)
	for name, test := range map[string]func(*wire){
		"a frame over the limit": func(w *wire) {
			w.stream += 2
			over := frame(w.stream-1, request, make([]byte, frameLimit+1))
			go w.conn.Write(join(chunk(toPlugin, over[:frameLimit]), chunk(toPlugin, over[frameLimit:])))
			w.wantReply(w.stream-1, resourceExhausted)
			w.usable()
			w.wantLittleMemory()
		},
		"a frame over the limit in many chunks, with another behind it": func(w *wire) {
			w.stream += 2
			all := frame(w.stream-1, request, make([]byte, frameLimit+1))
			all = append(all, w.ask("CreateContainer", createPlain)...)
			var chunks []byte
			for len(all) > 0 {
				n := min(len(all), 4096)
				chunks = append(chunks, chunk(toPlugin, all[:n])...)
				all = all[n:]
			}
			go w.conn.Write(chunks)
			w.wantReply(w.stream-3, resourceExhausted)
			w.wantReply(w.stream-1, 0)
			w.usable()
		},
		"a frame at the limit": func(w *wire) {
			// Unknown field 99 of the request, as large as may be.
			room := frameLimit - len(call(pluginService, "CreateContainer", createPlain)) - 6
			message := join(call(pluginService, "CreateContainer", createPlain), field(99, make([]byte, room)))
			w.stream += 2
			f := frame(w.stream-1, request, message)
			if len(f) != frameLimit+10 {
				w.t.Fatalf("the frame has %d bytes", len(f))
			}
			go w.conn.Write(chunk(toPlugin, f))
			w.wantReply(w.stream-1, 0)
			w.usable()
			w.wantLittleMemory()
		},
		"a 4 GiB chunk and the end": func(w *wire) {
			head := binary.BigEndian.AppendUint32(nil, toPlugin)
			w.send(append(binary.BigEndian.AppendUint32(head, 0xffffffff), "little"...))
			w.wantLittleMemory()
			w.conn.CloseWrite()
			w.ended()
		},
		"a 4 GiB frame and the end": func(w *wire) {
			head := binary.BigEndian.AppendUint32(nil, 0xffffffff)
			w.send(chunk(toPlugin, append(head, 0, 0, 0, 99, request, 0, 'x')))
			w.conn.CloseWrite()
			w.ended()
		},
		"an unknown channel": func(w *wire) {
			w.send(chunk(3, junk))
			w.send(chunk(0, junk))
			w.send(chunk(0xffffffff, frame(1, request, call(pluginService, "CreateContainer", createPlain))))
			w.usable()
		},
		"an unknown method": func(w *wire) {
			w.call("MakeTea", nil, unimplemented)
			w.call("", nil, unimplemented)
			w.usable()
		},
		"a method of another NRI": func(w *wire) {
			w.call("UpdateContainer", nil, unimplemented)
			w.call("ValidateContainerAdjustment", nil, unimplemented)
			w.usable()
		},
		"an unknown service": func(w *wire) {
			w.stream += 2
			w.send(chunk(toPlugin, frame(w.stream-1, request, call(runtimeService, "CreateContainer", createPlain))))
			w.wantReply(w.stream-1, unimplemented)
			w.usable()
		},
		"a message that is no protobuf": func(w *wire) {
			for _, bad := range [][]byte{junk, {0x0a}, {0x0a, 0x05, 'x'}, {0x00}, {0x0a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01}, field(1, junk)} {
				w.call("CreateContainer", bad, invalidArgument)
				w.call("RemovePodSandbox", bad, invalidArgument)
				w.call("StateChange", bad[:1], invalidArgument)
			}
			w.usable()
		},
		"text that is not UTF-8": func(w *wire) {
			w.call("CreateContainer", field(1, text(1, "\xff\xfe")), invalidArgument)
			w.usable()
		},
		"a request that is no protobuf": func(w *wire) {
			w.stream += 2
			w.send(chunk(toPlugin, frame(w.stream-1, request, junk)))
			w.wantReply(w.stream-1, invalidArgument)
			w.usable()
		},
		"unknown fields": func(w *wire) {
			unknown := join(number(1000, 7), text(1001, "later"), field(1002, junk), protowire.AppendFixed64(protowire.AppendTag(nil, 1003, protowire.Fixed64Type), 1))
			if reply := w.call("CreateContainer", join(createPlain, unknown), 0); len(reply) != 0 {
				w.t.Errorf("reply of %d bytes", len(reply))
			}
			w.call("Configure", join(configure, unknown), 0)
			w.usable()
		},
		"empty messages": func(w *wire) {
			for _, method := range []string{"CreateContainer", "RemovePodSandbox", "RunPodSandbox", "StateChange", "Synchronize"} {
				w.stream += 2
				w.send(chunk(toPlugin, frame(w.stream-1, request, call(pluginService, method, nil))))
				w.reply(w.stream - 1)
			}
			w.usable()
		},
		"an empty chunk": func(w *wire) {
			w.send(chunk(toPlugin, nil))
			w.send(chunk(toRuntime, nil))
			w.send(chunk(9, nil))
			w.usable()
		},
		"an empty chunk within a frame": func(w *wire) {
			f := w.ask("CreateContainer", createPlain)
			w.send(join(chunk(toPlugin, f[:20]), chunk(toPlugin, nil), chunk(toRuntime, nil), chunk(toPlugin, f[20:])))
			w.wantReply(w.stream-1, 0)
			w.usable()
		},
		"an empty frame": func(w *wire) {
			w.stream += 2
			w.send(chunk(toPlugin, frame(w.stream-1, request, nil)))
			if code, _, _ := w.reply(w.stream - 1); code == 0 {
				w.t.Error("a call of nothing went well")
			}
			w.usable()
		},
		"an even stream": func(w *wire) {
			w.send(chunk(toPlugin, frame(1000, request, call(pluginService, "CreateContainer", createPlain))))
			w.wantReply(1000, invalidArgument)
			w.usable()
		},
		"a frame that is neither request nor response": func(w *wire) {
			w.send(chunk(toPlugin, frame(101, 7, junk)))
			w.usable()
		},
		"a response nobody waits for": func(w *wire) {
			w.send(chunk(toRuntime, frame(101, response, junk)))
			w.send(chunk(toRuntime, frame(1, response, nil)))
			w.usable()
		},
		"configured again": func(w *wire) {
			w.call("Configure", configure, 0)
			w.usable()
		},
		"a pod whose name is a path": func(w *wire) {
			for _, id := range []string{"../../tmp/evil", "..", ".", "", "a/b", "/etc", "nul\x00", strings.Repeat("x", 300)} {
				pod := join(text(1, id), text(2, "pod"), text(4, "default"), field(8, field(5, network)))
				w.stream += 2
				w.send(chunk(toPlugin, frame(w.stream-1, request, call(pluginService, "CreateContainer", join(field(1, pod), field(2, neededContainer))))))
				if code, _, reply := w.reply(w.stream - 1); code == 0 && !(id == "" && len(reply) == 0) {
					w.t.Errorf("pod id %q: taken, reply %q", id, reply)
				}
				w.stream += 2
				w.send(chunk(toPlugin, frame(w.stream-1, request, call(pluginService, "RemovePodSandbox", field(1, pod)))))
				w.reply(w.stream - 1)
			}
			wantNoState(w.t)
			if _, err := os.Lstat("/run/tmp/evil"); err == nil {
				w.t.Error("something was made outside of the plugin's folder")
			}
			w.usable()
		},
		"half a chunk's head and the end": func(w *wire) {
			w.send([]byte{0, 0, 0, 1, 0})
			w.conn.CloseWrite()
			w.ended()
		},
		"half a chunk and the end": func(w *wire) {
			c := chunk(toPlugin, w.ask("CreateContainer", createPlain))
			w.send(c[:len(c)-5])
			w.conn.CloseWrite()
			w.ended()
		},
		"half a frame and the end": func(w *wire) {
			f := w.ask("CreateContainer", createPlain)
			w.send(chunk(toPlugin, f[:len(f)-5]))
			w.conn.CloseWrite()
			w.ended()
		},
		"Shutdown": func(w *wire) {
			w.call("Shutdown", nil, 0)
			w.conn.CloseWrite()
			select {
			case <-w.done:
			case <-time.After(wait.Scaled(5 * time.Second)):
				w.t.Fatal("the plugin did not end")
			}
			if w.cmd.ProcessState.ExitCode() < 0 {
				w.t.Errorf("the plugin's end: %v", w.cmd.ProcessState)
			}
		},
		"the end": func(w *wire) {
			// The runtime went away; whether that is an error is for the
			// plugin to say, but it must end, by itself.
			w.conn.CloseWrite()
			select {
			case <-w.done:
			case <-time.After(wait.Scaled(5 * time.Second)):
				w.t.Fatal("the plugin did not end")
			}
			if code := w.cmd.ProcessState.ExitCode(); code != 0 && code != 1 {
				w.t.Errorf("the plugin's end: %v", w.cmd.ProcessState)
			}
		},
		"a bad configuration": func(w *wire) {
			code, message, _ := uint64(0), "", []byte(nil)
			w.send(chunk(toPlugin, w.ask("Configure", join(configure, text(1, "inject = all\ninjct = all\n")))))
			code, message, _ = w.reply(w.stream - 1)
			if code == 0 || !strings.Contains(message, "line 2") {
				w.t.Errorf("Configure: code %d %q", code, message)
			}
			// The library may lose an answer that the end follows at once,
			// so the runtime is to be the one that closes.
			select {
			case f, ok := <-w.frames:
				w.t.Errorf("after the error: frame %+v, connection open %v", f, ok)
			case <-time.After(50 * time.Millisecond):
			}
			w.conn.CloseWrite()
			w.ended()
			if !strings.Contains(w.errs.String(), "line 2") {
				w.t.Errorf("the line is not named: %q", w.errs.String())
			}
		},
		"a runtime that does not read": func(w *wire) {
			// What it is asked is answered into a socket that nobody empties;
			// the end must still come.
			w.conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
			for range 20000 {
				if _, err := w.conn.Write(chunk(toPlugin, w.ask("CreateContainer", createPlain))); err != nil {
					break
				}
			}
			w.conn.Close()
			select {
			case <-w.done:
			case <-time.After(wait.Scaled(5 * time.Second)):
				w.t.Fatal("the plugin did not end")
			}
			if code := w.cmd.ProcessState.ExitCode(); code != 0 && code != 1 {
				w.t.Errorf("the plugin's end: %v", w.cmd.ProcessState)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			fixture(t)
			test(started(t))
		})
	}
}
