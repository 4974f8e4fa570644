package policed

import (
	"fmt"
	stdnet "net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/policy"
)

// A running connection ends with the rules that allowed it, whichever direction denies it, and goes on when they come back.
func runningConnectionIsCut(t *testing.T, e *env) {
	client, near, far := e.pod(e.n0, "client"), e.pod(e.n0, "near"), e.pod(e.n1, "far")
	e.n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Port: 7, Endpoint: near.V4})
	for _, c := range []struct {
		name, to string
		cut      policy.Policy
	}{
		{"pod of the node, egress", world.At(near.V4, 7), outOf("client")},
		{"pod of the node, ingress", world.At(near.V4, 7), into("near")},
		{"pod of the node, IPv6, egress", world.At(near.V6, 7), outOf("client")},
		{"pod of another node, egress", world.At(far.V4, 7), outOf("client")},
		{"pod of another node, ingress", world.At(far.V4, 7), into("far")},
		{"Service, egress", world.At(world.ClusterIP, 7), outOf("client")},
		{"Service, ingress", world.At(world.ClusterIP, 7), into("near")},
		{"own node, egress", world.At(e.n0.V4, 7), outOf("client")},
	} {
		for _, network := range []string{"tcp", "udp"} {
			t.Run(c.name+", "+network, func(t *testing.T) {
				e.apply(t)
				conn, err := client.Dial(network, "", c.to, world.Patience)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				for range 5 {
					world.Exchanged(t, conn, "allowed")
				}
				e.apply(t, c.cut)
				if err := conn.SetDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
					t.Fatal(err)
				}
				if _, err := conn.Write([]byte("ping")); err != nil {
					t.Fatal(err)
				}
				if n, err := conn.Read(make([]byte, 4)); err == nil {
					t.Errorf("denied: %d bytes came back", n)
				}
				e.apply(t)
				if network == "udp" {
					world.Answered(t, conn)
					return
				}
				// TCP sends again what was lost.
				if err := conn.SetDeadline(time.Now().Add(2 * world.Patience)); err != nil {
					t.Fatal(err)
				}
				if _, err := conn.Read(make([]byte, 4)); err != nil {
					t.Errorf("allowed again: %v", err)
				}
			})
		}
	}
}

// An answer on a connection that has been denied in the meantime does not make the one who answers its opener: with that the
// denied end's packets would be answers, and allowed. When both have been silent, either may open one that is allowed to it.
func lateAnswer(t *testing.T, e *env) {
	forgetUDPAfter(t, e.n0, "1")
	forgetUDPAfter(t, e.n1, "1")
	client, near, far := e.pod(e.n0, "client"), e.pod(e.n0, "near"), e.pod(e.n1, "far")
	e.n0.Sync(client, near)
	e.n1.Sync(far)
	for _, c := range []struct {
		name   string
		server *world.Pod
	}{{"near", near}, {"far", far}} {
		t.Run(c.name, func(t *testing.T) {
			e.apply(t)
			ours, theirs := client.ListenPacket("udp", world.At(client.V4, 9)), c.server.ListenPacket("udp", world.At(c.server.V4, 9))
			defer ours.Close()
			world.Send(t, ours, theirs, "question")
			world.Received(t, theirs, "question")
			world.Send(t, theirs, ours, "answer")
			world.Received(t, ours, "answer")
			e.apply(t, into(c.name))
			world.Send(t, ours, theirs, "denied")
			world.Send(t, theirs, ours, "late")
			world.Send(t, ours, theirs, "denied again")
			time.Sleep(1500 * time.Millisecond)
			world.Send(t, theirs, ours, "question of the server")
			if got := world.Received(t, ours, "question of the server"); got != "question of the server" {
				t.Errorf("the client got %q", got)
			}
			world.Send(t, ours, theirs, "answer of the client")
			if got := world.Received(t, theirs, "answer of the client"); got != "answer of the client" {
				t.Errorf("the server got %q", got)
			}
		})
	}
}

// A server answers after a silence, which conntrack has outlived: the answer has the Service's address. The client's packets to the Service
// are no answers of it then, by which they would be translated to any backend without being judged.
func lateAnswerOfService(t *testing.T, e *env) {
	forgetUDPAfter(t, e.n0, "3")
	client, near := e.pod(e.n0, "client"), e.pod(e.n0, "near")
	e.n0.Sync(client, near)
	e.n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Port: 9, Endpoint: near.V4})
	e.apply(t)
	ours, theirs := client.ListenPacket("udp", world.At(client.V4, 9)), near.ListenPacket("udp", world.At(near.V4, 9))
	service := stdnet.UDPAddrFromAddrPort(netip.AddrPortFrom(world.ClusterIP, 9))
	ask := func(text string) {
		t.Helper()
		if _, err := ours.WriteTo([]byte(text), service); err != nil {
			t.Fatal(err)
		}
	}
	ask("question")
	world.Received(t, theirs, "question")
	world.Send(t, theirs, ours, "answer")
	world.Received(t, ours, "answer")
	time.Sleep(2400 * time.Millisecond)
	world.Send(t, theirs, ours, "late answer")
	world.Received(t, ours, "late answer")
	e.apply(t, outOf("client"))
	ask("denied")
	e.apply(t, outOf("client", app("near")))
	ask("allowed")
	if strings.Contains(world.Received(t, theirs, "allowed"), "denied") {
		t.Error("what the client may not send arrived, as an answer to the late one")
	}
}

// The node answers for a Service, with the Service's address. When the Service gets another endpoint, what the client sends to it is judged
// by that one, and is no answer to the node.
func nodeAnswersForService(t *testing.T, e *env) {
	client, near := e.pod(e.n0, "client"), e.pod(e.n0, "near")
	service := world.Service{ClusterIP: world.ClusterIP, Port: 9, Endpoint: e.n0.V4}
	e.n0.KubeProxy(service)
	e.apply(t)
	ours, theirs := client.ListenPacket("udp", world.At(client.V4, 9)), near.ListenPacket("udp", world.At(near.V4, 9))
	node0 := e.n0.ListenPacket("udp", world.At(e.n0.V4, 9))
	ask := func(text string) {
		t.Helper()
		if _, err := ours.WriteTo([]byte(text), stdnet.UDPAddrFromAddrPort(netip.AddrPortFrom(world.ClusterIP, 9))); err != nil {
			t.Fatal(err)
		}
	}
	ask("question")
	world.Received(t, node0, "question")
	world.Send(t, node0, ours, "answer")
	world.Received(t, ours, "answer")
	service.Endpoint = near.V4
	e.n0.KubeProxy(service)
	// As kube-proxy does when an endpoint for UDP is gone.
	if err := e.n0.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) }); err != nil {
		t.Fatal(err)
	}
	e.apply(t, outOf("client", node(0)))
	ask("denied")
	e.apply(t, outOf("client", node(0), app("near")))
	ask("allowed")
	if strings.Contains(world.Received(t, theirs, "allowed"), "denied") {
		t.Error("what the client may not send arrived, as an answer to the node")
	}
}

// No packet of an allowed connection is lost while rules change 200 times.
func allowedConnectionSurvives(t *testing.T, e *env) {
	client, near, far := e.pod(e.n0, "client"), e.pod(e.n0, "near"), e.pod(e.n1, "far")
	e.n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Port: 7, Endpoint: far.V4})
	allow := []policy.Policy{outOf("client", app("near"), app("far")), into("near", app("client")), into("far", app("client"))}
	e.apply(t, allow...)
	var talks []*world.Talking
	for _, network := range []string{"tcp", "udp"} {
		for _, to := range []string{world.At(near.V4, 7), world.At(near.V6, 7), world.At(far.V4, 7), world.At(world.ClusterIP, 7)} {
			talks = append(talks, world.StartTalk(t, client.NS, network, to))
		}
	}
	for _, k := range talks {
		k.More(20)
	}
	for i := range 200 {
		e.apply(t, append([]policy.Policy{outOf(fmt.Sprint("nobody", i)), into("near", app("client"), app(fmt.Sprint("other", i)))}, allow[0], allow[2])...)
	}
	for _, k := range talks {
		k.End(t)
	}
}

// forget empties a node's tables of connections.
func (e *env) forget(t *testing.T, n *world.Node) {
	t.Helper()
	if err := n.DP.(*Node).evict(); err != nil {
		t.Fatal(err)
	}
}

// Whoever sends first after a connection was forgotten is not taken for its opener.
func serverGoesOn(t *testing.T, e *env) {
	client := e.pod(e.n0, "client")
	for _, c := range []struct {
		name   string
		server *world.Pod
	}{{"near", e.pod(e.n0, "near")}, {"far", e.pod(e.n1, "far")}} {
		for _, a := range []netip.Addr{c.server.V4, c.server.V6} {
			e.apply(t, outOf("client", app(c.name)), into("client"))
			l := c.server.Listen("tcp", world.At(a, 9))
			ours, err := client.Dial("tcp", "", world.At(a, 9), world.Patience)
			if err != nil {
				t.Fatal(err)
			}
			defer ours.Close()
			theirs, err := world.Accept(l)
			if err != nil {
				t.Fatal(err)
			}
			defer theirs.Close()
			for range 3 {
				world.Exchange(t, ours, theirs)
				e.forget(t, e.n0)
				for range 3 {
					world.Exchange(t, theirs, ours)
				}
			}
		}
	}
}

// A pod that may open nothing answers the node, and is the first to send after a connection was forgotten.
func nodeGoesOn(t *testing.T, e *env) {
	p := e.pod(e.n0, "closed")
	e.apply(t, into("closed"), outOf("closed"))
	for _, a := range []netip.Addr{p.V4, p.V6} {
		l := p.Listen("tcp", world.At(a, 9))
		ours, err := e.n0.Dial("tcp", "", world.At(a, 9), world.Patience)
		if err != nil {
			t.Fatal(err)
		}
		defer ours.Close()
		theirs, err := world.Accept(l)
		if err != nil {
			t.Fatal(err)
		}
		defer theirs.Close()
		world.Exchange(t, ours, theirs)
		e.forget(t, e.n0)
		world.Exchange(t, theirs, ours)
	}
}

// A pod whose device was made anew goes on with its sockets.
func deviceMadeAnew(t *testing.T, e *env) {
	client, far := e.pod(e.n0, "client"), e.pod(e.n1, "far")
	e.apply(t, outOf("client", app("far")), into("client"))
	conn := world.Established(t, client, far.V4)
	client.Del()
	e.n0.Settle()
	client.Add()
	e.apply(t, outOf("client", app("far")), into("client"), into("other"))
	world.Answered(t, conn)
}

// After a silence the other end of a connection without a handshake may not send first.
func silentConnectionIsNone(t *testing.T, e *env) {
	forgetUDPAfter(t, e.n0, "1")
	client, far := e.pod(e.n0, "client"), e.pod(e.n1, "far")
	e.n0.Sync(client)
	e.apply(t, outOf("client", app("far")), into("client"))
	ours, theirs := client.ListenPacket("udp", world.At(client.V4, 9)), far.ListenPacket("udp", world.At(far.V4, 9))
	exchange := func(question, answer string) string {
		world.Send(t, ours, theirs, question)
		world.Received(t, theirs, question)
		world.Send(t, theirs, ours, answer)
		return world.Received(t, ours, answer)
	}
	exchange("question", "answer")
	time.Sleep(1500 * time.Millisecond)
	world.Send(t, theirs, ours, "unasked")
	time.Sleep(100 * time.Millisecond) // it is not to meet the next question
	if strings.Contains(exchange("question again", "answer again"), "unasked") {
		t.Error("what nobody had asked for arrived")
	}
}
