// Package rule is the rule of docs/design.md, which places an id that a node does not map; in Go, for all suites.
package rule

import "slices"

// Place is the id, of a node that maps 0 to pool-1, for one of a container's. The native ones stay what they are.
func Place(pool, id uint32, native ...uint32) uint32 {
	if id < pool || slices.Contains(native, id) {
		return id
	}
	base := min(1000, pool/2)
	return base + id%(pool-base)
}
