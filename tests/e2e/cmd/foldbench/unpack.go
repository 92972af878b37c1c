package main

import (
	"fmt"
	"os"
	"time"

	"uid-nri-plugin/tests/e2e/lab"
)

// owner is a way to own the files of an image.
type owner struct {
	name string
	id   func(file int) int
}

var (
	root = owner{"root", func(int) int { return 0 }}
	low  = owner{"low ids", func(n int) int { return 1 + n%2047 }}
	high = owner{"high ids", func(n int) int { return 10000 + n*7 }}
)

// unpack measures containerd's import and unpacking of an image of many small files.
func (b *bench) unpack() error {
	fmt.Printf("\nimport and unpacking of an image of %d files by containerd, on tmpfs\n", files)
	nodes := map[bool]*lab.Node{}
	for _, supervised := range []bool{false, true} {
		n, err := lab.StartNode("bench", lab.Plain, lab.Plain, lab.Peers{
			Containerd: os.Getenv("LAB_CONTAINERD"), Runc: os.Getenv("LAB_RUNC"), Crictl: os.Getenv("LAB_CRICTL"),
		})
		if err != nil {
			return err
		}
		defer n.Close()
		if err := n.SetUp("localhost/pause:test"); err != nil {
			return err
		}
		if supervised {
			if err := n.Supervise(b.binary); err != nil {
				return err
			}
		}
		if err := n.StartContainerd(); err != nil {
			return err
		}
		nodes[supervised] = n
	}
	type way struct {
		supervised bool
		owner      string
	}
	took := map[way][]time.Duration{}
	for round := range unpackRounds {
		for _, o := range []owner{root, low, high} {
			i := lab.Image{Name: fmt.Sprintf("localhost/bench-%d:test", round), Owns: []lab.Owned{{Path: o.name}}}
			for n := range files {
				i.Files = append(i.Files, lab.Owned{Path: fmt.Sprintf("%s/%d-%d", o.name, round, n), Uid: o.id(n), Gid: o.id(n)})
			}
			archive, err := i.Archive()
			if err != nil {
				return err
			}
			for k := range 2 {
				supervised := (k+round)%2 == 1
				if !supervised && o.name == high.name {
					continue
				}
				n := nodes[supervised]
				if err := n.WriteFile("/tmp/image.tar", archive, 0o644); err != nil {
					return err
				}
				began := time.Now()
				if _, err := n.Run("ctr", "images", "import", "--local", "/tmp/image.tar"); err != nil {
					return err
				}
				w := way{supervised, o.name}
				took[w] = append(took[w], time.Since(began))
				if _, err := n.Run("ctr", "images", "rm", "--sync", i.Name); err != nil {
					return err
				}
			}
		}
	}
	show := func(w way) string {
		if took[w] == nil {
			return "refused"
		}
		return median(took[w]).Round(time.Millisecond).String()
	}
	fmt.Printf("  %-20s %12s %12s\n", "owned by", "native", "supervised")
	for _, o := range []owner{root, low, high} {
		fmt.Printf("  %-20s %12s %12s\n", o.name, show(way{false, o.name}), show(way{true, o.name}))
	}
	got := ratio(took[way{true, high.name}], took[way{true, root.name}])
	b.reach(got <= highReach, "unpacking, all of high ids: %.2f times the same owned by root (at most %.2f)", got, highReach)
	got = ratio(took[way{true, low.name}], took[way{false, low.name}])
	b.reach(got <= lowReach, "unpacking, all of low ids: %.3f times without the supervisor (at most %.2f)", got, lowReach)
	return nil
}
