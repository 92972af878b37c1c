// Command images writes the images of the cluster tests, as archives that ctr imports:
//
//	images FOLDER NAME=ROOT.tar...
//
// It makes those of busybox, and one of each root file system that is named.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"uid-nri-plugin/tests/e2e/lab"
)

// As the first process of a container a plain sleep hears no SIGTERM, and a node that is stopped waits for it.
var forever = []string{"sh", "-c", "trap exit TERM; sleep 1000000 & wait"}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("the folder is missing")
	}
	images := map[string]lab.Image{
		"pause": {Name: "localhost/k8s/pause:test", User: "65535:65535", Cmd: forever},
		"tools": {Name: "localhost/tools:test", Cmd: forever},
		"owned": {
			Name: "localhost/owned:test", User: "20000:20000", Cmd: forever,
			Owns:  []lab.Owned{{Path: "home/app", Uid: 20000, Gid: 20000}},
			Files: []lab.Owned{{Path: "home/app/file", Uid: 20000, Gid: 20000}, {Path: "data/other", Uid: 65532, Gid: 1000660000}},
		},
	}
	for _, root := range args[1:] {
		name, path, found := strings.Cut(root, "=")
		if !found {
			return fmt.Errorf("%q is not NAME=ROOT.tar", root)
		}
		images[name] = lab.Image{Name: "localhost/" + name + ":test", Root: path, Cmd: forever}
	}
	for name, image := range images {
		archive, err := image.Archive()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(args[0], name+".tar"), archive, 0o644); err != nil {
			return err
		}
	}
	return nil
}
