//go:build nri08

package engine

import "github.com/containerd/nri/pkg/api"

// TakesNamespace says whether a plugin can give a container a namespace.
const TakesNamespace = false

func setUser(*api.Container, uint32, uint32, []uint32) {}

// UserNamespace is the path of the user namespace that a container was given.
func UserNamespace(*api.ContainerAdjustment) string { return "" }
