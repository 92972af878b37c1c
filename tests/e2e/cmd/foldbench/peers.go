package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// peers times what users have today for ids that they lack, on the same tree as the supervisor, on tmpfs.
func (b *bench) peers() error {
	fmt.Printf("\na tree of %d files on tmpfs, by the means of today; each line: untar, then chown -R\n", files)
	for _, o := range []owner{low, high} {
		if err := writeTree(fmt.Sprintf("%s/%s.tar", b.work, strings.Fields(o.name)[0]), o); err != nil {
			return err
		}
	}
	const (
		untar = `mkdir "$1/tree" && tar -xpf "$2" -C "$1/tree"`
		chown = `chown -R "$3:$3" "$1/tree"`
		// One after the other, with the time of each.
		both = `begin=$(date +%s%N); ` + untar + ` || exit; middle=$(date +%s%N); ` + chown +
			` || exit; end=$(date +%s%N); echo $((middle - begin)) $((end - middle))`
		// The device is for all on a machine made for this; here it may be root's.
		overlay = `mount --bind "${2%/*}/fuse" /dev/fuse && mkdir lower upper work merged &&
			fuse-overlayfs -o squash_to_root,lowerdir=lower,upperdir=upper,workdir=work merged || exit; set -- merged "$2" "$3"; `
	)
	if err := errors.Join(syscall.Mknod(b.work+"/fuse", syscall.S_IFCHR|0o666, 10<<8|229), os.Chmod(b.work+"/fuse", 0o666)); err != nil {
		return err
	}
	native, supervised := b.as(false), b.as(true)
	// proot fakes what the kernel refuses for want of rights: its users are nobody special.
	alone := func(argv ...string) *exec.Cmd {
		cmd := exec.Command("proot", append([]string{"-0"}, argv...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: machineBase, Gid: machineBase}}
		cmd.Dir, cmd.Env = b.memory, environment
		return cmd
	}
	took := map[string][]time.Duration{}
	for _, way := range []struct {
		name    string
		command func(argv ...string) *exec.Cmd
		before  string
		tar, id string
		rounds  int
		must    bool
	}{
		{"native, low ids", native, "", "low", "1000", 3, true},
		{"supervise, low ids", supervised, "", "low", "1000", 3, true},
		{"supervise, high ids", supervised, "", "high", "65532", 3, true},
		{"fuse-overlayfs squash_to_root, low ids", native, overlay, "low", "1000", 1, false},
		{"fuse-overlayfs squash_to_root, high ids", native, overlay, "high", "65532", 1, false},
		{"proot -0, high ids", alone, "", "high", "65532", 1, false},
	} {
		reason := ""
		var first, second []time.Duration
		for range way.rounds {
			entries, _ := os.ReadDir(b.memory)
			for _, e := range entries {
				os.RemoveAll(b.memory + "/" + e.Name())
			}
			cmd := way.command("sh", "-c", way.before+both, "sh", ".", fmt.Sprintf("%s/%s.tar", b.work, way.tar), way.id)
			var bad strings.Builder
			cmd.Stderr = &bad
			out, err := cmd.Output()
			var untar, chown int64
			if _, scan := fmt.Sscan(string(out), &untar, &chown); err != nil || scan != nil {
				lines := strings.Split(strings.TrimSpace(bad.String()), "\n")
				reason = fmt.Sprintf("%s (%v)", lines[max(0, len(lines)-2)], err)
				break
			}
			first, second = append(first, time.Duration(untar)), append(second, time.Duration(chown))
		}
		if reason != "" {
			if way.must {
				return fmt.Errorf("%s: %s", way.name, reason)
			}
			fmt.Printf("  %-42s cannot: %s\n", way.name, reason)
			continue
		}
		took[way.name] = []time.Duration{median(first), median(second)}
		line := fmt.Sprintf("  %-42s %9v %9v", way.name, median(first).Round(time.Millisecond), median(second).Round(time.Millisecond))
		if base := took["native, low ids"]; base != nil {
			line += fmt.Sprintf("   %6.2f %6.2f times native", float64(median(first))/float64(base[0]), float64(median(second))/float64(base[1]))
		}
		fmt.Println(line)
	}
	return nil
}

// writeTree writes a tar file like the layer of the images above.
func writeTree(path string, o owner) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for n := range files {
		body := []byte(fmt.Sprintf("%d", n))
		h := &tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("%d/%d", n%100, n), Mode: 0o600, Uid: o.id(n), Gid: o.id(n), Size: int64(len(body))}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write(body); err != nil {
			return err
		}
	}
	return w.Close()
}
