//go:build !nri08

package nri

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"uid-nri-plugin/tests/node"
	"uid-nri-plugin/tests/rule"
)

// idMap tells for each id in a container the node's id.
type idMap map[uint32]uint32

// defaultClaims are held by every namespace, unless the configuration says otherwise.
var defaultClaims = []uint32{65532, 65533, 65534, 65535}

// The first slot that the rule gives away, and how many there are.
const (
	base  = 1000
	slots = node.IDs - base
)

// mapOf is the map that a container with these ids should get: it must have
// the required ones, and has the optional ones whose slot is free.
func mapOf(required, optional []uint32) idMap {
	taken := map[uint32]uint32{0: 0} // slot to id; nothing displaces root
	for _, id := range required {
		if id < node.IDs {
			taken[id] = id
		}
	}
	for _, id := range required {
		slot := rule.Place(node.IDs, id)
		for owner, ok := taken[slot]; ok && owner != id; owner, ok = taken[slot] {
			if slot--; slot < base {
				slot = node.IDs - 1
			}
		}
		taken[slot] = id
	}
	for _, id := range optional {
		if _, ok := taken[rule.Place(node.IDs, id)]; !ok {
			taken[rule.Place(node.IDs, id)] = id
		}
	}
	m := idMap{}
	for slot := range uint32(node.IDs) {
		if id, ok := taken[slot]; ok {
			m[id] = slot
		} else {
			m[slot] = slot
		}
	}
	return m
}

// claimed is the map of a container of root with optional ids.
func claimed(ids ...uint32) idMap { return mapOf([]uint32{0}, append(ids, defaultClaims...)) }

// mapFromText reads a uid_map or gid_map.
func mapFromText(text string) (idMap, error) {
	m := idMap{}
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		var inside, outside, size uint32
		if _, err := fmt.Sscan(line, &inside, &outside, &size); err != nil {
			return nil, fmt.Errorf("map line %q: %w", line, err)
		}
		if size > node.IDs {
			return nil, fmt.Errorf("map line %q is larger than the node", line)
		}
		for i := range size {
			m[inside+i] = outside + i
		}
	}
	return m, nil
}

// differences names the first few ids that two maps disagree about.
func differences(got, want idMap) string {
	var diffs []string
	say := func(id uint32) {
		if len(diffs) < 8 {
			g, inGot := got[id]
			w, inWant := want[id]
			diffs = append(diffs, fmt.Sprintf("%d: got %d (%v), want %d (%v)", id, g, inGot, w, inWant))
		}
	}
	for id, slot := range want {
		if g, ok := got[id]; !ok || g != slot {
			say(id)
		}
	}
	for id := range got {
		if _, ok := want[id]; !ok {
			say(id)
		}
	}
	return strings.Join(diffs, "; ")
}

// mapsOf reads the maps of a user namespace, as a process that joins it sees them.
func mapsOf(t *testing.T, path string) (uids, gids string) {
	t.Helper()
	var fs unix.Statfs_t
	check(t, unix.Statfs(path, &fs))
	if fs.Type != unix.NSFS_MAGIC {
		t.Fatalf("%s is not a namespace (file system type %#x)", path, fs.Type)
	}
	f, err := os.Open(path)
	check(t, err)
	defer f.Close()
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	check(t, err)
	if kind != unix.CLONE_NEWUSER {
		t.Fatalf("%s is a namespace of kind %#x, not a user namespace", path, kind)
	}
	read := func(file string) string {
		cmd := exec.Command("nsenter", "--user="+path, "--preserve-credentials", "cat", "/proc/self/"+file)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v", cmd.Args, err)
		}
		return string(out)
	}
	return read("uid_map"), read("gid_map")
}

// inode tells one namespace from another.
func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	check(t, unix.Stat(path, &st))
	return st.Ino
}
