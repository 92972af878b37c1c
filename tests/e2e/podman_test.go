package e2e

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"uid-nri-plugin/tests/e2e/lab"
)

// The map of "uid-nri-plugin plan" with a real rootless Podman, as a user with 2048 subordinate ids. Podman's own user
// namespace, the intermediate one, has 2049 ids: the user's own as 0, then the subordinate ones.

// unplanned is the plain map of that user, with no id pinned.
var unplanned = []string{"--uidmap", "0:0:2049", "--gidmap", "0:0:2049"}

// plannedFlags are Podman's flags for the account's node, as the account itself has them planned.
func plannedFlags(t *testing.T, a *lab.Account) []string {
	t.Helper()
	line, err := a.Run(nil, "uid-nri-plugin", "plan", "--podman")
	must(t, err)
	return strings.Fields(line)
}

// extents are the ids of a flag, one container:intermediate:amount a line. A map is the same map wherever a run of ids
// is cut in two, as Podman does where the run leaves the user's own id for the subordinate ones.
func extents(t *testing.T, words []string) string {
	t.Helper()
	type extent struct{ container, host, size int }
	var all, joined []extent
	for _, word := range words {
		var e extent
		if _, err := fmt.Sscanf(word, "%d:%d:%d", &e.container, &e.host, &e.size); err != nil {
			t.Fatalf("%q is no extent: %v", word, err)
		}
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b extent) int { return cmp.Compare(a.container, b.container) })
	for _, e := range all {
		if n := len(joined) - 1; n >= 0 && e.container == joined[n].container+joined[n].size && e.host == joined[n].host+joined[n].size {
			joined[n].size += e.size
			continue
		}
		joined = append(joined, e)
	}
	var text strings.Builder
	for _, e := range joined {
		fmt.Fprintf(&text, "%d:%d:%d\n", e.container, e.host, e.size)
	}
	return text.String()
}

// flagged are the extents of all flags of a name.
func flagged(t *testing.T, flags []string, name string) string {
	t.Helper()
	var words []string
	for n, flag := range flags {
		if flag == name && n+1 < len(flags) {
			words = append(words, flags[n+1])
		}
	}
	return extents(t, words)
}

// kernels are the extents of a text of /proc/PID/uid_map.
func kernels(t *testing.T, text string) string {
	t.Helper()
	var words []string
	for line := range strings.Lines(text) {
		words = append(words, strings.Join(strings.Fields(line), ":"))
	}
	return extents(t, words)
}

func newAccount(t *testing.T, name string) *lab.Account {
	t.Helper()
	binary, err := pluginBinary()
	must(t, err)
	a, err := lab.NewAccount(name, peers(os.Getenv("LAB_CONTAINERD")), binary)
	must(t, err)
	t.Cleanup(a.Close)
	return a
}

func TestPodmanTakesThePlan(t *testing.T) {
	a := newAccount(t, podName(t))
	user := func(argv ...string) string {
		t.Helper()
		out, err := a.Run(nil, argv...)
		must(t, err)
		return out
	}
	archive, err := lab.Image{Name: tools, Cmd: forever, Owns: []lab.Owned{{Path: "home/app", Uid: 1000, Gid: 1000}}}.Archive()
	must(t, err)
	_, err = a.Run(bytes.NewReader(archive), "podman", "load")
	must(t, err)
	run := func(flags []string, command ...string) []string {
		return append(append(append([]string{"podman", "run", "--rm"}, flags...), tools), command...)
	}
	equal(t, "the user", user("id", "-u"), "41047\n")
	for _, kind := range []string{"uid", "gid"} {
		cat := []string{"cat", "/proc/self/" + kind + "_map"}
		equal(t, "the intermediate namespace", kernels(t, user(append([]string{"podman", "unshare"}, cat...)...)), "0:41047:1\n1:2937359488:2048\n")
		flags := plannedFlags(t, a)
		equal(t, "the planned map", kernels(t, user(run(flags, cat...)...)), flagged(t, flags, "--"+kind+"map"))
		equal(t, "the plain map", kernels(t, user(run(unplanned, cat...)...)), "0:0:2049\n")
	}
	// What plan prints, as a chain: Podman takes it, so show must not call it lost.
	chain := `plan=$(uid-nri-plugin plan --podman) || exit 9; set -- $plan; while [ $# -gt 0 ]; do [ "$1" != --uidmap ] || echo "$2"; shift 2; done >planned
		podman unshare cat /proc/self/uid_map >around && uid-nri-plugin show --chain around planned`
	shown := user("sh", "-c", chain)
	contains(t, "show --chain", shown, "\nlevel 2: 0:0:2032 crosses lines of level 1\nevery id of every level exists; Podman cuts the lines")
	for flags, reason := range map[string]string{
		"--uidmap 0:0:2050 --gidmap 0:0:2049":                       "Operation not permitted", // one more than there are
		"--uidmap 0:0:2049 --uidmap 65532:2045:4 --gidmap 0:0:2049": "conflicts with other mappings",
	} {
		if out, err := a.Run(nil, run(strings.Fields(flags), "true")...); err == nil {
			t.Errorf("%s was taken: %s", flags, out)
		} else {
			contains(t, "the error", err.Error(), reason)
		}
	}
	flags := plannedFlags(t, a)
	equal(t, "a pinned user", user(run(append(flags, "--user", "65532:65532"), "sh", "-c", "id -u; id -G; stat -c %u:%g /home/app")...),
		"65532\n65532\n1000:1000\n")
}

// podmanSite is a node that Podman made, with containerd.
func podmanSite(t *testing.T, flags func(*testing.T, *lab.Account) []string) *site {
	a := newAccount(t, podName(t))
	n, err := a.StartNode(flags(t, a)...)
	must(t, err)
	s := &site{Node: n}
	l := careful
	l.images = []lab.Image{{Name: tools, Cmd: forever}, {Name: user10001, User: "10001:10001", Cmd: forever}}
	must(t, s.build(l, options{}))
	t.Cleanup(s.journal.Close)
	return ready(t)(s, nil)
}

// A node of the planned map starts the stock pause image, unpacks an image of 65532 and runs it, and runs what else is
// pinned, all by the kernel alone. The plugin adds an id that is not.
func TestPodmanNode(t *testing.T) {
	s := podmanSite(t, plannedFlags)
	nonroot := withFiles("planned", lab.Owned{Uid: 65532, Gid: 65532})
	must(t, s.Import(nonroot))
	s.unpacked(t, layout{pool: 65536}, nonroot) // each id is itself

	pod := s.pod(t, lab.Pod{})
	equal(t, "the pause process", s.process(t, s.sandboxPid(t, pod)), fmt.Sprintf("Uid: %s Gid: %s Groups: 65535", four(65535), four(65535)))
	for image, id := range map[string]int{nonroot.Name: 65532, user10001: 10001} {
		r := start(t, pod, lab.Container{Name: fmt.Sprint(id), Image: image})
		equal(t, "id", sh(t, r, "id -u; id -G; touch /tmp/new && stat -c %u:%g /tmp/new"), fmt.Sprintf("%d\n%d\n%d:%d", id, id, id, id))
		untouched(t, s, r)
	}
	high := lab.Container{Image: tools, User: lab.ID(20000), Group: lab.ID(20000)}
	refused(t, pod, high, noSuchOwner)

	binary, err := pluginBinary()
	must(t, err)
	must(t, s.InstallPlugin(binary))
	must(t, s.RestartContainerd())
	s.check(t).states(t, s, nil)
	r := start(t, s.pod(t, lab.Pod{Name: "plugin"}), high)
	mapped(t, s, r)
	equal(t, "id with the plugin", sh(t, r, "id -u; id -G"), "20000\n20000")
}

// The control: what the same Podman gives without a plan.
func TestPodmanPlainNode(t *testing.T) {
	s := podmanSite(t, func(*testing.T, *lab.Account) []string { return unplanned })
	if _, err := s.RunPod(lab.Pod{Name: "stock"}); err == nil {
		t.Error("the stock pause image ran on the plain map")
	} else {
		contains(t, "the error", err.Error(), noSuchGroups)
	}
	s.notUnpacked(t, withFiles("unplanned", lab.Owned{Uid: 65532, Gid: 65532}))
}

// An image with files of ids that the user lacks, such as the group nogroup: what "plan" says of it.
func TestPodmanUnpacksUnderSupervise(t *testing.T) {
	a := newAccount(t, podName(t))
	archive, err := lab.Image{Name: nogroup, Cmd: forever, Owns: []lab.Owned{{Path: "var/lib/nfs/sm", Uid: 101, Gid: 65534}}}.Archive()
	must(t, err)
	if out, err := a.Run(bytes.NewReader(archive), "podman", "load"); err == nil {
		t.Errorf("it was unpacked without supervise: %s", out)
	} else {
		contains(t, "the error", err.Error(), "insufficient UIDs or GIDs")
	}
	plan, err := a.Run(nil, "uid-nri-plugin", "plan")
	must(t, err)
	const said = "podman unshare uid-nri-plugin supervise -- podman"
	contains(t, "plan", plan, said+" pull IMAGE")
	_, err = a.Run(bytes.NewReader(archive), append(strings.Fields(said), "load")...)
	must(t, err)
	out, err := a.Run(nil, "podman", "run", "--rm", nogroup, "stat", "-c", "%u:%g", "/var/lib/nfs/sm")
	must(t, err)
	// 65534 is 2047 in the namespace of 2049 ids.
	equal(t, "the owner", strings.TrimSpace(out), fmt.Sprintf("101:%d", layout{pool: 2049}.place(65534)))
}

const nogroup = "localhost/nogroup:test"

// A user's own groups stay where "keep-groups" says so, unmapped as they are.
func TestPodmanKeepsGroups(t *testing.T) {
	a := newAccount(t, podName(t))
	archive, err := lab.Image{Name: tools, Cmd: forever}.Archive()
	must(t, err)
	_, err = a.Run(bytes.NewReader(archive), "podman", "load")
	must(t, err)
	where, err := a.Run(nil, "sh", "-c", "command -v uid-nri-plugin")
	must(t, err)
	run := func(command string) (string, error) {
		argv := []string{"podman", "run", "--rm", "--privileged", "--group-add", "keep-groups", "-v", strings.TrimSpace(where) + ":/uid-nri-plugin:ro"}
		return a.Run(nil, append(argv, tools, "sh", "-c", command)...)
	}
	const change = "touch /tmp/f && chown 50000:60000 /tmp/f && stat -c %u:%g /tmp/f"
	out, err := run("id -G; " + change)
	if err == nil {
		t.Errorf("it was changed without supervise: %s", out)
	} else {
		contains(t, "the error", err.Error(), "Invalid argument")
	}
	out, err = run("id -G; /uid-nri-plugin supervise -- sh -c '" + change + " && su -s /bin/sh member -c \"id -u\"'")
	must(t, err)
	l := layout{pool: 2049}
	equal(t, "groups, owner and user", out, fmt.Sprintf("0 65534 65534\n%d:%d\n%d\n", l.place(50000), l.place(60000), l.place(20006)))
}
