//go:build nri08 || nri011

package engine

import (
	"context"

	"github.com/containerd/nri/pkg/api"
)

// DedicatedCalls says whether each event is a call of its own.
const DedicatedCalls = false

// RunPod tells of a pod that has started.
func (e *Engine) RunPod(pod *api.PodSandbox) error {
	return e.nri.RunPodSandbox(context.Background(), &api.StateChangeEvent{Pod: pod})
}

// RemovePod tells of a pod that is being removed.
func (e *Engine) RemovePod(pod *api.PodSandbox) error {
	return e.nri.RemovePodSandbox(context.Background(), &api.StateChangeEvent{Pod: pod})
}

// OtherEvents tells of everything that can happen to a pod and a container,
// besides RunPod, RemovePod and CreateContainer.
func (e *Engine) OtherEvents(pod *api.PodSandbox, ctr *api.Container) error {
	ctx := context.Background()
	for _, tell := range []func(context.Context, *api.StateChangeEvent) error{
		e.nri.PostCreateContainer,
		e.nri.StartContainer,
		e.nri.PostStartContainer,
		e.nri.PostUpdateContainer,
		e.nri.RemoveContainer,
		e.nri.StopPodSandbox,
	} {
		if err := tell(ctx, &api.StateChangeEvent{Pod: pod, Container: ctr}); err != nil {
			return err
		}
	}
	if _, err := e.nri.UpdateContainer(ctx, &api.UpdateContainerRequest{Pod: pod, Container: ctr, LinuxResources: &api.LinuxResources{}}); err != nil {
		return err
	}
	_, err := e.nri.StopContainer(ctx, &api.StopContainerRequest{Pod: pod, Container: ctr})
	return err
}
