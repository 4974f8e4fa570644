package agent

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"terway.dev/terway/internal/agent/request"
	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/cnicall"
)

// limited is the call for a pod with annotations.
func limited(t *testing.T, sandbox string, annotations map[string]string) cnicall.Request {
	t.Helper()
	config, err := json.Marshal(map[string]any{
		"cniVersion": "1.1.0", "name": "terway", "type": "terway",
		"runtimeConfig": map[string]any{request.CapabilityAnnotations: annotations},
	})
	if err != nil {
		t.Fatal(err)
	}
	in := call(sandbox)
	in.Config = config
	return in
}

// The datapath gets a pod's limits, after a restart of the agent too.
func TestLimitsReachTheDatapath(t *testing.T) {
	e := newEnv(t, 3)
	add := func(sandbox string, annotations map[string]string) *bandwidth.Limits {
		t.Helper()
		if r := e.do(context.Background(), "ADD", limited(t, sandbox, annotations)); r.Error != nil {
			t.Fatal(r.Error)
		}
		return e.dp.wired[sandbox].Limits
	}
	if got := add("a", map[string]string{bandwidth.Ingress: "10M", bandwidth.EgressBytes: "1m"}); got == nil || *got != (bandwidth.Limits{Ingress: 1e7, Egress: 8 << 20}) {
		t.Errorf("limits %v", got)
	}
	if got := add("b", map[string]string{"other": "x"}); got != nil {
		t.Errorf("a pod without the annotations has limits %v", got)
	}
	e.restart()
	if got := PodOf(e.a.lookup(e.key("a"))).Limits; got == nil || *got != (bandwidth.Limits{Ingress: 1e7, Egress: 8 << 20}) {
		t.Errorf("limits %v after a restart", got)
	}
}

// A pod with a wrong value does not start without a limit.
func TestAWrongLimitIsRefused(t *testing.T) {
	e := newEnv(t, 1)
	r := e.do(context.Background(), "ADD", limited(t, "a", map[string]string{bandwidth.Egress: "10m"}))
	if !says(r.Error, types.ErrInvalidNetworkConfig, "pod default/pod-a: annotation kubernetes.io/egress-bandwidth: \"10m\"") || !strings.Contains(r.Error.Msg, "such as") {
		t.Errorf("error %v", r.Error)
	}
	if len(e.dp.wired) != 0 {
		t.Error("the pod was wired")
	}
	if _, err := e.add("b"); err != nil {
		t.Errorf("the address was not given back: %v", err)
	}
}
