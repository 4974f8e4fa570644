// Package ipvs tests a datapath with kube-proxy in ipvs mode. It is not part of package suite's
// table, because few kernels have IPVS: it needs such a kernel, and the program ipvsadm.
//
// Only tests import it.
package ipvs

import (
	"net/netip"
	"testing"

	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/testutil"
)

// Run runs all of it as subtests.
func Run(t *testing.T, k world.Kit) {
	t.Run("into the node", func(t *testing.T) { intoTheNode(t, k) })
	t.Run("pod to Service", func(t *testing.T) { podToService(t, k) })
	t.Run("node to Service and hairpin", func(t *testing.T) { nodeAndHairpin(t, k) })
}

// services returns a Service for short requests, and one for long connections.
func services(endpoint *world.Pod, local, masqAll bool) []world.Service {
	return []world.Service{
		{ClusterIP: world.ClusterIP, Port: 80, NodePort: 30080, Local: local, Endpoint: endpoint.V4, MasqAll: masqAll},
		{ClusterIP: world.ClusterIP, Port: 7, NodePort: 30007, Local: local, Endpoint: endpoint.V4, MasqAll: masqAll},
	}
}

// reaches checks which endpoint answers, which client address it sees, and that connections
// continue after their first packets.
func reaches(t *testing.T, from *testutil.NS, to netip.Addr, who, talk int, endpoint *world.Pod, seen netip.Addr) {
	t.Helper()
	world.MustReach(t, from, world.At(to, who), endpoint.NS, seen)
	if !t.Failed() {
		world.Talk(t, from, "tcp", world.At(to, talk), 20)
		world.Talk(t, from, "udp", world.At(to, talk), 20)
	}
}

func newWorld(t *testing.T, k world.Kit) (w *world.World, n0, n1 *world.Node, near, far *world.Pod) {
	w, n0, n1 = world.ServicesWorld(t, k)
	near, far = world.Serving(n0.AddPod(1)), world.Serving(n1.AddPod(1))
	near.Echo(7)
	far.Echo(7)
	return w, n0, n1, near, far
}

// Replies of pods leave with the node's address, by eth0, though conntrack shows the connections as
// untranslated.
func intoTheNode(t *testing.T, k world.Kit) {
	w, n0, n1, near, far := newWorld(t, k)
	w.Assign(n0, 0, world.VirtualIP)
	for _, c := range world.IntoNodes(w, n0, n1, near, far, n1.AddPod(1)) {
		t.Run(c.Name, func(t *testing.T) {
			if k.Exclusive && c.Endpoint == near {
				c.Seen = n0.V4 // the answer must come back through the node
			}
			n0.KubeProxyIPVS(services(c.Endpoint, c.Local, false)...)
			reaches(t, c.From, n0.V4, 30080, 30007, c.Endpoint, c.Seen)
			reaches(t, c.From, world.VirtualIP, 80, 7, c.Endpoint, c.Seen)
		})
	}
}

func podToService(t *testing.T, k world.Kit) {
	_, n0, _, near, far := newWorld(t, k)
	client := n0.AddPod(1)
	for _, c := range world.FromPods(n0, client, near, far) {
		t.Run(c.Name, func(t *testing.T) {
			n0.KubeProxyIPVS(services(c.Endpoint, false, c.MasqAll)...)
			reaches(t, client.NS, world.ClusterIP, 80, 7, c.Endpoint, c.Seen)
			// A direct connection to the endpoint, on the same path, is another connection.
			world.MustReach(t, client.NS, world.At(c.Endpoint.V4, 80), c.Endpoint.NS, client.V4)
		})
	}
}

func nodeAndHairpin(t *testing.T, k world.Kit) {
	_, n0, _, near, far := newWorld(t, k)
	for _, endpoint := range []*world.Pod{near, far} {
		n0.KubeProxyIPVS(services(endpoint, false, false)...)
		reaches(t, n0.NS, world.ClusterIP, 80, 7, endpoint, n0.V4)
	}
	n0.KubeProxyIPVS(services(near, false, false)...)
	world.MustReach(t, near.NS, world.At(world.ClusterIP, 80), near.NS, n0.V4)
}
