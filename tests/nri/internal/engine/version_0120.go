//go:build nri0120

package engine

// The containerd with this NRI, and whether it tells a container's user.
const (
	Version   = "v2.3.4"
	TellsUser = true
)
