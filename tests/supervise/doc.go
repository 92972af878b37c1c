// Package supervise tests `uid-nri-plugin supervise` from below: by callers that make exactly the calls they are told
// to, with the arguments, rights, roots, threads and timing that an imprecise supervisor gets wrong. Needs root and gcc.
//
//	UID_NRI_PLUGIN=/path/to/uid-nri-plugin go test -count=1 .
//
// Each test has a node of its own: a user namespace of 2048 ids. SUPERVISE_LONG=1 runs the races for a minute each
// and kills ten times as often; SUPERVISE_RACE_SECONDS=N sets only the first. SUPERVISE_KERNEL=5.18 hides from supervise,
// and from all below it, what Linux 5.18 did not have (c/older.c); tests that look at the filters of processes fail so.
// FUZZ_SECONDS=N plays random sequences for
// so long, FUZZ_FIRST=N from this one on, FUZZ_COUNT=N so many at a time: `FUZZ_FIRST=22572 FUZZ_COUNT=1` plays one again. With
// FUZZ_KILL_MS=N one of the supervisor's processes is killed each so many milliseconds meanwhile.
package supervise
