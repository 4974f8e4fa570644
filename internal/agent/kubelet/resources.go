package kubelet

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	api "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// maxAnswer bounds the kubelet's answer, as its own client does (16 MiB).
const maxAnswer = 16 << 20

// Resources asks the kubelet which pods were given a resource. The kubelet decides that before it
// creates a pod's sandbox, and needs no API server to answer.
type Resources struct {
	conn     *grpc.ClientConn
	resource string
}

// NewResources uses the kubelet's pod resources socket,
// /var/lib/kubelet/pod-resources/kubelet.sock. It connects at the first call.
func NewResources(socket, resource string) (*Resources, error) {
	conn, err := dial(socket)
	if err != nil {
		return nil, err
	}
	return &Resources{conn: conn, resource: resource}, nil
}

// Has reports whether the pod was given the resource. The kubelet returns no UIDs here, and may
// still list an ended pod beside a new one of the same name: if they differ in the resource, Has
// returns an error. It also returns an error for a pod that the kubelet does not list: the kubelet
// lists each pod before it creates its sandbox, but a kubelet that has just started may not know
// all pods yet.
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
		return false, fmt.Errorf("the kubelet lists %d pods %s/%s, with and without %s: it still lists an earlier one", with+without, namespace, name, r.resource)
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
