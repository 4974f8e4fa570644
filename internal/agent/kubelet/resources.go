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

// Close ends the connection.
func (r *Resources) Close() error { return r.conn.Close() }

// Has reports whether the pod was given the resource.
func (r *Resources) Has(ctx context.Context, namespace, name string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list, err := api.NewPodResourcesListerClient(r.conn).List(ctx, &api.ListPodResourcesRequest{}, grpc.MaxCallRecvMsgSize(maxAnswer))
	if err != nil {
		return false, fmt.Errorf("ask the kubelet for the resources of pods: %w", err)
	}
	for _, p := range list.PodResources {
		if p.Namespace != namespace || p.Name != name {
			continue
		}
		for _, c := range p.Containers {
			for _, d := range c.Devices {
				if d.ResourceName == r.resource && len(d.DeviceIds) > 0 {
					return true, nil
				}
			}
		}
	}
	return false, nil
}
