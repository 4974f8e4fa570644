package suite

import (
	"fmt"
	"net/netip"
	"testing"

	"terway.dev/terway/internal/datapath/suite/world"
)

// A client uses the same source port for an endpoint and for a Service with that endpoint, in turn:
// each connection is distinct, though all look the same to the endpoint.
func onePortForServiceAndEndpoint(t *testing.T, k world.Kit) {
	// Conntrack distinguishes them too while it has the entries, and no longer.
	for _, forget := range []bool{false, true} {
		t.Run(fmt.Sprintf("conntrack forgets: %v", forget), func(t *testing.T) { onePort(t, k, forget) })
	}
}

func onePort(t *testing.T, k world.Kit, forget bool) {
	_, n0, n1 := world.ServicesWorld(t, k)
	client, near, far := n0.AddPod(1, "4", "6"), n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	for _, endpoint := range []*world.Pod{near, far} {
		world.Serve(endpoint.NS, world.At(endpoint.V4, 80))
		world.Serve(endpoint.NS, world.At(endpoint.V6, 80))
		n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Endpoint: endpoint.V4}, world.Service{ClusterIP: world.ClusterIP6, Endpoint: endpoint.V6})
		for range 2 {
			for _, c := range []struct {
				source string
				to     []string
			}{
				{world.At(client.V4, 40001), []string{world.At(endpoint.V4, 80), world.At(world.ClusterIP, 80)}},
				{world.At(client.V6, 40001), []string{world.At(endpoint.V6, 80), world.At(world.ClusterIP6, 80)}},
			} {
				for _, to := range c.to {
					world.AskFrom(t, client.NS, c.source, to, endpoint.NS)
					if forget {
						n0.Forget()
					}
				}
			}
		}
	}
}

// Two connections at the same time from one client port, to an endpoint and to a Service with that
// endpoint: conntrack gives one of them another port towards the endpoint.
func onePortAtTheSameTime(t *testing.T, k world.Kit) {
	_, n0, n1 := world.ServicesWorld(t, k)
	client, near, far := n0.AddPod(1, "4", "6"), n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	for i, endpoint := range []*world.Pod{near, far} {
		endpoint.Echo(7)
		n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Port: 7, Endpoint: endpoint.V4}, world.Service{ClusterIP: world.ClusterIP6, Port: 7, Endpoint: endpoint.V6})
		for j, c := range []struct {
			source netip.Addr
			to     []netip.Addr
		}{
			{client.V4, []netip.Addr{endpoint.V4, world.ClusterIP}}, {client.V4, []netip.Addr{world.ClusterIP, endpoint.V4}},
			{client.V6, []netip.Addr{endpoint.V6, world.ClusterIP6}}, {client.V6, []netip.Addr{world.ClusterIP6, endpoint.V6}},
		} {
			port := 41000 + 10*i + j
			var talks []*world.Talking
			for _, to := range c.to {
				k := world.StartTalkFrom(t, client.NS, world.At(c.source, port), world.At(to, 7))
				k.More(20)
				talks = append(talks, k)
			}
			for _, k := range talks {
				k.More(20)
			}
			for _, k := range talks {
				k.End(t)
			}
		}
	}
}

// An address of the VPC becomes a Service and stops being one: the next connection, and UDP after a
// while, follows the current state.
func serviceAtAnAddressOfTheVPC(t *testing.T, k world.Kit) {
	_, n0, n1 := world.ServicesWorld(t, k)
	client, holder, near, far := n0.AddPod(1), world.Serving(n1.AddPod(1)), world.Serving(n0.AddPod(1)), world.Serving(n1.AddPod(1))
	to := world.At(holder.V4, 80)
	world.MustReach(t, client.NS, to, holder.NS, client.V4)
	for _, endpoint := range []*world.Pod{near, far} {
		n0.KubeProxy(world.Service{ClusterIP: holder.V4, Endpoint: endpoint.V4})
		world.MustReach(t, client.NS, to, endpoint.NS, client.V4)
	}
	n0.KubeProxy()
	world.MustReach(t, client.NS, to, holder.NS, client.V4)
	// An address that no device in the VPC has.
	n0.KubeProxy(world.Service{ClusterIP: world.VirtualIP, Endpoint: near.V4})
	world.MustReach(t, client.NS, world.At(world.VirtualIP, 80), near.NS, client.V4)
}

// Services of both families, TCP and UDP, with a local and a remote endpoint, with connections long
// enough for packets after the first to take another path.
func servicesOfBothFamilies(t *testing.T, k world.Kit) {
	w, n0, n1 := world.ServicesWorld(t, k)
	client, near, far := n0.AddPod(1, "4", "6"), n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	for _, endpoint := range []*world.Pod{near, far, client} {
		for _, local := range []bool{false, true} {
			if local && endpoint == far {
				continue
			}
			n0.KubeProxy(
				world.Service{ClusterIP: world.ClusterIP, Port: 7, NodePort: 30007, Local: local, Endpoint: endpoint.V4},
				world.Service{ClusterIP: world.ClusterIP6, Port: 7, NodePort: 30007, Local: local, Endpoint: endpoint.V6})
			name := fmt.Sprintf("endpoint %s, local %v", endpoint.Name, local)
			t.Run(name, func(t *testing.T) {
				for _, address := range []string{world.At(endpoint.V4, 7), world.At(endpoint.V6, 7)} {
					l := endpoint.ListenPacket("udp", address)
					defer l.Close()
					go world.Reflect(l)
					tcp := endpoint.Listen("tcp", address)
					defer tcp.Close()
					go world.AcceptAll(tcp)
				}
				var talks []*world.Talking
				for _, network := range []string{"tcp", "udp"} {
					talks = append(talks,
						world.StartTalk(t, client.NS, network, world.At(world.ClusterIP, 7)), world.StartTalk(t, client.NS, network, world.At(world.ClusterIP6, 7)),
						world.StartTalk(t, n0.NS, network, world.At(world.ClusterIP, 7)),
						world.StartTalk(t, w.Outside, network, world.At(n0.V4, 30007)), world.StartTalk(t, w.Outside, network, world.At(n0.V6, 30007)))
					if !local {
						talks = append(talks, world.StartTalk(t, far.NS, network, world.At(n0.V4, 30007)))
					}
				}
				for _, k := range talks {
					k.More(20)
				}
				for _, k := range talks {
					k.End(t)
				}
			})
		}
	}
}
