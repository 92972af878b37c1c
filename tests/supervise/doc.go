// Package supervise tests `uid-nri-plugin supervise` from below: by callers that make exactly the calls they are told
// to, with the arguments, rights, roots, threads and timing that an imprecise supervisor gets wrong. Each test has a node
// of its own: a user namespace of 2048 ids. ../README.md has the variables that change what is played.
package supervise
