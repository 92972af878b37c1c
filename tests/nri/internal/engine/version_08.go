//go:build nri08

package engine

// The containerd with this NRI, and whether it tells a container's user.
const (
	Version   = "v2.1.5"
	TellsUser = false
)
