package lab

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
	"strings"
)

// Image is a container image with nothing but busybox, or of a root file system.
type Image struct {
	Name  string // such as localhost/tools:test
	User  string // as in a Dockerfile's USER
	Cmd   []string
	Owns  []Owned
	Files []Owned
	Root  string  // a tar file of the machine, in place of busybox
	Upper []byte  // one more layer, a tar
	Users []Named // besides root and member, each with a group of the same name and number
}

// Named is a user in an image's /etc/passwd.
type Named struct {
	Name string
	ID   int
}

// Owned is a folder, or a file, of an image that belongs to somebody.
type Owned struct {
	Path     string
	Uid, Gid int
	Xattrs   map[string]string // extended attributes, of files only
}

const applets = "sh ash ls id cat cp sleep touch chown chmod echo env mkdir mount umount stat head tail ps true false " +
	"sed su test ping ip grep wc readlink kill rm dd tr sort usleep"

// Archive is the image as an OCI archive, which ctr can import.
func (i Image) Archive() ([]byte, error) {
	var layer layer
	if i.Root != "" {
		root, err := os.ReadFile(i.Root)
		if err != nil {
			return nil, err
		}
		layer.Write(root)
	} else if err := i.busybox(&layer); err != nil {
		return nil, err
	}
	layers := [][]byte{layer.Bytes()}
	if i.Upper != nil {
		layers = append(layers, i.Upper)
	}
	return i.around(layers)
}

// busybox writes the layer of an ordinary image.
func (i Image) busybox(layer *layer) error {
	busybox, err := staticBusybox()
	if err != nil {
		return err
	}
	for _, dir := range strings.Fields("bin etc proc sys dev home root run data") {
		layer.dir(dir, 0o755, 0, 0)
	}
	layer.dir("tmp", fs.ModeSticky|0o777, 0, 0)
	layer.file("bin/busybox", 0o755, busybox)
	for _, applet := range strings.Fields(applets) {
		layer.link("bin/"+applet, "busybox")
	}
	passwd := "root:x:0:0::/root:/bin/sh\nmember:x:20006:20006::/:/bin/sh\n"
	group := "root:x:0:\nmember:x:20006:\nextra:x:40003:member\n"
	for _, u := range i.Users {
		passwd += fmt.Sprintf("%s:x:%d:%[2]d::/:/bin/sh\n", u.Name, u.ID)
		group += fmt.Sprintf("%s:x:%d:\n", u.Name, u.ID)
	}
	layer.file("etc/passwd", 0o644, []byte(passwd))
	layer.file("etc/group", 0o644, []byte(group))
	for _, o := range i.Owns {
		layer.dir(strings.Trim(o.Path, "/"), 0o700, o.Uid, o.Gid)
	}
	for _, f := range i.Files {
		records := map[string]string{}
		for name, value := range f.Xattrs {
			records["SCHILY.xattr."+name] = value
		}
		layer.add(&tar.Header{Typeflag: tar.TypeReg, Name: f.Path, Mode: 0o600, Uid: f.Uid, Gid: f.Gid, PAXRecords: records}, []byte(f.Path))
	}
	return layer.close()
}

// around makes the image of some layers.
func (i Image) around(layers [][]byte) ([]byte, error) {
	blobs := map[string][]byte{}
	// A descriptor of a blob, which is kept.
	describe := func(kind string, blob []byte) map[string]any {
		blobs[digest(blob)] = blob
		return map[string]any{"mediaType": "application/vnd.oci.image." + kind, "digest": "sha256:" + digest(blob), "size": len(blob)}
	}
	document := func(v any) []byte {
		text, err := json.Marshal(v)
		if err != nil {
			panic(err) // maps of strings and numbers
		}
		return text
	}
	var ids []string
	var described []any
	for _, layer := range layers {
		ids = append(ids, "sha256:"+digest(layer))
		described = append(described, describe("layer.v1.tar", layer))
	}
	config := document(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"User": i.User, "Cmd": i.Cmd, "Env": []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": ids},
	})
	manifest := document(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": describe("config.v1+json", config),
		"layers": described,
	})
	entry := describe("manifest.v1+json", manifest)
	entry["annotations"] = map[string]string{"io.containerd.image.name": i.Name}

	var archive writer
	archive.file("oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`))
	archive.file("index.json", 0o644, document(map[string]any{"schemaVersion": 2, "manifests": []any{entry}}))
	for name, blob := range blobs {
		archive.file(path.Join("blobs/sha256", name), 0o644, blob)
	}
	if err := archive.close(); err != nil {
		return nil, err
	}
	return archive.Bytes(), nil
}

func staticBusybox() ([]byte, error) {
	const at = "/bin/busybox"
	f, err := elf.Open(at)
	if err != nil {
		return nil, fmt.Errorf("images are made of a static busybox (Debian's busybox-static): %w", err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return nil, fmt.Errorf("%s is not static; images are made of a static one (Debian's busybox-static)", at)
		}
	}
	return os.ReadFile(at)
}

func digest(blob []byte) string {
	sum := sha256.Sum256(blob)
	return hex.EncodeToString(sum[:])
}

// writer is a tar file that keeps its first error for close.
type writer struct {
	bytes.Buffer
	tar *tar.Writer
	err error
}

type layer = writer

func (w *writer) add(h *tar.Header, body []byte) {
	if w.tar == nil {
		w.tar = tar.NewWriter(&w.Buffer)
	}
	h.Size = int64(len(body))
	if w.err == nil {
		w.err = w.tar.WriteHeader(h)
	}
	if w.err == nil {
		_, w.err = w.tar.Write(body)
	}
}

func (w *writer) file(name string, mode int64, body []byte) {
	w.add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, body)
}

func (w *writer) link(name, to string) {
	w.add(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}, nil)
}

func (w *writer) dir(name string, mode fs.FileMode, uid, gid int) {
	bits := int64(mode.Perm())
	if mode&fs.ModeSticky != 0 {
		bits |= 0o1000
	}
	w.add(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: bits, Uid: uid, Gid: gid}, nil)
}

func (w *writer) close() error {
	if w.err != nil {
		return w.err
	}
	return w.tar.Close()
}
