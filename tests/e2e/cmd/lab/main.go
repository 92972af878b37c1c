// Command lab runs a command as root of a node that is made for it and ends with it: containerd runs there, with the
// image localhost/tools:test, a static busybox.
//
//	lab [-map careful|plain | -rootlesskit SNAPSHOTTER] [-copy FROM=TO]... [COMMAND...]
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"uid-nri-plugin/tests/e2e/lab"
)

func main() {
	lab.Main()
	err := run()
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	default:
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func run() error {
	copies := map[string]string{}
	layout := flag.String("map", "careful", "the node's id map: careful or plain")
	snapshotter := flag.String("rootlesskit", "", "have a user start the node, in RootlessKit, with this `SNAPSHOTTER`")
	flag.Func("copy", "a program of the machine and where the node gets it, as `FROM=TO`", func(pair string) error {
		from, to, found := strings.Cut(pair, "=")
		if !found {
			return errors.New("want FROM=TO")
		}
		copies[to] = from
		return nil
	})
	flag.Parse()
	command := flag.Args()
	if len(command) == 0 {
		command = []string{"sh"}
	}
	ids, user := lab.Careful, "65535:65535"
	if *layout == "plain" || *snapshotter != "" {
		ids, user = lab.Plain, ""
	}

	peers := lab.Peers{
		Containerd: os.Getenv("LAB_CONTAINERD"), Runc: os.Getenv("LAB_RUNC"), Crictl: os.Getenv("LAB_CRICTL"),
		FuseOverlayfs: os.Getenv("LAB_FUSE_OVERLAYFS"),
	}
	start := func() (*lab.Node, error) { return lab.StartNode("lab", ids, ids, peers) }
	if *snapshotter != "" {
		start = func() (*lab.Node, error) { return lab.StartRootlessKit("lab", peers) }
	}
	n, err := start()
	if err != nil {
		return err
	}
	defer n.Close()
	if *snapshotter != "" {
		if err := n.UseSnapshotter(*snapshotter); err != nil {
			return err
		}
	}
	const pause = "localhost/pause:test"
	if err := n.SetUp(pause); err != nil {
		return err
	}
	for to, from := range copies {
		if err := n.CopyIn(from, to); err != nil {
			return err
		}
	}
	if err := n.StartContainerd(); err != nil {
		return err
	}
	sleep := []string{"sleep", "1000"}
	if err := n.Import(lab.Image{Name: pause, User: user, Cmd: sleep}, lab.Image{Name: "localhost/tools:test", Cmd: sleep}); err != nil {
		return err
	}
	return n.Attached(command[0], command[1:]...)
}
