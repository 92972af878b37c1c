package nri

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"uid-nri-plugin/tests/node"
	"uid-nri-plugin/tests/nri/internal/engine"
)

// logBook is what the plugin sent to the journal.
type logBook struct {
	mu      sync.Mutex
	entries []string
}

func (b *logBook) all() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.entries)
}

// journal stands in for journald, and shows the log of a test that failed.
func journal(t *testing.T) *logBook {
	t.Helper()
	book := &logBook{}
	check(t, os.RemoveAll(journalDir))
	check(t, os.MkdirAll(journalDir, 0o755))
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: journalDir + "/socket", Net: "unixgram"})
	check(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1<<18)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			book.mu.Lock()
			if len(book.entries) < 10000 {
				book.entries = append(book.entries, string(buf[:n]))
			}
			book.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
		if t.Failed() {
			entries := book.all()
			for _, entry := range entries[max(0, len(entries)-20):] {
				t.Logf("journal: %q", entry)
			}
		}
	})
	return book
}

func TestAFullJournalDoesNotHoldUpTheRuntime(t *testing.T) {
	fixture(t)
	full := silentJournal(t)
	e := start(t, engine.Config{Conf: "log-level = debug\n"})

	pod := engine.NewPod("noisy", map[string]string{engine.AnnotationKey: "what=is-this"})
	for i := range 100 {
		_, err := e.CreateContainer(pod, engine.NewContainer(pod, fmt.Sprint("c", i), engine.User{}, nil))
		if err == nil {
			t.Fatal("a container with a bad annotation was not refused, or the plugin is gone")
		}
	}
	if !full() {
		t.Fatal("the journal's queue did not fill up, so this tested nothing")
	}
}

// silentJournal replaces the journal by one that reads nothing. The function
// tells whether its queue is full.
func silentJournal(t *testing.T) func() bool {
	t.Helper()
	check(t, os.RemoveAll(journalDir))
	check(t, os.MkdirAll(journalDir, 0o755))
	path := journalDir + "/socket"
	fd, err := listenUnread(path)
	check(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return func() bool { return isFull(path) }
}

func TestTheJournalGetsItsFields(t *testing.T) {
	fixture(t)
	book := journal(t)
	e := start(t, engine.Config{})
	pod := engine.NewPod("logged", map[string]string{engine.AnnotationKey: "what=is-this"})
	_, err := e.CreateContainer(pod, engine.NewContainer(pod, "web", engine.User{}, nil))
	if err == nil {
		t.Fatal("a container with a bad annotation was not refused")
	}
	eventually(t, "a line about the pod", func() error {
		for _, entry := range book.all() {
			lines := strings.Split(entry, "\n")
			has := func(want string) bool { return slices.Contains(lines, want) }
			if has("SYSLOG_IDENTIFIER=uid-nri-plugin") && has("POD=pod-logged") && has("NAMESPACE=default") &&
				has("CONTAINER=web") && slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "PRIORITY=") }) {
				return nil
			}
		}
		return fmt.Errorf("not among %q", book.all())
	})
	if !slices.ContainsFunc(book.all(), func(entry string) bool { return strings.Contains(entry, fmt.Sprint(node.IDs)) }) {
		t.Errorf("no line tells the node's ids: %q", book.all())
	}
}

func listenUnread(path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	return fd, unix.Bind(fd, &unix.SockaddrUnix{Name: path})
}

// isFull says whether one more datagram would have to wait.
func isFull(path string) bool {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, []byte("x"), unix.MSG_DONTWAIT, &unix.SockaddrUnix{Name: path}) == unix.EAGAIN
}
