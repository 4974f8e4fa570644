package vpcsim_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/ecs"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/nlb"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/slb"

	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/fabric"
	"terway.dev/terway/internal/vpcsim/state"
)

// applied returns the cloud when the fabric has it too.
func applied(t *testing.T, s *vpcsim.Server) *state.View {
	t.Helper()
	view := s.View()
	if err := s.Read(t.Context(), 0, func(state.API) error { return nil }); err != nil {
		t.Fatal(err)
	}
	return view
}

// A load balancer made through the API forwards: a backend gets connections when its checks have
// found it healthy, from inside and outside, and none with weight 0; open ones go on, also while
// the simulator is restarted.
func TestLoadBalancerForwards(t *testing.T) {
	s, f := withFabric(t, func(o *vpcsim.Options) { o.StateDir = t.TempDir() })
	w := newNLBWorld(t, s)
	c := w.nlb
	allow := ecs.CreateAuthorizeSecurityGroupRequest()
	allow.SecurityGroupId, allow.IpProtocol, allow.PortRange, allow.SourceCidrIp = w.group, "TCP", "8080/8080", "0.0.0.0/0"
	must(w.ecs.AuthorizeSecurityGroup(allow))(t)
	client := runInstance(t, w.clients, w.network)
	node := instance(t, w.clients, client).NetworkInterfaces.NetworkInterface[0]
	if node.NetworkInterfaceId == w.eni {
		t.Fatal("the client is the server")
	}

	group := nlb.CreateCreateServerGroupRequest()
	group.VpcId, group.Protocol, group.ServerGroupName, group.ServerGroupType, group.PreserveClientIpEnabled = w.network.vpc, "TCP", "group", "Instance", requests.NewBoolean(true)
	group.HealthCheckConfig = nlb.CreateServerGroupHealthCheckConfig{
		HealthCheckEnabled: "true", HealthCheckType: "TCP", HealthCheckInterval: "1", HealthyThreshold: "2", UnhealthyThreshold: "2",
	}
	made := must(c.CreateServerGroup(group))(t)
	w.wait(made.JobId)
	add := nlb.CreateAddServersToServerGroupRequest()
	add.ServerGroupId, add.Servers = made.ServerGroupId, &[]nlb.AddServersToServerGroupServers{{ServerId: w.eni, ServerType: "Eni", Port: "8080", Weight: "100"}}
	w.wait(must(c.AddServersToServerGroup(add))(t).JobId)
	create := nlb.CreateCreateLoadBalancerRequest()
	create.VpcId, create.AddressType = w.network.vpc, "Internet"
	create.ZoneMappings = &[]nlb.CreateLoadBalancerZoneMappings{{ZoneId: "cn-hangzhou-i", VSwitchId: w.vswitch}, {ZoneId: "cn-hangzhou-h", VSwitchId: w.other}}
	id := must(c.CreateLoadBalancer(create))(t).LoadbalancerId
	get := nlb.CreateGetLoadBalancerAttributeRequest()
	get.LoadBalancerId = id
	eventually(t, "the load balancer is Active", func() bool { return must(c.GetLoadBalancerAttribute(get))(t).LoadBalancerStatus == "Active" })
	listen := nlb.CreateCreateListenerRequest()
	listen.LoadBalancerId, listen.ListenerProtocol, listen.ListenerPort, listen.ServerGroupId = id, "TCP", requests.NewInteger(80), made.ServerGroupId
	listening := must(c.CreateListener(listen))(t)
	w.wait(listening.JobId)
	zone := must(c.GetLoadBalancerAttribute(get))(t).ZoneMappings[0].LoadBalancerAddresses[0]

	health := func() state.Health { return applied(t, s).Balancers[0].Listeners[0].Backends[0].Health }
	dial := func(instance, address string) (net.Conn, error) {
		path, err := f.NetNSPath(instance)
		if err != nil {
			t.Fatal(err)
		}
		return fabric.DialAt(t.Context(), path, "tcp", netip.MustParseAddrPort(address+":80"))
	}
	eventually(t, "the server is Unhealthy while nothing listens", func() bool { return health() == state.Unhealthy })
	if _, err := dial(client, zone.PrivateIPv4Address); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("without a healthy server: %v, want connection refused", err)
	}

	path, err := f.NetNSPath(eni(t, w.clients, w.eni).InstanceId)
	if err != nil {
		t.Fatal(err)
	}
	var l net.Listener
	if err := kernel.InNSAt(path, func() (err error) {
		l, err = net.Listen("tcp", "0.0.0.0:8080")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintln(c, c.RemoteAddr().(*net.TCPAddr).IP)
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	eventually(t, "the server is healthy", func() bool { return health() == state.Healthy })
	open := map[net.Conn]*bufio.Reader{}
	for from, want := range map[[2]string]string{
		{client, zone.PrivateIPv4Address}:    node.PrivateIpSets.PrivateIpSet[0].PrivateIpAddress,
		{"internet", zone.PublicIPv4Address}: fabric.Outside.Addr().String(),
	} {
		conn, err := dial(from[0], from[1])
		if err != nil {
			t.Fatalf("%v: %v", from, err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		open[conn] = bufio.NewReader(conn)
		if seen, err := open[conn].ReadString('\n'); strings.TrimSpace(seen) != want {
			t.Errorf("%v: the server sees %q, %v, want %s", from, seen, err, want)
		}
	}
	echo := func(when string) {
		t.Helper()
		for conn, r := range open {
			fmt.Fprintln(conn, when)
			if got, err := r.ReadString('\n'); strings.TrimSpace(got) != when {
				t.Errorf("%s: %q, %v", when, got, err)
			}
		}
	}
	echo("at first")
	weigh := nlb.CreateUpdateServerGroupServersAttributeRequest()
	weigh.ServerGroupId = made.ServerGroupId
	weigh.Servers = &[]nlb.UpdateServerGroupServersAttributeServers{{ServerId: w.eni, ServerType: "Eni", Port: "8080", Weight: "0"}}
	w.wait(must(c.UpdateServerGroupServersAttribute(weigh))(t).JobId)
	if _, err := dial(client, zone.PrivateIPv4Address); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("with weight 0: %v, want connection refused", err)
	}
	echo("with weight 0")

	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	echo("while no simulator runs")
	start(t, func(o *vpcsim.Options) { *o = s.Options })
	echo("after a restart")
}

// The listeners of a CLB through the API: TCP with the client's address, HTTP with
// X-Forwarded-For, and an access control list.
func TestClassicLoadBalancerForwards(t *testing.T) {
	s, f := withFabric(t)
	c, l := connect(t, s), connectSLB(t, s)
	n := makeNetwork(t, c)
	allow := ecs.CreateAuthorizeSecurityGroupRequest()
	allow.SecurityGroupId, allow.IpProtocol, allow.PortRange, allow.SourceCidrIp = n.group, "TCP", "8080/8080", "0.0.0.0/0"
	must(c.ecs.AuthorizeSecurityGroup(allow))(t)
	client, server := instance(t, c, runInstance(t, c, n)), instance(t, c, runInstance(t, c, n))
	address := func(i ecs.Instance) string { return i.NetworkInterfaces.NetworkInterface[0].PrimaryIpAddress }
	path, err := f.NetNSPath(server.InstanceId)
	if err != nil {
		t.Fatal(err)
	}
	var listener net.Listener
	if err := kernel.InNSAt(path, func() (err error) {
		listener, err = net.Listen("tcp", "0.0.0.0:8080")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, _ := netip.ParseAddrPort(r.RemoteAddr)
		fmt.Fprintf(w, "%s %s", from.Addr(), r.Header.Get("X-Forwarded-For"))
	})}
	go func() { _ = web.Serve(listener) }()
	t.Cleanup(func() { web.Close() })

	create := slb.CreateCreateLoadBalancerRequest()
	create.AddressType, create.VSwitchId, create.VpcId = "intranet", n.vswitch, n.vpc
	made := must(l.CreateLoadBalancer(create))(t)
	group := slb.CreateCreateVServerGroupRequest()
	group.LoadBalancerId, group.VServerGroupName = made.LoadBalancerId, "web"
	group.BackendServers = fmt.Sprintf(`[{"ServerId":%q,"Port":"8080","Weight":"100"}]`, server.InstanceId)
	rsp := must(l.CreateVServerGroup(group))(t).VServerGroupId
	tcp := slb.CreateCreateLoadBalancerTCPListenerRequest()
	tcp.LoadBalancerId, tcp.ListenerPort, tcp.VServerGroupId = made.LoadBalancerId, requests.NewInteger(81), rsp
	tcp.HealthCheckInterval, tcp.HealthyThreshold, tcp.Bandwidth = requests.NewInteger(1), requests.NewInteger(2), requests.NewInteger(-1)
	must(l.CreateLoadBalancerTCPListener(tcp))(t)
	web80 := slb.CreateCreateLoadBalancerHTTPListenerRequest()
	web80.LoadBalancerId, web80.ListenerPort, web80.VServerGroupId = made.LoadBalancerId, requests.NewInteger(80), rsp
	web80.HealthCheck, web80.HealthCheckURI, web80.HealthCheckInterval = "on", "/healthz", requests.NewInteger(1)
	web80.HealthyThreshold, web80.StickySession, web80.Bandwidth = requests.NewInteger(2), "off", requests.NewInteger(-1)
	must(l.CreateLoadBalancerHTTPListener(web80))(t)
	for port, protocol := range map[int]string{81: "tcp", 80: "http"} {
		start := slb.CreateStartLoadBalancerListenerRequest()
		start.LoadBalancerId, start.ListenerPort, start.ListenerProtocol = made.LoadBalancerId, requests.NewInteger(port), protocol
		must(l.StartLoadBalancerListener(start))(t)
	}
	eventually(t, "the backend is healthy for both listeners", func() bool {
		v := applied(t, s).Balancers
		return len(v) == 1 && len(v[0].Listeners) == 2 && !slices.ContainsFunc(v[0].Listeners, func(l state.BalancerListener) bool {
			return l.Backends[0].Health != state.Healthy
		})
	})
	get := func(port string) (string, error) {
		inside, err := f.NetNSPath(client.InstanceId)
		if err != nil {
			return "", err
		}
		h := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return fabric.DialAt(ctx, inside, network, netip.MustParseAddrPort(address))
		}}}
		answer, err := h.Get("http://" + made.Address + ":" + port)
		if err != nil {
			return "", err
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		return string(body), err
	}
	if got, err := get("81"); err != nil || got != address(client)+" " {
		t.Errorf("by TCP: %q, %v", got, err)
	}
	if got, err := get("80"); err != nil || got != fabric.BalancerSource.Addr().String()+" "+address(client) {
		t.Errorf("by HTTP: %q, %v", got, err)
	}

	acl := slb.CreateCreateAccessControlListRequest()
	acl.AclName = "clients"
	id := must(l.CreateAccessControlList(acl))(t).AclId
	entry := slb.CreateAddAccessControlListEntryRequest()
	entry.AclId, entry.AclEntrys = id, `[{"entry":"10.0.0.0/8","comment":"others"}]`
	must(l.AddAccessControlListEntry(entry))(t)
	set := slb.CreateSetLoadBalancerTCPListenerAttributeRequest()
	set.LoadBalancerId, set.ListenerPort, set.AclStatus, set.AclType, set.AclId = made.LoadBalancerId, requests.NewInteger(81), "on", "white", id
	must(l.SetLoadBalancerTCPListenerAttribute(set))(t)
	if got, err := get("81"); err == nil {
		t.Errorf("a client that is not in the list gets %q", got)
	}
	entry.AclEntrys = fmt.Sprintf(`[{"entry":"%s/32"}]`, address(client))
	must(l.AddAccessControlListEntry(entry))(t)
	if got, err := get("81"); err != nil {
		t.Errorf("a client that is in the list gets %q, %v", got, err)
	}
}
