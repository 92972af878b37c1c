package main

import (
	"fmt"
	"slices"
	"time"
)

type times []time.Duration

// p is a percentile, by the nearest rank.
func (t times) p(percent int) time.Duration {
	sorted := slices.Sorted(slices.Values(t))
	return sorted[max(0, (len(sorted)*percent+99)/100-1)]
}

func (t times) String() string {
	return fmt.Sprintf("p50 %9v  p99 %9v  (%d)", round(t.p(50)), round(t.p(99)), len(t))
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Nanosecond) }

func ratio[T int | time.Duration](a, b T) float64 { return float64(a) / float64(b) }

// pair prints what was measured of the two plugins.
func pair(what string, sides []*side, took []times) {
	fmt.Printf("\n%s\n", what)
	for i, s := range sides {
		fmt.Printf("  %-24s %v\n", s.name, took[i])
	}
	fmt.Printf("  %-24s p50 %9.2f  p99 %9.2f\n", "ratio", ratio(took[0].p(50), took[1].p(50)), ratio(took[0].p(99), took[1].p(99)))
}

// single prints what was measured of one.
func single(what string, took times) {
	fmt.Printf("\n%s\n  %-24s %v\n", what, "", took)
}

// reaches are the lines that say which were met.
type reaches []string

func (r *reaches) add(met bool, format string, args ...any) {
	word := "MISS"
	if met {
		word = "PASS"
	}
	*r = append(*r, word+"  "+fmt.Sprintf(format, args...))
}

func (r *reaches) ratio(what string, ours, theirs time.Duration, most float64) {
	got := ratio(ours, theirs)
	r.add(got <= most, "%s %.2f of the Go plugin's time (at most %.1f)", what, got, most)
}

func (r *reaches) atMost(what string, got, most time.Duration) {
	r.add(got <= most, "%s: %v (at most %v)", what, round(got), most)
}
