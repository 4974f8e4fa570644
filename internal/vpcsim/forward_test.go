package vpcsim_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/ecs"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/nlb"

	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/fabric"
	"terway.dev/terway/internal/vpcsim/state"
)

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

	health := func() state.Health { return s.View().Balancers[0].Listeners[0].Backends[0].Health }
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
