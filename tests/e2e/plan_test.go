package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"uid-nri-plugin/tests/e2e/lab"
)

// What "uid-nri-plugin plan --from-image" says of an image, beside what containerd does with it.

// planned is what plan says of one image, for a user of 2047 subordinate ids.
type planned struct {
	Uid, Gid   *int
	Groups     string
	Uids, Gids struct{ Plugin, Folded string }
	Unknown    []string
}

func planOf(t *testing.T, i lab.Image) (p planned, text string) {
	t.Helper()
	binary, err := pluginBinary()
	must(t, err)
	archive, err := i.Archive()
	must(t, err)
	file := filepath.Join(t.TempDir(), "image.tar")
	must(t, os.WriteFile(file, archive, 0o644))
	run := func(args ...string) []byte {
		var bad strings.Builder
		cmd := exec.Command(binary, append([]string{"plan", "--uids", "1:2047", "--gids", "1:2047", "--from-image", file}, args...)...)
		cmd.Stderr = &bad
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v: %s", cmd.Args, err, &bad)
		}
		return out
	}
	var all struct{ Images []planned }
	must(t, json.Unmarshal(run("--json"), &all))
	equal(t, "images", len(all.Images), 1)
	return all.Images[0], string(run())
}

// upper is a layer with these members.
func upper(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		// A file's content stands in for its user's name, which a layer does not need.
		content := h.Uname
		h.Uname, h.Size = "", int64(len(content))
		must(t, w.WriteHeader(&h))
		_, err := w.Write([]byte(content))
		must(t, err)
	}
	must(t, w.Close())
	return out.Bytes()
}

// Accounts behind links, as Nix makes them, and groups that only /etc/group gives.
func TestPlanKnowsWhoRuns(t *testing.T) {
	s, control := equippedSite(t, plain), bareSite(t, plain)
	accounts := []tar.Header{
		{Typeflag: tar.TypeReg, Name: "nix/passwd", Mode: 0o644, Uname: "root:x:0:0::/root:/bin/sh\napp:x:10009:10010::/:/bin/sh\n"},
		{Typeflag: tar.TypeReg, Name: "nix/group", Mode: 0o644, Uname: "app:x:10010:app\nextra:x:20002:root,app\nfar:x:20005:app\n"},
	}
	for n, c := range []struct{ user, to string }{
		{"app", "../nix/"}, {"app", "/nix/"}, {"10009", "../nix/"}, {"app:far", "/nix/"}, {"10009:7", "../nix/"},
	} {
		t.Run(c.user+strings.ReplaceAll(c.to, "/", "_"), func(t *testing.T) {
			i := lab.Image{Name: fmt.Sprintf("localhost/linked-%d:test", n), User: c.user, Cmd: forever}
			i.Upper = upper(t, append([]tar.Header{
				{Typeflag: tar.TypeSymlink, Name: "etc/passwd", Linkname: c.to + "passwd"},
				{Typeflag: tar.TypeSymlink, Name: "etc/group", Linkname: c.to + "group"},
			}, accounts...)...)
			must(t, s.Import(i))
			must(t, control.Import(i))
			refused(t, control.pod(t, lab.Pod{}), lab.Container{Image: i.Name}, noSuchOwner)
			r := start(t, s.pod(t, lab.Pod{}), lab.Container{Image: i.Name})
			p, text := planOf(t, i)
			if p.Uid == nil || p.Gid == nil {
				t.Fatalf("the plan does not know who runs: %s", text)
			}
			equal(t, "user and group", sh(t, r, "id -u; id -g"), fmt.Sprintf("%d\n%d", *p.Uid, *p.Gid))
			// All that are set are planned. With a group in USER, which kubelet leaves out, so is the account's own.
			in := "," + p.Groups + "," + fmt.Sprint(*p.Gid) + ","
			for _, group := range strings.Fields(groups(t, r)) {
				contains(t, "planned groups", in, ","+group+",")
			}
			for _, id := range []string{"20002", "20005"} {
				contains(t, "groups of the container", groups(t, r), id)
			}
		})
	}
	t.Run("missing", func(t *testing.T) {
		i := lab.Image{Name: "localhost/nobody-knows:test", User: "missing", Cmd: forever}
		must(t, s.Import(i))
		refused(t, s.pod(t, lab.Pod{}), lab.Container{Image: i.Name}, "no users found")
		p, text := planOf(t, i)
		if p.Uid != nil {
			t.Errorf("the plan has a user %d", *p.Uid)
		}
		contains(t, "the plan", text, "who it runs as is not known")
		if has(text, "all its ids are in the node's map") {
			t.Errorf("the plan says that all is well: %s", text)
		}
	})
}

// An ACL whose id the node lacks, which only supervise unpacks.
func TestPlanKnowsACLs(t *testing.T) {
	with := func(name string, id uint32) lab.Image {
		acl := binary.LittleEndian.AppendUint32(nil, 2)
		for _, e := range [][2]uint32{{1, ^uint32(0)}, {2, id}, {4, ^uint32(0)}, {16, ^uint32(0)}, {32, ^uint32(0)}} {
			acl = binary.LittleEndian.AppendUint32(acl, e[0]|6<<16)
			acl = binary.LittleEndian.AppendUint32(acl, e[1])
		}
		file := tar.Header{Typeflag: tar.TypeReg, Name: "with-acl", Mode: 0o660, PAXRecords: map[string]string{"SCHILY.xattr.system.posix_acl_access": string(acl)}}
		return lab.Image{Name: "localhost/" + name + ":test", Cmd: forever, Upper: upper(t, file)}
	}
	low, high := with("acl-low", 7), with("acl-high", 70000)
	control, s := bareSite(t, plain), ready(t)(foldedStock())
	for _, s := range []*site{control, s} {
		must(t, s.Import(low))
	}
	must(t, s.Import(high))
	if err := control.Import(high); err == nil {
		t.Error("an ACL of an id that the node lacks was unpacked without supervise")
	} else {
		contains(t, "the error", err.Error(), "failed to setxattr")
		contains(t, "the error", err.Error(), "invalid argument")
	}
	p, _ := planOf(t, low)
	equal(t, "folded ids of a low ACL", p.Uids.Folded, "")
	// 2048 ids have no room for it: half of them are taken.
	p, text := planOf(t, high)
	equal(t, "folded ids", p.Uids.Folded, "")
	contains(t, "the map", text, " 70000:")
}
