package vpcsim

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"terway.dev/terway/internal/testutil"
	"terway.dev/terway/internal/vpcsim/fabric"
	"terway.dev/terway/internal/vpcsim/state"
)

// cloudOfBalancers is a view that reports change, applied to the two planes of load balancers.
type cloudOfBalancers struct {
	state.API
	t      *testing.T
	fabric Dataplane
	plane  *balancers

	mu   sync.Mutex
	view state.View
	lost bool
}

func (c *cloudOfBalancers) Lost() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = true
}

func (c *cloudOfBalancers) Report(f func(state.API) error) error { return f(c) }

func (c *cloudOfBalancers) ReportHealth(news []state.BackendHealth) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range news {
		for i := range c.view.Balancers[0].Listeners {
			l := &c.view.Balancers[0].Listeners[i]
			l.Backends = slices.Clone(l.Backends) // the planes have the old ones
			for j := range l.Backends {
				if l.ListenerId == n.ListenerId && l.Backends[j].Key == n.Key {
					l.Backends[j].BackendVerdict = n.BackendVerdict
				}
			}
		}
	}
}

func (c *cloudOfBalancers) apply() {
	c.t.Helper()
	c.mu.Lock()
	view := c.view
	view.Balancers = slices.Clone(view.Balancers)
	for i := range view.Balancers {
		view.Balancers[i].Listeners = slices.Clone(view.Balancers[i].Listeners)
	}
	c.mu.Unlock()
	for _, p := range []Plane{c.fabric, c.plane} {
		if err := p.Apply(context.Background(), &view); err != nil {
			c.t.Fatal(err)
		}
	}
}

// health returns the verdicts of a listener's backends, after it has applied them.
func (c *cloudOfBalancers) health(listener int) string {
	c.mu.Lock()
	var all []string
	for _, b := range c.view.Balancers[0].Listeners[listener].Backends {
		all = append(all, string(b.Health)+b.Reason)
	}
	c.mu.Unlock()
	c.apply()
	return strings.Join(all, " ")
}

func (c *cloudOfBalancers) until(what string, f func() bool) {
	c.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if f() {
			return
		}
	}
	c.t.Fatalf("not so: %s", what)
}

// get asks a URL from a namespace.
func (c *cloudOfBalancers) get(namespace, url string) (string, error) {
	path, err := c.fabric.NetNSPath(namespace)
	if err != nil {
		return "", err
	}
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: dialIn(path)}}
	answer, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return fmt.Sprintf("%d %s", answer.StatusCode, body), err
}

func dialIn(path string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return nil, err
		}
		return fabric.DialAt(ctx, path, network, to)
	}
}

// Two instances in a security group that accepts clients of the vSwitch only: health checks
// reach them all the same, connections go to the healthy one, and an HTTP listener is served, at
// a private and at a public address.
func TestHealthChecksAndProxiesOfLoadBalancers(t *testing.T) {
	testutil.RequireRoot(t)
	ip, prefix := netip.MustParseAddr, netip.MustParsePrefix
	f, err := fabric.New(fabric.Options{Prefix: fmt.Sprintf("vs%08x-", rand.Uint32()), Strict: true})
	if err != nil {
		t.Fatal(err)
	}
	c := &cloudOfBalancers{t: t, fabric: Dataplane{Fabric: f}}
	t.Cleanup(func() {
		if err := f.Destroy(); err != nil {
			t.Error(err)
		}
	})
	c.plane = newBalancers(&Server{Options: Options{Fabric: c.fabric, Log: slog.New(slog.DiscardHandler)}})
	c.plane.Connect(c)
	t.Cleanup(func() {
		if err := c.plane.Close(); err != nil {
			t.Error(err)
		}
	})
	c.view = state.View{
		VSwitches: []state.VSwitch{{VSwitchId: "vsw-1", VpcId: "vpc-1", CidrBlock: prefix("10.0.0.0/24"), RouteTableId: "vtb-1"}},
		SecurityGroups: []state.SecurityGroup{{SecurityGroupId: "sg-1", SecurityGroupType: state.SecurityGroupNormal, InnerAccessPolicy: state.PolicyDrop,
			Rules: []state.SecurityGroupRule{
				{Direction: state.DirectionIngress, IpProtocol: "TCP", Policy: state.PolicyAccept, Priority: 1, PortRange: "8080/8080", SourcePortRange: "-1/-1", Peer: prefix("10.0.0.0/24")},
			}}},
		Balancers: []state.Balancer{{
			LoadBalancerId: "lb-1", VpcId: "vpc-1",
			Addresses: []state.BalancerAddress{{Address: ip("10.0.0.100"), VSwitchId: "vsw-1"}, {Address: ip("198.51.100.1"), Public: true}},
			Listeners: []state.BalancerListener{
				{ListenerId: "tcp", Protocol: state.ProtocolTCP, Port: 81, Scheduler: state.SchedulerRR, PreserveClientIP: true},
				{ListenerId: "http", Protocol: state.ProtocolHTTP, Port: 80, Scheduler: state.SchedulerRR, HTTP: &state.BalancerHTTP{RequestTimeout: time.Minute}},
			},
		}},
	}
	for n := range 2 {
		address := ip(fmt.Sprintf("10.0.0.%d", n+1))
		c.view.Instances = append(c.view.Instances, state.InstanceView{Instance: state.Instance{
			InstanceId: fmt.Sprintf("i-%d", n+1), Status: state.InstanceRunning,
			NetworkInterfaces: []state.NetworkInterface{{
				NetworkInterfaceId: fmt.Sprintf("eni-%d", n+1), Type: state.ENIPrimary, VpcId: "vpc-1", VSwitchId: "vsw-1",
				MacAddress: fmt.Sprintf("00:16:3e:00:00:0%d", n+1), PrivateIpAddresses: []netip.Addr{address}, SecurityGroupIds: []string{"sg-1"},
			}},
		}})
		for i := range c.view.Balancers[0].Listeners {
			l := &c.view.Balancers[0].Listeners[i]
			l.HealthCheck = &state.BalancerHealthCheck{Type: state.CheckHTTP, Interval: 50 * time.Millisecond, Timeout: 2 * time.Second, Healthy: 2, Unhealthy: 2}
			l.Backends = append(l.Backends, state.BalancerBackend{Key: fmt.Sprint("k", n+1), Address: address, Port: 8080, Weight: 100})
		}
	}
	c.apply()
	if _, err := c.get("i-2", "http://10.0.0.100:81"); err == nil {
		t.Error("backends without a verdict get connections")
	}
	serve := func(n int) *http.Server {
		l, err := f.Listen(fmt.Sprintf("i-%d", n), "tcp", "0.0.0.0:8080")
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			from, _ := netip.ParseAddrPort(r.RemoteAddr)
			fmt.Fprintf(w, "i-%d %s %s", n, from.Addr(), r.Header.Get("X-Forwarded-For"))
		})}
		t.Cleanup(func() { s.Close() })
		go func() { _ = s.Serve(l) }()
		return s
	}
	first := serve(1)
	serve(2)
	c.until("all are healthy", func() bool { return c.health(0) == "healthy healthy" && c.health(1) == "healthy healthy" })
	first.Close()
	c.until("one is not", func() bool {
		return c.health(0) == "unhealthyCONNECT_FAILED healthy" && c.health(1) == "unhealthyCONNECT_FAILED healthy"
	})
	for range 4 {
		for _, ask := range [][3]string{
			{"i-1", "http://10.0.0.100:81", "200 i-2 10.0.0.1 "},
			{"i-1", "http://10.0.0.100", "200 i-2 100.64.0.1 10.0.0.1"},
			{"internet", "http://198.51.100.1", "200 i-2 100.64.0.1 192.0.2.1"},
		} {
			if got, err := c.get(ask[0], ask[1]); err != nil || got != ask[2] {
				t.Errorf("%s from %s: %q, %v, want %q", ask[1], ask[0], got, err, ask[2])
			}
		}
	}
	serve(1)
	c.until("all are healthy again", func() bool { return c.health(0) == "healthy healthy" })

	// The other listener's port for HTTP, and back without load balancers.
	c.mu.Lock()
	listeners := c.view.Balancers[0].Listeners
	listeners[0].Port, listeners[1].Port = listeners[1].Port, listeners[0].Port
	c.mu.Unlock()
	c.apply()
	c.until("the HTTP listener is at its new port", func() bool {
		got, err := c.get("i-1", "http://10.0.0.100:81")
		return err == nil && strings.Contains(got, " 100.64.0.1 10.0.0.1")
	})
	c.mu.Lock()
	saved := c.view.Balancers
	c.view.Balancers = nil
	c.mu.Unlock()
	c.apply()
	if _, err := f.NetNSPath(fabric.BalancersOf("vpc-1")); err == nil {
		t.Error("the namespace of load balancers is left")
	}
	c.mu.Lock()
	c.view.Balancers = saved
	c.mu.Unlock()
	c.apply()
	c.until("the HTTP listener is back", func() bool {
		got, err := c.get("internet", "http://198.51.100.1:81")
		return err == nil && strings.HasPrefix(got, "200 ")
	})
}
