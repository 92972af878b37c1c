package supervise

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"uid-nri-plugin/tests/node"
)

// Tells a fuzzer in a node what to play: "wide" or "node", and the arguments of c/fuzz.c.
const fuzzVar = "SUPERVISE_FUZZ"

// FUZZ_KILL_MS=N kills one of the supervisor's processes each so many milliseconds.
var killEach = time.Duration(number("FUZZ_KILL_MS", 0)) * time.Millisecond

// TestFuzz plays random sequences of calls (c/fuzz.c) twice and compares what is to be seen after each step: sequences of
// even numbers where all ids are mapped, the others on a node whose caller places the ids itself, and all of them
// supervised. A few hundred, or as many as go into FUZZ_SECONDS; from FUZZ_FIRST on.
func TestFuzz(t *testing.T) {
	if node.Inside() {
		playSequences(t)
		return
	}
	first, batch := number("FUZZ_FIRST", 0), number("FUZZ_COUNT", 400)
	begin, span := time.Now(), time.Duration(number("FUZZ_SECONDS", 0))*time.Second
	if long() && span == 0 {
		span = 10 * time.Minute
	}
	// Not supervised, the node's root cannot even give the files to their owners.
	if out := inFuzzNode(t, "control", first, 10, ""); !bytes.Contains(out, []byte("lchown")) || !bytes.Contains(out, []byte("Invalid argument")) {
		t.Errorf("not supervised:\n%s", out)
	}
	found := 0
	for {
		lines, differ := fuzz(t, first, batch, "")
		if t.Logf("sequences %d to %d: %d lines", first, first+batch-1, lines); lines < 20*batch {
			t.Fatalf("%d lines of %d sequences", lines, batch)
		}
		for _, d := range differ {
			if found++; found <= 3 {
				t.Errorf("sequence %d: %s", d.number, shortest(t, d))
			} else {
				t.Errorf("sequence %d: %s", d.number, d)
			}
		}
		first += batch
		if time.Since(begin) > span || found > 20 {
			return
		}
	}
}

// number is what a variable says.
func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// playSequences is what goes on in a node.
func playSequences(t *testing.T) {
	kind, args, _ := strings.Cut(os.Getenv(fuzzVar), " ")
	argv := func(how string) []string { return append([]string{caller, "@fuzz", how}, strings.Fields(args)...) }
	runs := map[string][]string{}
	switch kind {
	case "wide":
		runs["wide"] = argv("wide")
	case "node":
		runs["placed"], runs["folded"] = argv("placed"), supervised(argv("folded")...)
	case "control":
		runs["control"] = argv("folded")
	}
	for how, argv := range runs {
		freshStage(t)
		if killEach > 0 && how == "folded" {
			ended := make(chan bool)
			defer close(ended)
			go killAny(ended)
		}
		// It ends by itself: what hangs in it is killed.
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		fmt.Printf("\n[%s %v]\n%s\n[]\n", how, err, out)
	}
	noneStopped(t)
}

// killAny kills one of the supervisor's processes from time to time, but never keeper and receiver at once.
func killAny(ended chan bool) {
	for n := 0; ; n++ {
		select {
		case <-ended:
			return
		case <-time.After(killEach):
		}
		if len(named("uid-keeper")) != 1 || len(named("uid-supervise")) != 1 {
			continue
		}
		for _, pid := range named([]string{"uid-supervise", "uid-keeper", "uid-fold", "uid-fold"}[n%4]) {
			for unix.Kill(pid, unix.SIGKILL) == nil {
				time.Sleep(time.Millisecond)
			}
		}
	}
}

// inFuzzNode has sequences played in a node of their own, and returns what was said. With steps, only these.
func inFuzzNode(t *testing.T, kind string, first, count int, steps string) []byte {
	t.Helper()
	cmd := node.Command(programs, "-test.run=^TestFuzz$", "-test.v")
	cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%s %d %d %s", fuzzVar, kind, first, count, steps))
	if kind == "wide" {
		cmd.Env = append(cmd.Env, node.WideVar+"=1")
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s", kind, err, out[max(0, len(out)-3000):])
	}
	return out
}

// difference is a sequence that went in two ways.
type difference struct {
	number      int
	right, seen []string // its lines
}

// fuzz plays sequences in all ways. With steps, only these.
func fuzz(t *testing.T, first, count int, steps string) (lines int, differ []difference) {
	t.Helper()
	outputs := map[string]map[int][]string{}
	ended := make(chan []byte)
	for _, kind := range []string{"wide", "node"} {
		go func() { ended <- inFuzzNode(t, kind, first, count, steps) }()
	}
	for range 2 {
		for part := range bytes.SplitSeq(<-ended, []byte("\n[")) {
			head, text, _ := bytes.Cut(part, []byte("]\n"))
			if how, code, found := strings.Cut(string(head), " "); found && strings.Contains("wide placed folded", how) {
				if outputs[how] = sequences(string(text)); code != "<nil>" || !bytes.HasSuffix(text, []byte("end\n")) {
					t.Errorf("%s: %s\n%s", how, code, text[max(0, len(text)-1000):])
				}
			}
		}
	}
	for n := first; n < first+count; n++ {
		right, seen := outputs[[]string{"wide", "placed"}[n%2]][n], outputs["folded"][n]
		if killEach > 0 {
			// A thread whose worker has died goes on before another one can put back what was replaced.
			for i, line := range seen {
				seen[i], _, _ = strings.Cut(line, " WRONG ")
			}
		}
		if n > first && len(seen) == 0 {
			break // one before it is to blame
		}
		lines += len(right)
		if len(right) == 0 || !slices.Equal(right, seen) || strings.Contains(strings.Join(right, "\n"), "WRONG") {
			differ = append(differ, difference{n, right, seen})
		}
	}
	return lines, differ
}

// sequences are the lines of an output by the number of the sequence.
func sequences(out string) map[int][]string {
	all := map[int][]string{}
	n := -1
	for line := range strings.Lines(out) {
		if rest, found := strings.CutPrefix(line, "sequence "); found {
			fmt.Sscan(rest, &n)
		}
		if line != "end\n" {
			all[n] = append(all[n], strings.TrimSuffix(line, "\n"))
		}
	}
	return all
}

// shortest leaves out of a sequence what does not matter to the difference, and tells what is left.
func shortest(t *testing.T, d difference) string {
	t.Helper()
	var steps []string
	for i := range 40 {
		steps = append(steps, strconv.Itoa(i))
	}
	again := func(steps []string) (difference, bool) {
		_, differ := fuzz(t, d.number, 1, strings.Join(append(steps, "-1"), ","))
		if len(differ) == 0 {
			return d, false
		}
		return differ[0], true
	}
	if _, same := again(steps); !same {
		return d.String() + "It did not happen again."
	}
	for size := 16; size > 0; size /= 2 {
		for i := 0; i < len(steps); {
			fewer := slices.Delete(slices.Clone(steps), i, min(i+size, len(steps)))
			if shorter, same := again(fewer); same {
				steps, d = fewer, shorter
			} else {
				i += size
			}
		}
	}
	return d.String() + "Steps " + strings.Join(steps, ",")
}

// String shows the sequence up to where it goes in two ways.
func (d difference) String() string {
	i := 0
	for i < len(d.right) && i < len(d.seen) && d.right[i] == d.seen[i] {
		i++
	}
	rest := func(lines []string) string {
		return strings.Join(lines[min(i, len(lines)):min(i+4, len(lines))], "\n")
	}
	return strings.Join(d.right[:i], "\n") + "\nright is:\n" + rest(d.right) + "\nsupervised:\n" + rest(d.seen) + "\n"
}
