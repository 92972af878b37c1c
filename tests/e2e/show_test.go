package e2e

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"uid-nri-plugin/tests/e2e/lab"
)

const toolFile = "/opt/tests/uid-nri-plugin"

// tool runs one of the operator's tools as root of the node.
func (s *site) tool(t *testing.T, args ...string) (string, error) {
	t.Helper()
	if s.ReadFile(toolFile) == "" {
		binary, err := pluginBinary()
		must(t, err)
		must(t, s.CopyIn(binary, toolFile))
	}
	out, err := s.Run(toolFile, args...)
	for line := range strings.Lines(out) {
		if len(strings.TrimSpace(line)) > 80 && !strings.Contains(line, `"`) {
			t.Errorf("%v: over 80 columns: %s", args, line)
		}
	}
	return out, err
}

// told is what a tool says that must succeed.
func (s *site) told(t *testing.T, args ...string) string {
	t.Helper()
	out, err := s.tool(t, args...)
	must(t, err)
	return out
}

// ociMap is a map in the form of a runtime configuration.
type ociMap []struct{ ContainerID, HostID, Size int }

func (m ociMap) String() string {
	var lines []string
	for _, e := range m {
		lines = append(lines, fmt.Sprintf("%d %d %d", e.ContainerID, e.HostID, e.Size))
	}
	return strings.Join(lines, "\n")
}

// A container under the plugin: its map is what the kernel says inside it, whichever tool shows it.
func TestShowContainer(t *testing.T) {
	s := equippedSite(t, plain)
	pod := s.pod(t, lab.Pod{})
	// 11049 = 10001 + 1048, which is optional and left out.
	r := start(t, s.pod(t, lab.Pod{Name: "show", Annotations: map[string]string{annotation: "claim-uids=11049"}}), lab.Container{Image: tools, User: lab.ID(10001)})
	mapped(t, s, r)
	uids, gids := idMap(t, r, "uid_map"), idMap(t, r, "gid_map")

	var config struct {
		OciVersion string
		Linux      struct {
			Namespaces               []struct{ Type, Path string }
			UidMappings, GidMappings ociMap
		}
	}
	must(t, json.Unmarshal([]byte(s.told(t, "inspect", r.ID)), &config))
	equal(t, "uidMappings", config.Linux.UidMappings.String(), uids)
	equal(t, "gidMappings", config.Linux.GidMappings.String(), gids)
	path, err := r.Config(`.linux.namespaces[] | select(.type == "user").path`)
	must(t, err)
	equal(t, "namespaces", fmt.Sprint(config.Linux.Namespaces), fmt.Sprintf("[{user %s}]", path))

	var shown struct {
		ID         string
		Uids       struct{ Map ociMap }
		Collisions []struct{ ID, Slot, HeldBy int }
	}
	must(t, json.Unmarshal([]byte(s.told(t, "show", "--container", r.ID[:12], "--json")), &shown))
	equal(t, "id", shown.ID, r.ID)
	equal(t, "map", shown.Uids.Map.String(), uids)
	equal(t, "collisions", fmt.Sprint(shown.Collisions), "[{11049 1569 10001}]")

	text := s.told(t, "show", "--container", r.ID, "--svg", "/tmp/show.svg")
	for _, part := range []string{
		"container " + r.ID + "\nnamespace k8s.io, process ",
		"\n     10001 [#]                                        1569\n",
		"\nclaimed    10001 on 1569, 65532-65535 on 1556-1559\n",
		"\ndisplaced  1556-1559, 1569: ids of the node that do not exist in it\n",
		"\ncollision  uid 11049 belongs on slot 1569, but 10001 holds it: left out\n",
	} {
		contains(t, "show --container", text, part)
	}
	// A list of what has a map of its own, as the text of each has it.
	listed := s.told(t, "show", "--containers")
	name, err := r.Config(`.annotations["io.kubernetes.cri.container-name"]`)
	must(t, err)
	var row []string
	for line := range strings.Lines(listed) {
		if fields := strings.Fields(line); fields[1] == "show" && fields[2] == name && fields[3] == "uid" {
			row = fields
		}
	}
	if len(row) != 6 || row[4] != "10001,65532-65535" || row[5] != "1556-1559,1569" {
		t.Errorf("%v in the list: %s", row, listed)
	}
	var list struct {
		Containers []struct{ ID, Pod, Container string }
	}
	must(t, json.Unmarshal([]byte(s.told(t, "show", "--containers", "--json")), &list))
	seen := 0
	for _, c := range list.Containers {
		if c.ID == r.ID && c.Pod == "show" && c.Container == name {
			seen++
		}
	}
	equal(t, "times in the list", seen, 1)

	picture := s.ReadFile("/tmp/show.svg")
	for _, part := range []string{"<title>container " + r.ID + "</title>", ">10001</text>", ">uids: container<", ">gids: container<"} {
		contains(t, "the picture", picture, part)
	}
	svg := xml.NewDecoder(strings.NewReader(picture))
	tags := 0
	for {
		token, err := svg.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		if _, is := token.(xml.StartElement); is {
			tags++
		}
	}
	if tags < 20 {
		t.Errorf("the picture has %d elements", tags)
	}

	own := start(t, pod, lab.Container{Image: tools})
	if out := s.told(t, "show", "--containers", "--json"); strings.Contains(out, own.ID) {
		t.Errorf("it has no namespace of its own: %s", out)
	}
	contains(t, "no namespace of its own", s.told(t, "show", "--container", own.ID), "\nit has no user namespace of its own")
	config.Linux.Namespaces = nil
	must(t, json.Unmarshal([]byte(s.told(t, "inspect", own.ID)), &config))
	equal(t, "its namespaces and mappings", len(config.Linux.Namespaces)+len(config.Linux.UidMappings), 0)

	for id, why := range map[string]string{
		"../x":                 `"../x" is not a container id`,
		"../../k8s.io/" + r.ID: "is not a container id",
		"":                     `"" is not a container id`,
		"no-such":              `no container "no-such" runs under `,
	} {
		for _, args := range [][]string{{"show", "--container", id}, {"inspect", id}} {
			if out, err := s.tool(t, args...); err == nil {
				t.Errorf("%q: %s", args, out)
			} else {
				contains(t, "the error", err.Error(), why)
			}
		}
	}
}

// A process that has got the pid of a container's dead one is not taken for it.
func TestShowStalePid(t *testing.T) {
	s := equippedSite(t, plain)
	r := start(t, s.pod(t, lab.Pod{}), lab.Container{Image: tools, User: lab.ID(10001)})
	const state = "/tmp/stale"
	_, err := s.Run("sh", "-c", `mkdir -p "$1/k8s.io/$2/rootfs" && cp /run/containerd/*/k8s.io/"$2"/config.json "$1/k8s.io/$2" && echo 1 >"$1/k8s.io/$2/init.pid"`, "sh", state, r.ID)
	must(t, err)
	if out, err := s.tool(t, "inspect", "--state", state, r.ID); err == nil {
		t.Errorf("the node's init was taken for the container: %s", out)
	} else {
		contains(t, "the error", err.Error(), "process 1 is another one's")
	}
}

// What becomes of 10001, by what works on the node.
func TestExplain(t *testing.T) {
	const first = "id 10001  not in the node's map: slot 1569, %d outside\n  shared with 1569, 2665, 3713 and 57 more below 65536\n"
	for _, c := range []struct {
		name              string
		s                 *site
		plugin, supervise bool
		fate              string
	}{
		{"bare", bareSite(t, plain), false, false, "unpack fails; a pod fails; chown, setuid: EINVAL"},
		{"plugin", equippedSite(t, plain), true, false, "unpack fails; a pod runs as 10001; chown, setuid: EINVAL unless claimed"},
		{"supervise", ready(t)(foldedStock()), false, true, "unpack, a pod's user, chown, setuid: all done as 1569"},
		{"both", ready(t)(bothStock()), true, true, "unpack, unclaimed chown and setuid as 1569; a pod runs as 10001"},
	} {
		t.Run(c.name, func(t *testing.T) {
			pid := func(there bool, program string, args ...string) string {
				if !there {
					return "none seen"
				}
				out, err := c.s.Run("pgrep", append([]string{"-o"}, args...)...)
				must(t, err)
				return "process " + strings.TrimSpace(out)
			}
			plugin := pid(c.plugin, "plugin", "-f", "uid-mapper$")
			supervise := pid(c.supervise, "supervise", "-x", "uid-supervise")
			out := c.s.told(t, "explain", "10001")
			var outside int
			fmt.Sscan(strings.Fields(c.s.ReadFile("/proc/1/uid_map"))[1], &outside)
			equal(t, "explain", out, fmt.Sprintf("plugin: %s; supervise: %s\n"+first+"  %s\n", plugin, supervise, outside+1569, c.fate))
		})
	}
}
