//go:build !nri08

package engine

import "github.com/containerd/nri/pkg/api"

// TakesNamespace says whether a plugin can give a container a namespace.
const TakesNamespace = true

func setUser(ctr *api.Container, uid, gid uint32, gids []uint32) {
	ctr.User = &api.User{Uid: uid, Gid: gid, AdditionalGids: gids}
}

// UserNamespace is the path of the user namespace that a container was given.
func UserNamespace(adjust *api.ContainerAdjustment) string {
	for _, ns := range adjust.GetLinux().GetNamespaces() {
		if ns.Type == "user" {
			return ns.Path
		}
	}
	return ""
}
