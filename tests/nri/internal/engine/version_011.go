//go:build nri011

package engine

// The containerd with this NRI, and whether it tells a container's user:
// the field is there, containerd 2.2 does not fill it.
const (
	Version   = "v2.2.1"
	TellsUser = false
)
