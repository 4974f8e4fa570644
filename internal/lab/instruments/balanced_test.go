package instruments

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/vpcsim/state"
)

// A load balancer is found by the address of a Service's status, or by the name in its domain; of
// several addresses it is the public one, or the private one.
func TestFindBalancer(t *testing.T) {
	addr := netip.MustParseAddr
	all := []state.Balancer{
		{LoadBalancerId: "lb-1", Addresses: []state.BalancerAddress{{Address: addr("192.168.0.9")}}},
		{LoadBalancerId: "nlb-2", Addresses: []state.BalancerAddress{{Address: addr("192.168.0.10")}, {Address: addr("198.51.100.1"), Public: true}}},
		{LoadBalancerId: "lb-3"},
	}
	for _, c := range []struct {
		at     corev1.LoadBalancerIngress
		public bool
		id, to string
	}{
		{corev1.LoadBalancerIngress{IP: "192.168.0.9"}, false, "lb-1", "192.168.0.9:80"},
		{corev1.LoadBalancerIngress{IP: "192.168.0.9"}, true, "", ""},
		{corev1.LoadBalancerIngress{Hostname: "nlb-2.cn-hangzhou.nlb.aliyuncs.com"}, false, "nlb-2", "192.168.0.10:80"},
		{corev1.LoadBalancerIngress{Hostname: "nlb-2.cn-hangzhou.nlb.aliyuncs.com"}, true, "nlb-2", "198.51.100.1:80"},
		{corev1.LoadBalancerIngress{Hostname: "nlb-20.cn-hangzhou.nlb.aliyuncs.com"}, true, "", ""},
		{corev1.LoadBalancerIngress{}, false, "", ""},
	} {
		b := &Balanced{}
		to := ""
		if found := b.find(all, c.at, c.public); found {
			to = b.To.String()
		}
		if b.ID != c.id || to != c.to {
			t.Errorf("%+v, public %v: %s at %s, want %s at %s", c.at, c.public, b.ID, to, c.id, c.to)
		}
	}
}

// Backends get new connections if the health checks and their weight let them.
func TestTaking(t *testing.T) {
	backend := func(address string, weight int, health state.Health) state.BalancerBackend {
		return state.BalancerBackend{Address: netip.MustParseAddr(address), Port: HTTPPort, Weight: weight, BackendVerdict: state.BackendVerdict{Health: health}}
	}
	lb := &state.Balancer{Listeners: []state.BalancerListener{{HealthCheck: &state.BalancerHealthCheck{}, Backends: []state.BalancerBackend{
		backend("192.168.32.1", 100, state.Healthy), backend("192.168.32.2", 0, state.Healthy), backend("192.168.32.3", 100, state.Unhealthy), backend("192.168.32.4", 100, ""),
	}}}}
	got := Taking(lb)
	if want := netip.MustParseAddrPort("192.168.32.1:8080"); len(got) != 1 || !got[want] {
		t.Errorf("%v, want %v", got, want)
	}
	lb.Listeners[0].HealthCheck = nil
	if got := Taking(lb); len(got) != 3 {
		t.Errorf("without checks: %v, want the three with a weight", got)
	}
}
