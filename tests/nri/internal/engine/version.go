//go:build !nri08 && !nri011 && !nri0120

package engine

// The containerd with this NRI, and whether it tells a container's user.
const (
	Version   = "v2.4.2"
	TellsUser = true
)
