package vpcsim_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/ecs"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/slb"

	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/lab/load"
	"terway.dev/terway/internal/vpcsim/fabric"
)

// sent is a way to send requests: to a listener, over how many connections that are kept.
type sent struct{ port, connections int }

func (s sent) path() string { return fmt.Sprintf("/%d/%d", s.port, s.connections) }

// What a backend that ends costs its clients: nothing new, if its weight was 0 before; then only
// who keeps a connection to it through a TCP listener loses it, once. Without the weight, new
// connections fail until the health checks have seen it.
func TestBackendThatEnds(t *testing.T) {
	s, f := withFabric(t)
	c, l := connect(t, s), connectSLB(t, s)
	n := makeNetwork(t, c)
	allow := ecs.CreateAuthorizeSecurityGroupRequest()
	allow.SecurityGroupId, allow.IpProtocol, allow.PortRange, allow.SourceCidrIp = n.group, "TCP", "8080/8080", "0.0.0.0/0"
	must(c.ecs.AuthorizeSecurityGroup(allow))(t)
	client, stays, ends := runInstance(t, c, n), runInstance(t, c, n), runInstance(t, c, n)
	at := func(instance string) string {
		path, err := f.NetNSPath(instance)
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	var answered sync.Map // instance and path
	serve := func(instance string) *http.Server {
		var listener net.Listener
		if err := kernel.InNSAt(at(instance), func() (err error) {
			listener, err = net.Listen("tcp", "0.0.0.0:8080")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			answered.Store(instance+r.URL.Path, nil)
			fmt.Fprintln(w, instance)
		})}
		go func() { _ = web.Serve(listener) }()
		t.Cleanup(func() { web.Close() })
		return web
	}
	serve(stays)
	ending := serve(ends)

	create := slb.CreateCreateLoadBalancerRequest()
	create.AddressType, create.VSwitchId, create.VpcId = "intranet", n.vswitch, n.vpc
	made := must(l.CreateLoadBalancer(create))(t)
	group := slb.CreateCreateVServerGroupRequest()
	group.LoadBalancerId, group.VServerGroupName = made.LoadBalancerId, "web"
	group.BackendServers = fmt.Sprintf(`[{"ServerId":%q,"Port":"8080","Weight":"100"},{"ServerId":%q,"Port":"8080","Weight":"100"}]`, stays, ends)
	rsp := must(l.CreateVServerGroup(group))(t).VServerGroupId
	tcp := slb.CreateCreateLoadBalancerTCPListenerRequest()
	tcp.LoadBalancerId, tcp.ListenerPort, tcp.VServerGroupId = made.LoadBalancerId, requests.NewInteger(81), rsp
	tcp.HealthCheckInterval, tcp.HealthyThreshold, tcp.UnhealthyThreshold, tcp.Bandwidth = requests.NewInteger(1), requests.NewInteger(2), requests.NewInteger(2), requests.NewInteger(-1)
	must(l.CreateLoadBalancerTCPListener(tcp))(t)
	web := slb.CreateCreateLoadBalancerHTTPListenerRequest()
	web.LoadBalancerId, web.ListenerPort, web.VServerGroupId = made.LoadBalancerId, requests.NewInteger(80), rsp
	web.HealthCheck, web.HealthCheckURI, web.HealthCheckInterval = "on", "/", requests.NewInteger(1)
	web.HealthyThreshold, web.UnhealthyThreshold, web.StickySession, web.Bandwidth = requests.NewInteger(2), requests.NewInteger(2), "off", requests.NewInteger(-1)
	must(l.CreateLoadBalancerHTTPListener(web))(t)
	for port, protocol := range map[int]string{81: "tcp", 80: "http"} {
		start := slb.CreateStartLoadBalancerListenerRequest()
		start.LoadBalancerId, start.ListenerPort, start.ListenerProtocol = made.LoadBalancerId, requests.NewInteger(port), protocol
		must(l.StartLoadBalancerListener(start))(t)
	}
	weigh := func(weight int) {
		set := slb.CreateSetVServerGroupAttributeRequest()
		set.VServerGroupId, set.BackendServers = rsp, fmt.Sprintf(`[{"ServerId":%q,"Port":"8080","Weight":"%d"}]`, ends, weight)
		must(l.SetVServerGroupAttribute(set))(t)
	}
	taking := func(want int) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d backends take connections", want), func() bool {
			v := applied(t, s).Balancers
			if len(v) != 1 || len(v[0].Listeners) != 2 {
				return false
			}
			for _, listener := range v[0].Listeners {
				n := 0
				for i := range listener.Backends {
					if listener.Takes(&listener.Backends[i]) {
						n++
					}
				}
				if n != want {
					return false
				}
			}
			return true
		})
	}
	// during sends requests while f runs, in the ways in which clients may keep connections: at rates that differ, as
	// otherwise each would get the same backend each time. f begins when each way has had answers of both backends.
	during := func(f func()) map[sent]*load.Report {
		t.Helper()
		answered.Clear()
		loads, reports := map[sent]*load.Load{}, map[sent]*load.Report{}
		for _, how := range []sent{{81, 4}, {81, 0}, {80, 0}, {80, 4}} {
			to := netip.AddrPortFrom(netip.MustParseAddr(made.Address), uint16(how.port))
			started, err := load.Start(load.Options{Rate: 50 + how.connections, Connections: how.connections, Timeout: 5 * time.Second, URL: "http://web" + how.path(), Dial: func(ctx context.Context) (net.Conn, error) {
				return fabric.DialAt(ctx, at(client), "tcp", to)
			}})
			if err != nil {
				t.Fatal(err)
			}
			defer started.Stop()
			loads[how] = started
			// Those that are kept are opened before others, so that each backend gets some.
			eventually(t, "both backends answer "+how.path(), func() bool {
				_, one := answered.Load(stays + how.path())
				_, other := answered.Load(ends + how.path())
				return one && other
			})
		}
		f()
		time.Sleep(300 * time.Millisecond)
		for how, started := range loads {
			r := started.Stop()
			reports[how] = r
			t.Logf("port %d, %d connections: %s", how.port, how.connections, r.Summary())
		}
		return reports
	}

	taking(2)
	for how, r := range during(func() {
		weigh(0)
		taking(1)
		time.Sleep(time.Second) // what was picked before is opened and answered
		ending.Close()
	}) {
		if how == (sent{81, 4}) {
			if err := r.OfNew(); err != nil {
				t.Error(err)
			}
			if len(r.Failures) == 0 || len(r.Failures) > how.connections {
				t.Errorf("%d requests failed on %d connections that were kept, want some: %v", len(r.Failures), how.connections, r.Failures)
			}
			for _, f := range r.Failures {
				if f.Pod != ends {
					t.Errorf("%s: want the backend that ended, %s", f, ends)
				}
			}
			continue
		}
		if err := r.Err(); err != nil {
			t.Errorf("port %d, %d connections: %v", how.port, how.connections, err)
		}
	}

	ending = serve(ends)
	weigh(100)
	taking(2)
	r := during(func() {
		ending.Close()
		taking(1)
	})
	if err := r[sent{81, 0}].OfNew(); err == nil {
		t.Error("a backend that ends without notice is missed by no new connection")
	}
	// The proxy asks another backend then, but not again for what the one that ended was answering.
	for _, how := range []sent{{80, 0}, {80, 4}} {
		if failures := r[how].Failures; len(failures) > 2 {
			t.Errorf("port 80, %d connections: %d failed, want none but those in flight: %v", how.connections, len(failures), failures)
		}
	}
}
