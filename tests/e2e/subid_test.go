package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// What Podman and newuidmap make of an account's lines in /etc/subuid and /etc/subgid, and what "plan" and "check --host"
// say of them. Podman is the control of each case.
func TestSubordinateIds(t *testing.T) {
	a := newAccount(t, podName(t))
	const files = "/etc/subuid /etc/subgid"
	const own, user = "/etc/passwd", "hpc"
	machine := must1(t)(a.Run(nil, "cat", own))
	withoutUser := ""
	for line := range strings.Lines(machine) {
		if !strings.HasPrefix(line, user+":") {
			withoutUser += line
		}
	}
	for _, c := range []struct {
		name, lines, passwd string
		podman              string // its map of users, or a part of its error
		said                string // by plan and check; empty: all is well
	}{
		{"good", "hpc:100000:2048\n", "", "0:41047:1\n1:100000:2048\n", ""},
		{"by number", "41047:100000:2048\n", "", "0:41047:1\n1:100000:2048\n", ""},
		{"lowest first", "hpc:200000:1024\nhpc:100000:1024\n", "", "0:41047:1\n1:100000:1024\n1025:200000:1024\n", ""},
		{"side by side", "hpc:100000:1024\nhpc:101024:1024\n", "", "0:41047:1\n1:100000:2048\n", ""},
		{"hexadecimal", "hpc:0x186a0:2048\n", "", "0:41047:1\n1:100000:2048\n", ""},
		{"overlap", "hpc:100000:2048\nhpc:101000:2048\n", "", "Invalid argument", `line 2, "hpc:101000:2048": overlaps another line`},
		{"own id", "hpc:41000:2048\n", "", "includes the user", `line 1, "hpc:41000:2048": the user's own id is in it`},
		{"past the end", "hpc:4294966000:2048\n", "", "overflow", `line 1, "hpc:4294966000:2048": the range goes past the last id`},
		{"up to the end", "hpc:4294965247:2048\n", "", "0:41047:1\n1:4294965247:2048\n", ""},
		{"no count", "hpc:200000:0\nhpc:100000:2048\n", "", "not allowed", `line 1, "hpc:200000:0": the count is 0`},
		// Podman falls back to the user alone.
		{"trailing blank", "hpc:100000:2048 \n", "", "0:41047:1\n", `line 1, "hpc:100000:2048 ": two numbers`},
		{"leading blank", " hpc:100000:2048\n", "", "0:41047:1\n", `line 1, " hpc:100000:2048": a blank beside the name`},
		{"unknown user", "hpc:100000:2048\n", withoutUser, "Cannot determine your user name", `there is no user "41047"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			must(t, a.WriteFile(own, machine))
			if c.passwd != "" {
				must(t, a.WriteFile(own, c.passwd))
			}
			for _, file := range strings.Fields(files) {
				must(t, a.WriteFile(file, c.lines))
			}
			// With folders of its own it has no process that keeps an earlier map.
			if out, err := a.Run(nil, "sh", "-c", "d=$(mktemp -d -p $HOME); HOME=$d XDG_RUNTIME_DIR=$d podman unshare cat /proc/self/uid_map"); err == nil {
				equal(t, "podman", kernels(t, out), c.podman)
			} else {
				contains(t, "podman", err.Error(), c.podman)
			}
			out, err := a.Run(nil, "uid-nri-plugin", "plan", "--podman")
			var found checked
			document, _ := a.Run(nil, "sh", "-c", "uid-nri-plugin check --host --json; true")
			must(t, json.Unmarshal([]byte(document), &found))
			ids, remedy := found.found(t, "ids")
			tools, _ := found.found(t, "newuidmap")
			if c.said == "" {
				must(t, err)
				contains(t, "plan", out, "--uidmap 0:0:2035 ")
				equal(t, "ids", ids, "2048 subordinate uids and 2048 gids for hpc")
				contains(t, "newuidmap", tools, "; they make the planned map")
				return
			}
			if err == nil {
				t.Fatalf("it was planned: %s", out)
			}
			contains(t, "plan", err.Error(), c.said)
			contains(t, "ids", ids, c.said)
			if remedy == "" || strings.Contains(tools, "planned") {
				t.Errorf("remedy %q, newuidmap %q", remedy, tools)
			}
		})
	}
}

// A directory of subordinate ids that is not there: the tools of shadow go on with the files, and so do ours.
func TestSubordinateIdsElsewhere(t *testing.T) {
	a := newAccount(t, podName(t))
	must(t, a.WriteFile("/etc/nsswitch.conf", must1(t)(a.Run(nil, "cat", "/etc/nsswitch.conf"))+"subid: sss\n"))
	equal(t, "podman", kernels(t, must1(t)(a.Run(nil, "podman", "unshare", "cat", "/proc/self/uid_map"))), "0:41047:1\n1:2937359488:2048\n")
	contains(t, "plan", must1(t)(a.Run(nil, "uid-nri-plugin", "plan", "--podman")), "--uidmap 0:0:2035 ")
	// Without getsubids nobody knows.
	_, err := a.Run(nil, "sh", "-c", "PATH=${PATH%%:*}; uid-nri-plugin plan")
	if err == nil {
		t.Fatal("it was planned")
	}
	contains(t, "plan", err.Error(), "subordinate ids come from sss; getsubids: No such file")
}

// newuidmap's own words, for a map that the files allow and it does not make.
func TestPlannedMapIsTried(t *testing.T) {
	a := newAccount(t, podName(t))
	line := fmt.Sprintf("hpc:x:%d:%d::/:/bin/sh\n", 41047, 41048)
	must(t, a.WriteFile("/etc/passwd", line))
	document := must1(t)(a.Run(nil, "sh", "-c", "uid-nri-plugin check --host --json; true"))
	var found checked
	must(t, json.Unmarshal([]byte(document), &found))
	tools, _ := found.found(t, "newuidmap")
	contains(t, "newuidmap", tools, "is owned by a different user: uid:41047")
}
