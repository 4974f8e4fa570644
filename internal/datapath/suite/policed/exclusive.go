package policed

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/policy"
)

// Between a pod with an ENI of its own and one of its node that shares an ENI, requests go by the node and replies by the VPC, or the
// other way round. Nothing may be opened but what is asked for.
func sharedBeside(t *testing.T, e *env) {
	own := e.pod(e.n0, "own")
	for _, kind := range []string{claims.Route, claims.EBPF} {
		shared := e.start(e.n0.DescribeShared(kind, 1, "4", "6"), kind)
		for _, c := range []struct {
			client, server string
			from, to       *world.Pod
		}{{"own", kind, own, shared}, {kind, "own", shared, own}} {
			t.Run(c.client+" to "+c.server, func(t *testing.T) { between(t, e, c.client, c.server, c.from, c.to) })
		}
		t.Run("Service, "+kind, func(t *testing.T) {
			e.n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Endpoint: own.V4})
			cluster := world.At(world.ClusterIP, 80)
			e.apply(t, outOf(kind, app("own")), into("own", app(kind)), into(kind), outOf("own"))
			reaches(t, shared.NS, cluster, true)
			e.apply(t, outOf(kind))
			reaches(t, shared.NS, cluster, false)
			e.apply(t, into("own"))
			reaches(t, shared.NS, cluster, false)
			e.n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Endpoint: shared.V4})
			e.apply(t, outOf("own", app(kind)), into(kind, app("own")), into("own"), outOf(kind))
			reaches(t, own.NS, cluster, true)
			e.apply(t, outOf("own"))
			reaches(t, own.NS, cluster, false)
			e.apply(t, into(kind))
			reaches(t, own.NS, cluster, false)
		})
	}
}

func between(t *testing.T, e *env, client, server string, from, to *world.Pod) {
	allow := func(more ...policy.AddrSet) {
		t.Helper()
		e.apply(t, outOf(client, app(server)), into(server, append(more, app(client))...), into(client), outOf(server))
	}
	for _, address := range []string{world.At(to.V4, 7), world.At(to.V6, 7)} {
		e.apply(t, outOf(client))
		world.MustNotReach(t, from.NS, address)
		e.apply(t, into(server))
		world.MustNotReach(t, from.NS, address)
		allow()
		var talks []*world.Talking
		for _, network := range []string{"tcp", "udp"} {
			talks = append(talks, world.StartTalk(t, from.NS, network, address))
		}
		for i := range 30 {
			allow(app(fmt.Sprint("other", i)))
		}
		for _, k := range talks {
			k.More(20)
			k.End(t)
		}
		for _, network := range []string{"tcp", "udp"} {
			allow()
			conn, err := from.Dial(network, "", address, world.Patience)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			for range 5 {
				world.Exchanged(t, conn, "allowed")
			}
			e.apply(t, into(server))
			if err := conn.SetDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write([]byte("ping")); err != nil {
				t.Fatal(err)
			}
			if n, err := conn.Read(make([]byte, 4)); err == nil {
				t.Errorf("%s: denied: %d bytes came back", network, n)
			}
		}
	}
}

// What a pod removes from its own ENI is put back, what it puts before it is removed, and both are said.
func programsRemoved(t *testing.T, e *env) {
	p, far := e.pod(e.n0, "own"), e.pod(e.n1, "far")
	e.apply(t, into("own"), outOf("own"))
	closed := func() {
		t.Helper()
		reaches(t, p.NS, world.At(far.V4, 80), false)
		reaches(t, far.NS, world.At(p.V4, 80), false)
	}
	e.n0.Sync(p)
	tc := func(words string) func() error {
		return func() error { p.Run("tc", strings.Fields(words)...); return nil }
	}
	accepts := world.NewOthers(t, 0)
	add := func(parent uint32, pref uint16) func() error {
		return func() error {
			eth0, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return netlink.FilterAdd(&netlink.BpfFilter{
				FilterAttrs: netlink.FilterAttrs{LinkIndex: eth0.Attrs().Index, Parent: parent, Handle: 7, Protocol: unix.ETH_P_ALL, Priority: pref},
				Fd:          accepts.Program.FD(), Name: "others", DirectAction: true,
			})
		}
	}
	const missing, before = "program tw_own is missing", "is before program tw_own"
	for _, c := range []struct {
		name string
		do   func() error
		says string
	}{
		{"remove ingress", tc("filter del dev eth0 ingress"), missing}, {"remove egress", tc("filter del dev eth0 egress"), missing},
		{"remove the qdisc", tc("qdisc del dev eth0 clsact"), missing}, {"before egress", add(netlink.HANDLE_MIN_EGRESS, 1), before},
		{"before ingress, with the same pref", add(netlink.HANDLE_MIN_INGRESS, claims.PrefEBPF), before},
	} {
		cut, says := c.name, c.says
		closed()
		if err := p.Do(c.do); err != nil {
			t.Fatal(err)
		}
		if err := e.n0.DP.CheckPod(t.Context(), e.n0.Desired, p.Spec); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: CheckPod says %v", cut, err)
		}
		repairs, err := e.n0.TrySync(p)
		repairs = slices.DeleteFunc(repairs, func(r string) bool { return !strings.Contains(r, "tw_own") }) // others were behind it
		pods, _, rest := datapath.Sort(err)
		var removed *datapath.Tampered
		if len(repairs) != 1 || rest != nil || len(pods) != 1 || !errors.As(pods[0], &removed) || removed.Of != datapath.OfPolicies {
			t.Errorf("%s: Sync repairs %q and says %v, want that it is back and who has removed it", cut, repairs, err)
		}
		if repairs := e.n0.Sync(p); len(repairs) != 0 {
			t.Errorf("%s: another Sync repairs %q", cut, repairs)
		}
	}
	closed()
}

// A packet with another pod's source, which the VPC drops, is not taken for the begin of a connection of that pod, whose answers would be
// let in.
func forgedOpensNothing(t *testing.T, e *env) {
	own, far := e.pod(e.n0, "own"), e.pod(e.n1, "far")
	victims := map[string]*world.Pod{
		"other": e.pod(e.n0, "other"), claims.Route: e.start(e.n0.DescribeShared(claims.Route, 1, "4", "6"), claims.Route),
	}
	dropped, outbox := e.w.Strict(), far.ListenPacket("udp", world.At(far.V4, 6000))
	for name, victim := range victims {
		e.apply(t, into(name), outOf(name, app("far")))
		inbox := victim.ListenPacket("udp", world.At(victim.V4, 5000))
		send := func(text string) {
			t.Helper()
			if _, err := outbox.WriteTo([]byte(text), inbox.LocalAddr()); err != nil {
				t.Fatal(err)
			}
		}
		own.SendOut(world.Datagram(netip.AddrPortFrom(victim.V4, 5000), netip.AddrPortFrom(far.V4, 6000), []byte("forged")))
		send("denied")
		// The victim's own packet opens it.
		if _, err := inbox.WriteTo([]byte("question"), outbox.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		world.Received(t, outbox, "question")
		send("allowed")
		if strings.Contains(world.Received(t, inbox, "allowed"), "denied") {
			t.Errorf("%s: a forged source let in an answer", name)
		}
	}
	if e.w.Strict() == dropped {
		t.Error("nothing forged left: the test is blind")
	}
}
