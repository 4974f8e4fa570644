package monitor

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/attr"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/route"
	"terway.dev/terway/internal/datapath/suite/world"
)

var kit = world.Kit{
	Kind: claims.Route,
	New: func(o world.Options) (world.Subject, error) {
		return node.New(node.Options{NetNS: o.NetNS, Log: o.Log, Kinds: []node.Kind{route.New()}})
	},
}

// watched is a node that is repaired when the monitor requests it, as an agent does.
type watched struct {
	*world.Node
	t       *testing.T
	m       *Monitor
	repairs chan struct{}

	mu   sync.Mutex
	pods map[string]*world.Pod // by device
	// block is called when the monitor calls ENI or Pod, and can delay it.
	block func(device string)
	why   []string // reasons in order
}

func watch(t *testing.T, n *world.Node) *watched {
	w := &watched{Node: n, t: t, repairs: make(chan struct{}, 1), pods: map[string]*world.Pod{}, block: func(string) {}}
	n.Sync()
	ns, err := netns.GetFromPath(n.Path)
	if err != nil {
		t.Fatal(err)
	}
	w.m = New(Options{
		NetNS: ns, Log: slog.New(recorder{w}),
		Slowest: DefaultCoalesce, // keeps the test short
		ENI: func(mac net.HardwareAddr) bool {
			return slices.ContainsFunc(n.Desired.ENIs, func(e datapath.ENI) bool { return slices.Equal(e.MAC, mac) })
		},
		Pod: func(device string) bool {
			w.mu.Lock()
			block := w.block
			is := w.pods[device] != nil
			w.mu.Unlock()
			block(device)
			return is
		},
		Repair: func() {
			select {
			case w.repairs <- struct{}{}:
			default:
			}
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { w.m.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait(); ns.Close() })
	w.await("the route monitor began to listen", "the nftables monitor began to listen", "device eth1 of an ENI appeared")
	w.repaired()
	return w
}

// recorder collects the monitor's reasons from its log.
type recorder struct{ w *watched }

func (recorder) Enabled(context.Context, slog.Level) bool { return true }
func (r recorder) WithAttrs([]slog.Attr) slog.Handler     { return r }
func (r recorder) WithGroup(string) slog.Handler          { return r }
func (r recorder) Handle(_ context.Context, l slog.Record) error {
	l.Attrs(func(a slog.Attr) bool {
		if a.Key == "what" {
			r.w.mu.Lock()
			r.w.why = append(r.w.why, a.Value.String())
			r.w.mu.Unlock()
		}
		return true
	})
	return nil
}

func (w *watched) reasons() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.why)
}

func (w *watched) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.why = nil
}

// await waits until each of the reasons has occurred.
func (w *watched) await(reasons ...string) {
	w.t.Helper()
	for deadline := time.Now().Add(world.Patience); ; time.Sleep(time.Millisecond) {
		have := w.reasons()
		missing := slices.DeleteFunc(slices.Clone(reasons), func(r string) bool { return slices.Contains(have, r) })
		if len(missing) == 0 {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("the monitor did not report %q, only %q", missing, have)
		}
	}
}

// repaired waits until the monitor has requested a repair, and settles.
func (w *watched) repaired() []string {
	w.t.Helper()
	select {
	case <-w.repairs:
		return append(w.sync(), w.settle()...)
	case <-time.After(world.Patience):
		w.t.Fatalf("no repair was requested; reported %q", w.reasons())
		return nil
	}
}

// settle repairs until the monitor requests no more: repairs because of Sync's own changes must
// end.
func (w *watched) settle() (repaired []string) {
	w.t.Helper()
	const enough = 10
	for range enough {
		select {
		case <-w.repairs:
			repaired = append(repaired, w.sync()...)
		case <-time.After(10 * DefaultCoalesce):
			return repaired
		}
	}
	w.t.Fatalf("%d repairs and no end: %q; reported %q", enough, repaired, w.reasons())
	return nil
}

func (w *watched) sync() []string {
	w.t.Helper()
	w.mu.Lock()
	pods := slices.Collect(maps.Values(w.pods))
	w.mu.Unlock()
	return w.Sync(pods...)
}

func (w *watched) add(families ...string) *world.Pod {
	w.t.Helper()
	p := w.AddPod(1, families...)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pods[p.Wiring.HostIfName] = p
	return p
}

func (w *watched) del(p *world.Pod) {
	w.t.Helper()
	w.mu.Lock()
	delete(w.pods, p.Wiring.HostIfName)
	w.mu.Unlock()
	p.Del()
}

// What somebody removes is repaired because of the monitor: nothing else requests a repair here.
func TestRepairs(t *testing.T) {
	vpc := kit.NewWorld(t, 2, 1)
	vpc.Nodes[1].Sync()
	w := watch(t, vpc.Nodes[0])
	p, far := w.add("4", "6"), vpc.Nodes[1].AddPod(1, "4", "6")
	for _, x := range []*world.Pod{p, far} {
		world.Serve(x.NS, world.At(x.V4, 80))
		world.Serve(x.NS, world.At(x.V6, 80))
	}
	w.settle()
	device := p.Wiring.HostIfName
	for _, c := range []struct {
		name  string
		cut   func()
		heard string
	}{
		{"one rule", func() { w.IP("rule del priority 500") }, "a rule with priority 500 is gone"},
		{"all rules", func() { w.IP("rule flush"); w.IP("-6 rule flush"); restoreRules(w) }, "a rule with priority 600 is gone"},
		{"an ENI's routes", func() { w.IP("route flush table 2101") }, "a route of an ENI is gone from table 2101"},
		{"an ENI's IPv6 routes", func() { w.IP("-6 route flush table 2101") }, "a route of an ENI is gone from table 2101"},
		{"another route in the place of an ENI's", func() { w.IP("route replace default dev eth1 table 2101") }, "a route in table 2101 was replaced"},
		{"the pods' routes", func() { w.IP("route flush table 2100") }, "a route of a pod is gone from table 2100"},
		{"an ENI down and up", func() { w.IP("link set eth1 down"); w.IP("link set eth1 up") }, "device eth1 of an ENI came up"},
		{"an ENI down", func() { w.IP("link set eth1 down") }, "device eth1 of an ENI went down"},
		{"an ENI's address", func() { w.IP("addr flush dev eth1 scope host") }, "the address of device eth1 of an ENI is gone"},
		{"an ENI's rp_filter", func() { w.Sysctl("ipv4/conf/eth1/rp_filter", "1") }, "rp_filter or forwarding of device eth1 of an ENI was set"},
		{"forwarding", func() { w.Sysctl("ipv4/ip_forward", "0") }, "rp_filter or forwarding of all devices was set"},
		{"a pod's device down", func() { w.IP("link set " + device + " down") }, "device " + device + " of a pod changed"},
		{"a pod's device", func() { w.IP("link del " + device) }, "device " + device + " of a pod is gone"},
		{"the ruleset", func() { w.NFT("flush ruleset") }, "table terway was changed"},
		{"a rule of the table", func() { w.NFT("flush chain inet terway exit") }, "table terway was changed"},
		{"a rule of the NAT table", func() { w.NFT("flush chain ip6 terway-nat as-node") }, "table terway-nat was changed"},
		{"a pod's element", func() {
			w.NFT(fmt.Sprintf("delete element inet terway pods4 { %s . %s }", device, p.V4))
		}, "elements are gone from table terway"},
		{"iptables' policy", func() { w.Run("iptables", "-P", "FORWARD", "DROP"); w.Run("ip6tables", "-P", "FORWARD", "DROP") }, "a chain of table filter drops forwarded packets by policy"},
		{"iptables' rules", func() { w.Run("iptables", "-F", "FORWARD") }, "a rule that accepts forwarded packets is gone from table filter"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			w.forget()
			c.cut()
			w.await(c.heard)
			if repaired := w.repaired(); len(repaired) == 0 {
				t.Errorf("nothing was repaired; reported %q", w.reasons())
			}
			vpc.Nodes[1].Forget()
			world.MustReach(t, p.NS, world.At(far.V4, 80), far.NS, p.V4)
			world.MustReach(t, far.NS, world.At(p.V4, 80), p.NS, far.V4)
			world.MustReach(t, p.NS, world.At(far.V6, 80), far.NS, p.V6)
			world.MustReach(t, w.NS, world.At(p.V4, 80), p.NS, w.V4)
			w.forget()
			if repaired := w.sync(); len(repaired) != 0 {
				t.Errorf("Sync repairs %q, which the monitor had not reported", repaired)
			}
		})
	}
}

// restoreRules restores the kernel's own rules, which `ip rule flush` removes too.
func restoreRules(w *watched) {
	w.IP("rule add priority 32766 lookup main")
	w.IP("-6 rule add priority 32766 lookup main")
}

// ADDs and DELs, kube-proxy and docker cause no repair.
func TestPassesOver(t *testing.T) {
	w := watch(t, kit.NewWorld(t, 1, 1).Nodes[0])
	stays := w.add()
	w.settle()
	w.forget()

	for i := range 3 {
		w.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Endpoint: stays.V4, NodePort: 30000 + i})
		p := w.add("4", "6")
		w.del(p)
		w.Settle()
	}
	// With ipvlan a pod's device has its ENI's MAC, before its ADD is done and after its DEL has
	// begun; and so has a bridge on an ENI.
	w.IPs("link add tw0000000beef address "+w.MAC(1).String()+" type veth peer name twpeer", "link set tw0000000beef up", "link del tw0000000beef",
		"link add br0 address "+w.MAC(1).String()+" type bridge", "link set br0 up", "link del br0")
	w.IPs("link add docker0 type bridge", "link add veth0 type veth peer name veth1", "link set veth0 master docker0", "link set veth0 up",
		"addr add 172.17.0.1/16 dev docker0", "link set docker0 up", "link del veth0", "rule add priority 100 lookup 100", "route add 10.0.0.0/8 dev docker0 table 100")
	w.Run("iptables", "-A", "FORWARD", "-i", "docker0", "-j", "ACCEPT")
	w.Run("iptables", "-F", "FORWARD")

	w.IP("rule del priority 500")
	w.NFT("add chain inet terway others")
	w.await("a rule with priority 500 is gone", "table terway was changed")
	if got := w.reasons(); len(got) != 2 {
		t.Errorf("the monitor reported these as reasons to repair: %q", got)
	}
}

// A new ENI's device, one that is removed, and one that is moved away.
func TestDevicesOfENIs(t *testing.T) {
	w := watch(t, kit.NewWorld(t, 1, 2).Nodes[0])
	w.forget()
	w.IP("link del eth2")
	w.await("device eth2 of an ENI is gone")
	w.forget()
	w.Plug(2)
	w.await("device eth2 of an ENI appeared")
	if repaired := w.repaired(); !slices.ContainsFunc(repaired, func(s string) bool { return strings.Contains(s, "set eth2 up") }) {
		t.Errorf("the new device was not prepared: %q", repaired)
	}
}

// More messages than the socket can hold while nobody reads: the monitor opens it again and
// requests a repair.
func TestOverrun(t *testing.T) {
	w := watch(t, kit.NewWorld(t, 1, 1).Nodes[0])
	blocked, free := make(chan struct{}), make(chan struct{})
	var once sync.Once
	unblock := sync.OnceFunc(func() { close(free) })
	t.Cleanup(unblock) // before the wait for the monitor
	w.mu.Lock()
	w.block = func(device string) {
		if device == "block" {
			once.Do(func() { close(blocked) })
			<-free
		}
	}
	w.mu.Unlock()
	w.forget()
	w.IPs("link add block type veth peer name other", "link set block up", "link set other up")
	<-blocked
	var batch []string
	for i := range 30000 {
		batch = append(batch, fmt.Sprintf("route add 10.%d.%d.0/24 dev block table 100", i/256, i%256))
	}
	w.IPs(batch...)
	unblock()
	w.await("the route monitor began to listen")
	w.forget()
	w.IP("rule del priority 500")
	w.await("a rule with priority 500 is gone")
}

// BenchmarkPassedOver handles a rule of kube-proxy.
func BenchmarkPassedOver(b *testing.B) {
	m := New(Options{Pod: func(string) bool { return false }, ENI: func(net.HardwareAddr) bool { return false }})
	attr := func(kind uint16, v []byte) []byte {
		a := make([]byte, 4, 4+len(v))
		native.PutUint16(a, uint16(4+len(v)))
		native.PutUint16(a[2:], kind)
		a = append(a, v...)
		return append(a, make([]byte, attr.Align(len(a))-len(a))...)
	}
	rule := slices.Concat(attr(unix.NFTA_RULE_TABLE, []byte("kube-proxy\x00")), attr(unix.NFTA_RULE_CHAIN, []byte("services\x00")),
		attr(unix.NFTA_RULE_EXPRESSIONS, make([]byte, 200)), attr(unix.NFTA_RULE_USERDATA, []byte("\x00\x06hello\x00")))
	b.ReportAllocs()
	for b.Loop() {
		m.ruleset(unix.NFT_MSG_DELRULE, byte(nftables.TableFamilyIPv4), rule)
	}
}
