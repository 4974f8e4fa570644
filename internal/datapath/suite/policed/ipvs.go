package policed

import (
	"testing"

	"terway.dev/terway/internal/datapath/suite/world"
)

// RunIPVS runs the paths by Services with kube-proxy in ipvs mode as subtests. Few kernels have IPVS, so Run does without.
func RunIPVS(t *testing.T, k world.Kit, make Make) {
	e := newEnv(t, k, make)
	n0, n1 := e.n0, e.n1
	client, near, far, remote := e.pod(n0, "client"), e.pod(n0, "near"), e.pod(n1, "far"), e.pod(n1, "remote")
	e.pod(n1, "other")
	proxy := func(s world.Service) {
		s.ClusterIP, s.NodePort = world.ClusterIP, 30080
		n0.KubeProxyIPVS(s)
	}
	cluster, nodePort := world.At(world.ClusterIP, 80), world.At(n0.V4, 30080)
	for _, c := range world.FromPods(n0, client, near, far) {
		t.Run("Service, "+c.Name, func(t *testing.T) {
			proxy(world.Service{Endpoint: c.Endpoint.V4, MasqAll: c.MasqAll})
			server := e.labels[c.Endpoint.Spec.Name]["app"]
			backend := app(server)
			e.judge(t, path{from: client.NS, to: cluster, backend: &backend, server: server, seen: net(c.Seen.String() + "/32")})
		})
	}
	for _, c := range world.IntoNodes(e.w, n0, n1, near, far, remote) {
		t.Run("NodePort, "+c.Name, func(t *testing.T) {
			proxy(world.Service{Endpoint: c.Endpoint.V4, Local: c.Local})
			e.judge(t, path{from: c.From, to: nodePort, server: e.labels[c.Endpoint.Spec.Name]["app"], seen: e.byNode(net(c.Seen.String() + "/32"))})
		})
	}
	t.Run("Service, endpoint is a process of the node", func(t *testing.T) {
		proxy(world.Service{Port: 8080, Endpoint: n0.V4})
		to, service := world.At(world.ClusterIP, 8080), net(world.ClusterIP.String()+"/32")
		e.judge(t, path{from: client.NS, to: to, backend: &service})
		e.apply(t, outOf("client", node(0)))
		reaches(t, client.NS, to, false)
	})
}
