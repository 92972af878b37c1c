//go:build !nri08 && !nri011

package engine

import (
	"context"

	"github.com/containerd/nri/pkg/api"
)

// DedicatedCalls says whether each event is a call of its own.
const DedicatedCalls = true

// RunPod tells of a pod that has started.
func (e *Engine) RunPod(pod *api.PodSandbox) error {
	return e.nri.RunPodSandbox(context.Background(), &api.RunPodSandboxRequest{Pod: pod})
}

// RemovePod tells of a pod that is being removed.
func (e *Engine) RemovePod(pod *api.PodSandbox) error {
	return e.nri.RemovePodSandbox(context.Background(), &api.RemovePodSandboxRequest{Pod: pod})
}

// OtherEvents tells of everything that can happen to a pod and a container,
// besides RunPod, RemovePod and CreateContainer.
func (e *Engine) OtherEvents(pod *api.PodSandbox, ctr *api.Container) error {
	ctx := context.Background()
	for _, tell := range []func() error{
		func() error {
			return e.nri.PostCreateContainer(ctx, &api.PostCreateContainerRequest{Pod: pod, Container: ctr})
		},
		func() error {
			return e.nri.StartContainer(ctx, &api.StartContainerRequest{Pod: pod, Container: ctr})
		},
		func() error {
			return e.nri.PostStartContainer(ctx, &api.PostStartContainerRequest{Pod: pod, Container: ctr})
		},
		func() error {
			_, err := e.nri.UpdateContainer(ctx, &api.UpdateContainerRequest{Pod: pod, Container: ctr, LinuxResources: &api.LinuxResources{}})
			return err
		},
		func() error {
			return e.nri.PostUpdateContainer(ctx, &api.PostUpdateContainerRequest{Pod: pod, Container: ctr})
		},
		func() error {
			_, err := e.nri.StopContainer(ctx, &api.StopContainerRequest{Pod: pod, Container: ctr})
			return err
		},
		func() error {
			return e.nri.RemoveContainer(ctx, &api.RemoveContainerRequest{Pod: pod, Container: ctr})
		},
		func() error {
			return e.nri.StopPodSandbox(ctx, &api.StopPodSandboxRequest{Pod: pod})
		},
	} {
		if err := tell(); err != nil {
			return err
		}
	}
	return nil
}
