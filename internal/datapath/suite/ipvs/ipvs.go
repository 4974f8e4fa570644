// Package ipvs is what a datapath must do where kube-proxy runs in ipvs mode. It is no part of package
// suite's table, for few kernels have IPVS: it needs one, and the program ipvsadm.
//
// Only tests import it.
package ipvs

import (
	"net/netip"
	"testing"

	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/testutil"
)

// Run is all of it as subtests.
func Run(t *testing.T, k world.Kit) {
	t.Run("into the node", func(t *testing.T) { intoTheNode(t, k) })
	t.Run("pod to Service", func(t *testing.T) { podToService(t, k) })
	t.Run("node to Service and hairpin", func(t *testing.T) { nodeAndHairpin(t, k) })
}

// services are one for whoever asks who it is, and one for long talks.
func services(endpoint *world.Pod, local, masqAll bool) []world.Service {
	return []world.Service{
		{ClusterIP: world.ClusterIP, Port: 80, NodePort: 30080, Local: local, Endpoint: endpoint.V4, MasqAll: masqAll},
		{ClusterIP: world.ClusterIP, Port: 7, NodePort: 30007, Local: local, Endpoint: endpoint.V4, MasqAll: masqAll},
	}
}

// reaches says who answers, and whom it sees, and that connections go on after their first
// packets.
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

// Replies of pods leave as the node, by eth0, though conntrack says of them what it says of
// untranslated ones.
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
			seen := c.Seen
			if k.Exclusive {
				seen = n0.V4 // the answer must come back through the node
			}
			n0.KubeProxyIPVS(services(c.Endpoint, false, c.MasqAll)...)
			reaches(t, client.NS, world.ClusterIP, 80, 7, c.Endpoint, seen)
			// The endpoint itself, by the same path, is another connection.
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
