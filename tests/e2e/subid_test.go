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
				contains(t, "plan", out, "--uidmap 0:0:2032 ")
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
	contains(t, "plan", must1(t)(a.Run(nil, "uid-nri-plugin", "plan", "--podman")), "--uidmap 0:0:2032 ")
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

// A user of a directory: whom getent and getsubids name, no file does. newuidmap itself asks the same libraries.
func TestDirectoryUser(t *testing.T) {
	a := newAccount(t, podName(t))
	plan := func(user string) (string, error) {
		return a.Run(nil, "sh", "-c", `mkdir -p fake && cd fake && printf '#!/bin/sh\n[ "$*" = "passwd dora" ] && echo "dora@site:*:1185200044:7::/:/bin/sh"\n' >getent &&
			printf '#!/bin/sh\n[ "$*" = "dora@site" ] && echo "0: dora@site 300000 2048"\n[ "$*" = "-g dora@site" ] && echo "0: dora@site 400000 1024"\n:\n' >getsubids &&
			chmod 755 getent getsubids && PATH=$PWD:$PATH uid-nri-plugin plan --user "$1"`, "sh", user)
	}
	out, err := plan("dora")
	must(t, err)
	for _, part := range []string{"ids of dora@site", "2049: 1185200044, 300000-302047", "1025: 7, 400000-401023"} {
		contains(t, "plan", out, part)
	}
	if out, err := plan("carol"); err == nil {
		t.Errorf("nobody knows her: %s", out)
	} else {
		contains(t, "plan", err.Error(), `there is no user "carol"`)
	}
}

// A plan that is as large as a map can be: newuidmap takes it, with the machine's ids of ten digits. The control is the
// same map with a line cut in three.
func TestLargestMap(t *testing.T) {
	a := newAccount(t, podName(t))
	out, err := a.Run(nil, "sh", "-c", `plan=$(uid-nri-plugin plan --podman --pin $(seq -s, 1000000000 2 1000000800)) || exit 9
		set -- $plan; while [ $# -gt 0 ]; do [ "$1" != --uidmap ] || echo "$2"; shift 2; done >planned
		podman unshare cat /proc/self/uid_map >around
		uid-nri-plugin show --chain around planned --json | sed 's/.*"map":\[//; s/\].*//; s/[^0-9]*\([0-9]*\)[^0-9]*\([0-9]*\)[^0-9]*\([0-9]*\)}/\1 \2 \3\n/g' | grep . >fits
		awk '$3 > 1 && !cut++ {for (; n < 2; n++) printf "%.0f %.0f 1\n", $1 + n, $2 + n
			printf "%.0f %.0f %.0f\n", $1 + n, $2 + n, $3 - n; next} {print}' fits >over
		for map in fits over; do
			unshare -U sleep 20 & pid=$!; sleep 0.3
			newuidmap $pid $(cat $map) 2>&1; echo "$map: status $?, $(wc -l </proc/$pid/uid_map) of $(wc -l <$map) lines, $(wc -c <$map) bytes"; kill $pid
		done`)
	must(t, err)
	var status, got, lines, bytes int
	first, rest, _ := strings.Cut(out, "\n")
	if _, err := fmt.Sscanf(first, "fits: status %d, %d of %d lines, %d bytes", &status, &got, &lines, &bytes); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if status != 0 || got != lines || bytes > 4095 || bytes < 4095-2*len("1000000000 2937359488 1") {
		t.Errorf("the planned map: %s", first)
	}
	contains(t, "the control", rest, "write to uid_map failed: Invalid argument\nover: status 1, 0 of")
}
