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

// ways to start containerd.
var ways = []string{"native", "any filter", "supervised"}

// unpack measures containerd's import and unpacking of an image of many small files.
func (b *bench) unpack() error {
	fmt.Printf("\nimport and unpacking of an image of %d files by containerd, on tmpfs\n", files)
	nodes := map[string]*lab.Node{}
	for _, way := range ways {
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
		if supervisor := map[string]string{"any filter": b.self, "supervised": b.binary}[way]; supervisor != "" {
			if err := n.Supervise(supervisor); err != nil {
				return err
			}
		}
		if err := n.StartContainerd(); err != nil {
			return err
		}
		nodes[way] = n
	}
	took := map[[2]string][]time.Duration{} // by way and owner
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
			for k := range ways {
				way := ways[(k+round)%len(ways)]
				if way != "supervised" && o.name == high.name {
					continue
				}
				n := nodes[way]
				if err := n.WriteFile("/tmp/image.tar", archive, 0o644); err != nil {
					return err
				}
				began := time.Now()
				if _, err := n.Run("ctr", "images", "import", "--local", "/tmp/image.tar"); err != nil {
					return err
				}
				w := [2]string{way, o.name}
				took[w] = append(took[w], time.Since(began))
				if _, err := n.Run("ctr", "images", "rm", "--sync", i.Name); err != nil {
					return err
				}
			}
		}
	}
	fmt.Printf("  %-20s", "owned by")
	for _, way := range ways {
		fmt.Printf(" %12s", way)
	}
	for _, o := range []owner{root, low, high} {
		fmt.Printf("\n  %-20s", o.name)
		for _, way := range ways {
			shown := "refused"
			if all := took[[2]string{way, o.name}]; all != nil {
				shown = median(all).Round(time.Millisecond).String()
			}
			fmt.Printf(" %12s", shown)
		}
	}
	fmt.Println()
	got := ratio(took[[2]string{"supervised", high.name}], took[[2]string{"supervised", root.name}])
	b.reach(got <= highReach, "unpacking, all of high ids: %.2f times the same owned by root (at most %.2f)", got, highReach)
	native := took[[2]string{"native", low.name}]
	got = ratio(took[[2]string{"supervised", low.name}], native)
	least := ratio(took[[2]string{"any filter", low.name}], native)
	b.reach(got <= lowReach, "unpacking, all of low ids: %.3f times without the supervisor (at most %.2f; any filter at all: %.3f)", got, lowReach, least)
	return nil
}
