package exclusive

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/featuretest"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/suite"
	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/testutil"
)

// kit is a node with both kinds of pods; by default a test's pods share ENIs.
var kit = world.Kit{
	Kind: claims.Route,
	New:  func(o world.Options) (world.Subject, error) { return newSubject(o) },
}

func newSubject(o world.Options, features ...node.Feature) (world.Subject, error) {
	return node.New(node.Options{NetNS: o.NetNS, Log: o.Log, Kinds: []node.Kind{New(), node.Plain{KindName: claims.Route}}, Features: features})
}

// exclusiveKit is kit with pods that have an ENI each.
func exclusiveKit() world.Kit {
	k := kit
	k.Kind, k.Exclusive = claims.Exclusive, true
	return k
}

// A feature has its objects on pods of this kind.
func TestFeature(t *testing.T) {
	featuretest.Run(t, exclusiveKit(), func(o world.Options, f node.Feature) (world.Subject, error) { return newSubject(o, f) })
}

// The suite's table, with pods that have an exclusive ENI.
func TestSuite(t *testing.T) {
	const (
		vpc     = "pods talk through the VPC, which takes the node's place in it"
		client  = "a port of the node shows its pod the node as the client: the answer must come back through it (TestServices)"
		devices = "the ENIs plugged in for the pods stay on the node (TestDelBringsTheENIBack, TestConcurrentPods)"
		shared  = "about ENIs that pods share"
	)
	k := exclusiveKit()
	k.Except = map[string]string{
		"pods of one node talk without leaving it":    vpc,
		"a spoofed source is dropped in the node":     vpc,
		"a spoofed connection is dropped in the node": vpc,
		"a deleted pod is unreachable at once":        vpc,
		"sources are checked without nftables":        "by the veth, nothing else knows the pods' sources",
		suite.FloodStallsNobody:                       "it remembers no connection",
		"masquerade outside":                          vpc,
		"FORWARD drops by policy":                     vpc,
		"a chain of others drops":                     vpc,
		"a smaller MTU of another pod":                vpc,
		"the node is one hop":                         vpc,
		"Service at an address of the VPC":            vpc,

		"NodePort": client,
		"hostPort": client,

		"nothing of others is touched and nothing is left": devices,
		"concurrent pods":          devices,
		"DelPod tolerates absence": devices,
		"AddPod refuses":           devices + "; TestAddRefuses",

		"MTU of the ENI":                     shared,
		"a stranded pod":                     shared,
		"a vanished ENI is unreachable":      shared,
		"a silent gateway is unreachable":    shared,
		"AddPod with another list of ENIs":   shared,
		"address reuse":                      "an address goes with its ENI, and that with one pod at a time",
		"each piece is noticed and repaired": shared + "; TestRepair",
	}
	suite.Run(t, k)
}

// twoNodes returns two nodes; eth1 of each is shared, eth2 and eth3 are exclusive.
func twoNodes(t *testing.T) (w *world.World, n0, n1 *world.Node) {
	w = kit.NewWorld(t, 2, 3)
	for _, n := range w.Nodes {
		n.Desired.ENIs = n.Desired.ENIs[:1]
		n.KubeProxy() // before the agent
		n.Sync()
	}
	return w, w.Nodes[0], w.Nodes[1]
}

// describe prepares a pod that is to get eth<e> as its exclusive ENI.
func describe(n *world.Node, e int) *world.Pod {
	p := n.Describe(e, "4", "6")
	eni := n.ENI(e)
	eni.Device = ""
	p.Spec.Exclusive, p.Spec.Kind = &eni, claims.Exclusive
	return p
}

func add(n *world.Node, e int) *world.Pod {
	p := describe(n, e)
	p.Add()
	return p
}

func serving(p *world.Pod) *world.Pod {
	world.Serve(p.NS, world.At(p.V4, 80))
	world.Serve(p.NS, world.At(p.V6, 80))
	return p
}

func TestTheENIIsThePods(t *testing.T) {
	_, n0, _ := twoNodes(t)
	p := add(n0, 2)
	if out := p.IP("-o link show eth0"); !strings.Contains(out, n0.MAC(2).String()) {
		t.Errorf("eth0 of the pod is not the ENI: %s", out)
	}
	if out := n0.IP("-o link show"); strings.Contains(out, n0.MAC(2).String()) {
		t.Errorf("the ENI is still on the node: %s", out)
	}
	if w := p.Wiring; w.PodMAC.String() != n0.MAC(2).String() || w.MTU != 1500 || len(w.Gateways) != 2 || w.HostIfName == "" {
		t.Errorf("wiring %+v", w)
	}
}

func TestEveryoneReachesIt(t *testing.T) {
	w, n0, n1 := twoNodes(t)
	own, near, far := serving(add(n0, 2)), serving(add(n0, 3)), serving(add(n1, 2))
	shared, farShared := serving(n0.AddPod(1, "4", "6")), serving(n1.AddPod(1, "4", "6"))
	for _, n := range []*world.Node{n0, n1} {
		world.Serve(n.NS, world.At(n.V4, 8080))
		world.Serve(n.NS, world.At(n.V6, 8080))
	}
	for _, to := range []*world.Pod{near, far, shared, farShared} {
		world.MustReach(t, own.NS, world.At(to.V4, 80), to.NS, own.V4)
		world.MustReach(t, own.NS, world.At(to.V6, 80), to.NS, own.V6)
		world.MustReach(t, to.NS, world.At(own.V4, 80), own.NS, to.V4)
		world.MustReach(t, to.NS, world.At(own.V6, 80), own.NS, to.V6)
	}
	for _, n := range []*world.Node{n0, n1} {
		world.MustReach(t, n.NS, world.At(own.V4, 80), own.NS, n.V4)
		world.MustReach(t, n.NS, world.At(own.V6, 80), own.NS, n.V6)
		world.MustReach(t, own.NS, world.At(n.V4, 8080), n.NS, own.V4)
		world.MustReach(t, own.NS, world.At(n.V6, 8080), n.NS, own.V6)
	}
	world.Serve(w.Outside, world.OutsideV4+":80")
	world.MustReach(t, own.NS, world.OutsideV4+":80", w.Outside, own.V4)
	if got := w.Strict(); got != 0 {
		t.Errorf("the VPC dropped %d packets with a source on the wrong ENI", got)
	}
}

// Traffic between node and pod stays on the node.
func TestTheNodeReachesItWithoutTheVPC(t *testing.T) {
	w, n0, _ := twoNodes(t)
	own := serving(add(n0, 2))
	world.Serve(n0.NS, world.At(n0.V4, 8080))
	before := w.Crossed()
	world.MustReach(t, n0.NS, world.At(own.V4, 80), own.NS, n0.V4)
	world.MustReach(t, own.NS, world.At(n0.V4, 8080), n0.NS, own.V4)
	if after := w.Crossed(); after != before {
		t.Errorf("%d packets crossed the VPC", after-before)
	}
}

func TestServices(t *testing.T) {
	w, n0, n1 := twoNodes(t)
	own, near, far := serving(add(n0, 2)), serving(add(n0, 3)), serving(add(n1, 2))
	shared, farShared := serving(n0.AddPod(1, "4", "6")), serving(n1.AddPod(1, "4", "6"))
	ip := world.At(world.ClusterIP, 80)
	for _, c := range []struct {
		name     string
		from, to *world.Pod
		seen     netip.Addr
	}{
		// What continues from the node turns around, and leaves by the pod's ENI.
		{"own to a pod elsewhere", own, far, own.V4},
		{"own to a shared pod elsewhere", own, farShared, own.V4},
		{"own to an own pod of the node", own, near, own.V4},
		{"own to a shared pod of the node", own, shared, own.V4},
		{"own to itself", own, own, n0.V4},
		{"shared to an own pod of the node", shared, own, shared.V4},
		{"shared to an own pod elsewhere", shared, far, shared.V4},
	} {
		t.Run(c.name, func(t *testing.T) {
			n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, NodePort: 30080, Endpoint: c.to.V4})
			world.MustReach(t, c.from.NS, ip, c.to.NS, c.seen)
		})
	}
	t.Run("node to an own pod", func(t *testing.T) {
		n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, NodePort: 30080, Endpoint: own.V4})
		world.MustReach(t, n0.NS, ip, own.NS, n0.V4)
	})
	for _, c := range []struct {
		name  string
		local bool
		from  *testutil.NS
	}{
		{"NodePort from outside", false, w.Outside}, {"NodePort Local from outside", true, w.Outside},
		{"NodePort Local from a node", true, n1.NS}, {"NodePort Local from a pod elsewhere", true, farShared.NS},
		{"NodePort Local from an own pod elsewhere", true, far.NS}, {"NodePort from an own pod of the node", false, near.NS},
	} {
		t.Run(c.name, func(t *testing.T) {
			n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, NodePort: 30080, Local: c.local, Endpoint: own.V4})
			world.MustReach(t, c.from, world.At(n0.V4, 30080), own.NS, n0.V4)
		})
	}
}

func TestDelBringsTheENIBack(t *testing.T) {
	_, n0, n1 := twoNodes(t)
	client := n1.AddPod(1)
	before := world.DumpStable(n0)
	p := serving(add(n0, 2))
	world.MustReach(t, client.NS, world.At(p.V4, 80), p.NS, client.V4)
	p.Del()
	p.Del()
	world.MustNotReach(t, client.NS, world.At(p.V4, 80))
	n0.Settle()
	out := n0.IP("-o link show " + nodeName(n0.MAC(2)))
	if !strings.Contains(out, n0.MAC(2).String()) || strings.Contains(out, "state UP") {
		t.Errorf("the ENI on the node: %s", out)
	}
	n0.IP("link set " + nodeName(n0.MAC(2)) + " name eth2")
	if diff := world.Difference(before, world.DumpStable(n0)); diff != "" {
		t.Errorf("the pod left something behind:\n%s", diff)
	}
	// The next pod gets the ENI, whatever its name is now.
	n0.IP("link set eth2 name whatever")
	next := serving(add(n0, 2))
	world.MustReach(t, client.NS, world.At(next.V4, 80), next.NS, client.V4)
}

// The node may have the devices of many pods: a card that was seen once is found without a list of
// them, under any name, also after its return.
func TestTheENIIsFoundAmongMany(t *testing.T) {
	k := kit
	var kind Kind
	k.New = func(o world.Options) (world.Subject, error) {
		kind = New().(Kind)
		return node.New(node.Options{NetNS: o.NetNS, Log: o.Log, Kinds: []node.Kind{kind, node.Plain{KindName: claims.Route}}})
	}
	n := k.NewWorld(t, 1, 2).Nodes[0]
	n.Desired.ENIs = n.Desired.ENIs[:1]
	n.Sync()
	listed, list := 0, kind.cards.list
	kind.cards.list = func(ctx context.Context, h *netlink.Handle) ([]netlink.Link, error) {
		listed++
		return list(ctx, h)
	}
	n.IP("link set eth2 name whatever")
	p := describe(n, 2)
	for _, name := range []string{"whatever", nodeName(n.MAC(2))} {
		if out := n.IP("-o link show"); !strings.Contains(out, name+"@") {
			t.Fatalf("no %s: %s", name, out)
		}
		p.Add()
		p.Del()
	}
	if listed != 0 {
		t.Errorf("all devices of the node were listed %d times", listed)
	}
	// Another device has its index now, and the card has another: it is searched.
	kind.cards.note([]netlink.Link{&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "x", HardwareAddr: n.MAC(2), Index: 1}}})
	n.IP("link set " + nodeName(n.MAC(2)) + " name eth2")
	p.Add()
	if listed != 1 {
		t.Errorf("all devices were listed %d times, want once", listed)
	}
	p.Del()
}

// A pod with NET_ADMIN can change the MAC of its ENI; the node must not lose the ENI because of
// that.
func TestDelBringsAnENIWithAnotherMACBack(t *testing.T) {
	_, n0, n1 := twoNodes(t)
	client, p := n1.AddPod(1), add(n0, 2)
	p.IP("link set eth0 address 02:00:00:00:00:02")
	p.Del()
	if out := n0.IP("-o link show"); !strings.Contains(out, n0.MAC(2).String()) {
		t.Fatalf("the ENI is not on the node with its MAC: %s", out)
	}
	next := serving(add(n0, 2))
	world.MustReach(t, client.NS, world.At(next.V4, 80), next.NS, client.V4)
}

// When an ENI is detached from its pod, its device is gone. The pod's error tells the agent so, and
// the other pods are served.
func TestAnENIThatIsNowhereIsNamed(t *testing.T) {
	_, n0, n1 := twoNodes(t)
	client, gone, p := n1.AddPod(1), add(n0, 2), serving(add(n0, 3))
	gone.IP("link del eth0")
	_, err := n0.TrySync(gone, p)
	pods, _, node := datapath.Sort(err)
	if node != nil || len(pods) != 1 || pods[0].Sandbox != gone.Spec.Sandbox || !errors.Is(pods[0], datapath.ErrNoDevice) {
		t.Errorf("pods %v, node %v; want the one pod's ErrNoDevice", pods, node)
	}
	world.MustReach(t, client.NS, world.At(p.V4, 80), p.NS, client.V4)
}

func TestRestartKeepsThePod(t *testing.T) {
	_, n0, n1 := twoNodes(t)
	client, p := n1.AddPod(1), serving(add(n0, 2))
	first := fmt.Sprint(p.Wiring)
	n0.DP = n0.NewDatapath()
	if repairs := n0.Sync(p); len(repairs) != 0 {
		t.Errorf("sync after a restart repairs %q", repairs)
	}
	p.Add()
	if again := fmt.Sprint(p.Wiring); again != first {
		t.Errorf("second AddPod gives %s, first gave %s", again, first)
	}
	world.MustReach(t, client.NS, world.At(p.V4, 80), p.NS, client.V4)
}

func TestRepair(t *testing.T) {
	w, n0, n1 := twoNodes(t)
	ctx := context.Background()
	p, far := serving(add(n0, 2)), serving(n1.AddPod(1, "4", "6"))
	stray := 0 // while no object was missing
	for _, c := range []struct {
		name string
		cut  func()
		want string
	}{
		{"down", func() { p.IP("link set eth0 down") }, "eth0 of the pod is down"},
		{"address", func() { p.IP("addr flush dev eth0") }, "address " + p.V4.String()},
		{"route", func() { p.IP("route del default") }, "default route"},
		{"IPv6 route", func() { p.IP("-6 route del default") }, "default route via " + world.PodGW6},
		{"name", func() {
			p.IP("link set eth0 down")
			p.IP("link set eth0 name lost")
		}, "called lost"},
		{"back on the node", func() {
			p.IP("link set eth0 down") // older kernels cannot rename a device that is up
			p.IP("link set eth0 name stray0")
			p.IP("link set stray0 netns " + n0.Name)
		}, "on the node"},
		{"MTU", func() { p.IP("link set eth0 mtu 1400") }, "MTU"},
		{"MAC", func() { p.IP("link set eth0 address 02:00:00:00:00:02") }, "MAC 02:00:00:00:00:02"},
		{"veth", func() { p.IP("link del veth1") }, "device tw"},
		{"ARP on the node", func() { n0.IP("link set " + p.Wiring.HostIfName + " arp on") }, "answers ARP"},
		{"route to Services", func() { p.IP("route del " + world.ServiceCIDR) }, "route to " + world.ServiceCIDR},
		{"route to the node", func() { p.IP("-6 route del " + n0.V6.String()) }, "route to " + n0.V6.String()},
	} {
		t.Run(c.name, func(t *testing.T) {
			p.Spec.Exclusive.MTU = 1500
			if err := n0.DP.CheckPod(ctx, n0.Desired, p.Spec); err != nil {
				t.Fatalf("before: %v", err)
			}
			c.cut()
			if err := n0.DP.CheckPod(ctx, n0.Desired, p.Spec); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("CheckPod: %v, want %q", err, c.want)
			}
			if repairs := n0.Sync(p); len(repairs) == 0 {
				t.Error("Sync reports nothing")
			}
			if err := n0.DP.CheckPod(ctx, n0.Desired, p.Spec); err != nil {
				t.Errorf("after Sync: %v", err)
			}
			if repairs := n0.Sync(p); len(repairs) != 0 {
				t.Errorf("second Sync reports %q", repairs)
			}
			before := w.Strict()
			world.MustReach(t, p.NS, world.At(far.V4, 80), far.NS, p.V4)
			world.MustReach(t, p.NS, world.At(far.V6, 80), far.NS, p.V6)
			world.MustReach(t, n0.NS, world.At(p.V4, 80), p.NS, n0.V4)
			world.MustReach(t, n0.NS, world.At(p.V6, 80), p.NS, n0.V6)
			stray += w.Strict() - before
		})
	}
	if stray != 0 {
		t.Errorf("the VPC dropped %d packets with a source on the wrong ENI", stray)
	}
}

// Sync's list of pods may be out of date.
func TestSyncWithAnOldList(t *testing.T) {
	_, n0, _ := twoNodes(t)
	p := add(n0, 2)
	n0.Sync(p)
	p.Del()
	if repairs := n0.Sync(p); len(repairs) != 0 {
		t.Errorf("a deleted pod is repaired: %q", repairs)
	}
	if out := n0.IP("-o link show"); !strings.Contains(out, n0.MAC(2).String()) {
		t.Error("the ENI went back into a deleted pod")
	}
	n0.Sync()
	p.Add()
	if err := n0.DP.CheckPod(context.Background(), n0.Desired, p.Spec); err != nil {
		t.Error(err)
	}
}

// A crash may leave the device at any point of its move.
func TestAddGoesOnWhereACrashStopped(t *testing.T) {
	_, n0, n1 := twoNodes(t)
	client := n1.AddPod(1)
	for name, crash := range map[string]func(*world.Pod){
		"moved, not named": func(p *world.Pod) { n0.IP("link set eth2 netns " + p.Name) },
		"named, not up": func(p *world.Pod) {
			n0.IP("link set eth2 netns " + p.Name)
			p.IP("link set eth2 name eth0")
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := describe(n0, 2)
			crash(p)
			p.Add()
			serving(p)
			world.MustReach(t, client.NS, world.At(p.V4, 80), p.NS, client.V4)
			p.Del()
			n0.IP("link set " + nodeName(n0.MAC(2)) + " name eth2")
		})
	}
}

func TestDelToleratesAbsence(t *testing.T) {
	_, n0, _ := twoNodes(t)
	before := world.DumpStable(n0)
	describe(n0, 2).Del()
	p := add(n0, 3)
	p.Remove() // the test's device is a veth and is deleted with the namespace
	p.Del()
	p.Spec.NetNS = ""
	p.Del()
	p.Spec.NetNS = world.LeftFile(t)
	p.Del()
	n0.Settle()
	diff := world.Difference(before, world.DumpStable(n0))
	for _, line := range strings.Split(diff, "\n") {
		if line != "" && !strings.Contains(line, "eth3") {
			t.Errorf("left behind: %s", line)
		}
	}
}

func TestConcurrentPods(t *testing.T) {
	_, n0, n1 := twoNodes(t)
	client := n1.AddPod(1)
	pods := []*world.Pod{describe(n0, 2), describe(n0, 3)}
	for range 5 {
		var wg sync.WaitGroup
		errs := make([]error, 2*len(pods))
		for i, p := range pods {
			wg.Go(func() { _, errs[i] = n0.DP.AddPod(context.Background(), n0.Desired, p.Spec) })
		}
		wg.Go(func() {
			var list []datapath.Pod
			for _, p := range pods {
				list = append(list, p.Spec) // Unwired: a call works on it
			}
			_, errs[len(pods)] = n0.DP.Sync(context.Background(), n0.Desired, list)
		})
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		for _, p := range pods {
			l := p.Listen("tcp", world.At(p.V4, 80))
			conn, err := client.Dial("tcp", "", world.At(p.V4, 80), world.Patience)
			if err != nil {
				t.Error(err)
			} else {
				conn.Close()
			}
			l.Close()
			p.Del()
		}
	}
}

func TestAddRefuses(t *testing.T) {
	_, n0, _ := twoNodes(t)
	for _, c := range []struct {
		name string
		edit func(*datapath.Pod)
		want string
	}{
		{"another MAC", func(p *datapath.Pod) { p.ENI = n0.MAC(3).String() }, "Exclusive.MAC"},
		{"no gateway", func(p *datapath.Pod) { p.Exclusive.Gateways = nil }, "Exclusive.Gateways"},
		{"no gateway of the family", func(p *datapath.Pod) { p.Exclusive.Gateways = p.Exclusive.Gateways[:1] }, "family"},
		{"not attached", func(p *datapath.Pod) { p.Exclusive.MAC[5], p.ENI = 0xff, "00:16:3e:00:00:ff" }, "neither on the node nor in the pod"},
		{"namespace gone", func(p *datapath.Pod) { p.NetNS = "/run/netns/none" }, "/run/netns/none"},
		{"namespace of the node", func(p *datapath.Pod) { p.NetNS = n0.Path }, "the node's own"},
		{"eth0 taken", func(*datapath.Pod) {}, "already has a device eth0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := describe(n0, 2)
			if c.name == "eth0 taken" {
				p.IP("link add eth0 type veth peer name other")
			}
			before := world.DumpStable(n0)
			c.edit(&p.Spec)
			_, err := n0.DP.AddPod(context.Background(), n0.Desired, p.Spec)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), p.Name) {
				t.Errorf("error %v, want one that names the pod and %q", err, c.want)
			}
			if err := n0.DP.DelPod(context.Background(), p.Spec); err != nil {
				t.Errorf("a refused pod cannot be deleted: %v", err)
			}
			n0.Settle()
			if diff := world.Difference(before, world.DumpStable(n0)); diff != "" {
				t.Errorf("a refused pod left:\n%s", diff)
			}
		})
	}
}
