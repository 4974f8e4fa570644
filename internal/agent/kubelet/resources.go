package kubelet

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	api "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// maxAnswer bounds the kubelet's answer, as its own client does (16 MiB).
const maxAnswer = 16 << 20

// Resources asks the kubelet which pods were given a resource. The kubelet has
// settled that before it makes a pod's sandbox, and it knows without the API server.
type Resources struct {
	conn     *grpc.ClientConn
	resource string
}

// NewResources asks at the kubelet's socket of pod resources,
// /var/lib/kubelet/pod-resources/kubelet.sock. It connects when asked.
func NewResources(socket, resource string) (*Resources, error) {
	conn, err := dial(socket)
	if err != nil {
		return nil, err
	}
	return &Resources{conn: conn, resource: resource}, nil
}

// Has reports whether the pod was given the resource. The kubelet names no UIDs here, and
// may still list a pod that has ended beside the one of its name that was made anew: while
// they differ, which of them is asked for is not known, and that is an error. So is a pod that
// the kubelet does not list: it lists each pod before it makes its sandbox, but one that has just
// started has not heard of all yet.
func (r *Resources) Has(ctx context.Context, namespace, name string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list, err := api.NewPodResourcesListerClient(r.conn).List(ctx, &api.ListPodResourcesRequest{}, grpc.MaxCallRecvMsgSize(maxAnswer))
	if err != nil {
		return false, fmt.Errorf("ask the kubelet for the resources of pods: %w", err)
	}
	with, without := 0, 0
	for _, p := range list.PodResources {
		switch {
		case p.Namespace != namespace || p.Name != name:
		case r.given(p):
			with++
		default:
			without++
		}
	}
	if with+without == 0 {
		return false, fmt.Errorf("the kubelet does not list pod %s/%s yet", namespace, name)
	}
	if with > 0 && without > 0 {
		return false, fmt.Errorf("the kubelet lists %d pods %s/%s, with and without %s: it has not forgotten an earlier one yet", with+without, namespace, name, r.resource)
	}
	return with > 0, nil
}

func (r *Resources) given(p *api.PodResources) bool {
	for _, c := range p.Containers {
		for _, d := range c.Devices {
			if d.ResourceName == r.resource && len(d.DeviceIds) > 0 {
				return true
			}
		}
	}
	return false
}
