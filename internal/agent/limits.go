package agent

import (
	"fmt"

	"github.com/containernetworking/cni/pkg/types"

	"terway.dev/terway/internal/agent/request"
	"terway.dev/terway/internal/bandwidth"
)

// limitsOf returns the limits of a new pod's bandwidth, nil if it has none. A pod with a wrong value,
// which was created while no webhook answered, gets no network.
func limitsOf(r *request.Request) (*bandwidth.Limits, error) {
	l, err := bandwidth.Of(r.Annotations)
	if err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("pod %s/%s: %v", r.Namespace, r.Name, err), "")
	}
	if l == (bandwidth.Limits{}) {
		return nil, nil
	}
	return &l, nil
}
