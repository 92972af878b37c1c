// Package supervise tests `uid-nri-plugin supervise` from below: by callers that make exactly the calls they are told
// to, with the arguments, rights, roots, threads and timing that an imprecise supervisor gets wrong. Needs root and gcc.
//
//	UID_NRI_PLUGIN=/path/to/uid-nri-plugin go test -count=1 .
//
// Each test has a node of its own: a user namespace of 2048 ids. SUPERVISE_LONG=1 runs the races for a minute each
// and kills ten times as often; SUPERVISE_RACE_SECONDS=N sets only the first.
package supervise
