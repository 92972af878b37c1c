package lab

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Journal stands in for journald: it takes the datagrams of a node's journal socket.
type Journal struct {
	conn    *net.UnixConn
	mu      sync.Mutex
	entries []Entry
}

// Entry is one entry: its fields by name.
type Entry map[string]string

// ListenJournal makes the node's journal socket.
func (n *Node) ListenJournal() (*Journal, error) {
	const path = "/run/systemd/journal/socket"
	if err := n.Mkdir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	// A socket is known by its file, whatever the network namespace.
	j := &Journal{}
	err := n.asOwner(func() (err error) {
		if j.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: n.Path(path), Net: "unixgram"}); err != nil {
			return err
		}
		return os.Chmod(n.Path(path), 0o666)
	})
	if err != nil {
		return nil, err
	}
	go j.read()
	return j, nil
}

func (j *Journal) read() {
	datagram := make([]byte, 1<<18)
	for {
		size, err := j.conn.Read(datagram)
		if err != nil {
			return
		}
		entry := Entry{}
		for line := range strings.Lines(string(datagram[:size])) {
			// A field whose value has line breaks comes in another form, which nothing here should need.
			name, value, found := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
			if !found {
				name, value = "UNREADABLE", line
			}
			entry[name] = value
		}
		j.mu.Lock()
		j.entries = append(j.entries, entry)
		j.mu.Unlock()
	}
}

// Entries are those that came so far.
func (j *Journal) Entries() []Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.entries[:len(j.entries):len(j.entries)]
}

// Close stops listening. The file stays.
func (j *Journal) Close() { j.conn.Close() }
