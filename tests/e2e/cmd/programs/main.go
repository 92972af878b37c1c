// Command programs measures what real programs take in a container of a node: natively, with containerd under supervise,
// and in a user namespace that the plugin has made. It prints medians, and what cannot be had in the image; it fails only
// if it cannot measure.
//
//	programs [-rounds N] [-starts N] ROOT.tar PACKAGES
package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"uid-nri-plugin/tests/e2e/lab"
)

const (
	image = "localhost/programs:test"
	pause = "localhost/pause:test"
	data  = "/var/lib/data" // in the node; /data in containers
	reach = 1.03            // times native
)

// program is what is measured. The scripts run in a folder of their own; $n is the round's number.
type program struct {
	name    string
	needs   string // the command without which it cannot be had
	prepare string
	run     string
	clean   string
	fresh   bool // each round needs a new container
	owns    bool // it changes owners for a living, or sets ids, and no reach holds
}

func programs(packages string) []program {
	const (
		// On the overlay of these nodes dpkg cannot rename folders (EXDEV) but below one that the image does not have.
		tree     = `mkdir t && tar -C / --one-file-system --exclude=./work -cf - . | tar -C t -xpf - && : >t/dev/null`
		git      = `git init -q --bare r && gzip -dc /data/history.gz | git -C r fast-import --quiet`
		postgres = `PATH=$PATH:$(echo /usr/lib/postgresql/*/bin); mkdir p && chown postgres p && cd p && as() { su postgres -c "PATH=$PATH; $*"; } &&
			as initdb -D d >log 2>&1 && as "pg_ctl -w -D d -l l -o '-k /tmp' start" >>log && as pgbench -h /tmp -i -q -s 5 postgres >>log 2>&1`
	)
	return []program{
		{name: "tar x of 50,000 files", needs: "tar", run: `mkdir t && tar -C t -xf /data/50000.tar`, clean: `rm -rf t`, owns: true},
		{name: "chown -R of 20,000 files", needs: "chown", prepare: `mkdir t && tar -C t -xf /data/20000.tar`, run: `chown -R $n:$n t`, owns: true},
		{name: "git clone of 20,000 files", needs: "git", prepare: git, run: `git clone -q file://$PWD/r c`, clean: `rm -rf c`},
		{name: "apt-get install", needs: "apt-get", fresh: true, owns: true,
			prepare: tree, run: `DEBIAN_FRONTEND=noninteractive chroot t apt-get install -qq -y --no-download --no-install-recommends ` + packages + ` >log 2>&1`},
		{name: "redis-benchmark", needs: "redis-benchmark", prepare: `redis-server --save "" --daemonize yes >log`,
			run: `redis-benchmark -q -n 100000 -t set,get >log`},
		{name: "pgbench", needs: "/usr/bin/pgbench", prepare: postgres, run: `su postgres -c "pgbench -h /tmp -n -c 4 -t 2000 postgres" >log 2>&1`},
		{name: "OpenMPI ping-pong", needs: "mpirun",
			run: `mpirun --allow-run-as-root --oversubscribe --mca btl self,vader -n 2 python3 -m mpi4py.bench ringtest -q -l 300000 -n 8 >log 2>&1`},
	}
}

func main() {
	lab.Main()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "programs:", err)
		os.Exit(1)
	}
}

// way is how the containers of a node are run.
type way struct {
	name     string
	prepare  func(n *lab.Node, binary string) error
	pod      lab.Pod
	node     *lab.Node
	sandbox  *lab.Sandbox
	serial   int
	measured map[string][]time.Duration
}

func run() error {
	rounds := flag.Int("rounds", 5, "measurements of each program, `N`")
	starts := flag.Int("starts", 100, "containers to start, `N`")
	flag.Parse()
	binary := os.Getenv("UID_NRI_PLUGIN")
	if binary == "" || flag.NArg() != 2 {
		return errors.New("start this with tests/bench.sh --programs")
	}
	ways := []*way{
		{name: "native", prepare: func(*lab.Node, string) error { return nil }},
		{name: "supervised", prepare: (*lab.Node).Supervise},
		{name: "plugin", prepare: (*lab.Node).InstallPlugin, pod: lab.Pod{Annotations: map[string]string{"uid-mapper.noderesource.dev": "inject=always"}}},
	}
	for _, w := range ways {
		if err := w.start(binary, flag.Arg(0)); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		defer w.node.Close()
	}
	fmt.Printf("\n%-28s %12s %12s %8s %12s %8s\n", "medians", "native", "supervised", "ratio", "plugin", "ratio")
	var reaches []string
	for _, p := range append(programs(flag.Arg(1)), program{name: fmt.Sprintf("pod start, p50 of %d", *starts)}) {
		if p.needs == "" {
			for i := range *starts {
				for k := range ways {
					if err := ways[(i+k)%len(ways)].startOne(p.name); err != nil {
						return err
					}
				}
			}
		} else if cannot, err := measure(p, ways, *rounds); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		} else if cannot {
			fmt.Printf("%-28s cannot be had here: no %s\n", p.name, p.needs)
			continue
		}
		native := median(ways[0].measured[p.name])
		line := fmt.Sprintf("%-28s %12v", p.name, rounded(native))
		for _, w := range ways[1:] {
			took := median(w.measured[p.name])
			ratio := float64(took) / float64(native)
			line += fmt.Sprintf(" %12v %8.3f", rounded(took), ratio)
			word := "PASS"
			if p.owns {
				continue
			} else if ratio > reach {
				word = "MISS"
			}
			reaches = append(reaches, fmt.Sprintf("%s  %s, %s: %.3f times native (at most %.2f)", word, p.name, w.name, ratio, reach))
		}
		fmt.Println(line)
	}
	fmt.Printf("\nreaches of programs\n  %s\n", strings.Join(reaches, "\n  "))
	return nil
}

// start makes the node of a way, with the image and the data.
func (w *way) start(binary, root string) (err error) {
	w.measured = map[string][]time.Duration{}
	w.node, err = lab.StartNode(w.name, lab.Careful, lab.Careful, lab.Peers{
		Containerd: os.Getenv("LAB_CONTAINERD"), Runc: os.Getenv("LAB_RUNC"), Crictl: os.Getenv("LAB_CRICTL"),
	})
	if err != nil {
		return err
	}
	sleep := []string{"sleep", "100000"}
	if err := errors.Join(w.node.SetUp(pause), w.prepare(w.node, binary)); err != nil {
		return err
	}
	if err := w.node.StartContainerd(); err != nil {
		return err
	}
	if err := w.node.Import(lab.Image{Name: pause, Cmd: sleep}, lab.Image{Name: image, Root: root, Cmd: sleep}); err != nil {
		return err
	}
	for name, content := range map[string]func() ([]byte, error){
		"50000.tar": func() ([]byte, error) { return tree(50000) }, "20000.tar": func() ([]byte, error) { return tree(20000) }, "history": history,
	} {
		text, err := content()
		if err != nil {
			return err
		}
		if err := w.node.WriteFile(data+"/"+name, text, 0o644); err != nil {
			return err
		}
	}
	if _, err := w.node.Run("gzip", "-1", data+"/history"); err != nil {
		return err
	}
	w.pod.Name = "programs"
	w.sandbox, err = w.node.RunPod(w.pod)
	return err
}

// container starts one, with a working folder.
func (w *way) container() (*lab.Running, error) {
	w.serial++
	return w.sandbox.Start(lab.Container{Name: fmt.Sprint("c", w.serial), Image: image, Mounts: []lab.Mount{{Node: data, Container: "/data", ReadOnly: true}}})
}

// startOne measures what kubelet asks for once a pod's sandbox is there.
func (w *way) startOne(name string) error {
	began := time.Now()
	r, err := w.container()
	if err != nil {
		return err
	}
	w.measured[name] = append(w.measured[name], time.Since(began))
	return r.Remove()
}

// measure runs a program in each way by turns, in one container each or in a new one each time.
func measure(p program, ways []*way, rounds int) (cannot bool, err error) {
	running := make([]*lab.Running, len(ways))
	for round := range rounds {
		for i := range ways {
			k := (round + i) % len(ways)
			w := ways[k]
			if running[k] == nil {
				if running[k], err = w.container(); err != nil {
					return false, err
				}
				if _, err := running[k].Sh("command -v " + p.needs); err != nil {
					return true, nil
				}
				if _, err := running[k].Sh(`mkdir /work && cd /work && ` + cmp.Or(p.prepare, ":")); err != nil {
					return false, fmt.Errorf("%s: %w", w.name, err)
				}
			}
			out, err := running[k].Sh(fmt.Sprintf(`cd /work; n=%d; began=$(date +%%s%%N); { %s
				} || { { grep -A 1 -m 5 error log || tail -n 5 log; } >&2; exit 1; }; echo $(($(date +%%s%%N) - began)); %s`, 1000+round, p.run, p.clean))
			if err != nil {
				return false, fmt.Errorf("%s: %w", w.name, err)
			}
			took, err := strconv.ParseInt(out, 10, 64)
			if err != nil {
				return false, err
			}
			w.measured[p.name] = append(w.measured[p.name], time.Duration(took))
			if p.fresh || round == rounds-1 {
				if err := running[k].Remove(); err != nil {
					return false, err
				}
				running[k] = nil
			}
		}
	}
	return false, nil
}

// tree is a tar of small files of many owners, all of them ids that the node has.
func tree(files int) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for n := range files {
		body := bytes.Repeat([]byte{byte(n)}, 100+n%2000)
		h := &tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("%d/%d", n%200, n), Mode: 0o644, Uid: 1 + n%2000, Gid: 1 + n%2000, Size: int64(len(body))}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		w.Write(body)
	}
	err := w.Close()
	return b.Bytes(), err
}

// history is 200 commits of 100 files each, as git fast-import reads them.
func history() ([]byte, error) {
	var b bytes.Buffer
	for commit := range 200 {
		fmt.Fprintf(&b, "commit refs/heads/master\ncommitter A <a@example.org> %d +0000\ndata 1\nx\n", 1700000000+commit)
		for n := range 100 {
			body := strings.Repeat(fmt.Sprintf("line %d of file %d\n", commit, n), 20+n)
			fmt.Fprintf(&b, "M 644 inline %d/%d.txt\ndata %d\n%s\n", commit, n, len(body), body)
		}
	}
	fmt.Fprint(&b, "done\n")
	return b.Bytes(), nil
}

func median(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

// rounded is to three digits or so.
func rounded(d time.Duration) time.Duration {
	unit := time.Nanosecond
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit)
}
