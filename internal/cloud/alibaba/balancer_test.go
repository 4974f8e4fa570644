package alibaba_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/cloud/alibaba"
	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/faults"
	"terway.dev/terway/internal/vpcsim/state"
)

// balancers is a simulated VPC with two vSwitches, an instance, and the client.
type balancers struct {
	*testing.T
	sim      *vpcsim.Server
	client   *alibaba.Client
	vpc      string
	vswitch  map[string]string // by zone
	group    string
	instance string
	eni      string
	ip       []netip.Addr
}

func newBalancers(t *testing.T) *balancers {
	t.Helper()
	sim, err := vpcsim.New(vpcsim.Options{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	b := &balancers{T: t, sim: sim, vswitch: map[string]string{}}
	write(t, sim, func(a state.API) error {
		v, err := a.CreateVpc(state.CreateVpcRequest{CidrBlock: "192.168.0.0/16"})
		if err == nil {
			b.vpc = v.VpcId
		}
		return err
	})
	for zone, cidr := range map[string]string{"cn-hangzhou-i": "192.168.0.0/19", "cn-hangzhou-h": "192.168.32.0/19"} {
		write(t, sim, func(a state.API) (err error) {
			b.vswitch[zone], err = a.CreateVSwitch(state.CreateVSwitchRequest{VpcId: b.vpc, ZoneId: zone, CidrBlock: cidr})
			return err
		})
	}
	write(t, sim, func(a state.API) (err error) {
		b.group, err = a.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: b.vpc})
		return err
	})
	write(t, sim, func(a state.API) error {
		ids, err := a.RunInstances(state.RunInstancesRequest{InstanceType: "ecs.g6.large", VSwitchId: b.vswitch["cn-hangzhou-i"], SecurityGroupId: b.group, ImageId: "none"})
		if err == nil {
			b.instance = ids[0]
		}
		return err
	})
	account := sim.Account()
	b.client, err = alibaba.New(alibaba.Config{Region: sim.Region(), ECSEndpoint: sim.Endpoint(), VPCEndpoint: sim.Endpoint(),
		SLBEndpoint: sim.Endpoint(), NLBEndpoint: sim.Endpoint(), Attempts: 2, Credentials: alibaba.StaticCredentials(account.AccessKeyID, account.AccessKeySecret)})
	if err != nil {
		t.Fatal(err)
	}
	enis, err := b.client.DescribeENIs(t.Context(), cloud.ENIFilter{InstanceID: b.instance})
	if err != nil || len(enis) != 1 {
		t.Fatalf("%v, %v", enis, err)
	}
	b.eni = enis[0].ID
	if b.ip, err = b.client.AssignAddresses(t.Context(), b.eni, 3, "a"); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *balancers) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// want checks settings.
func (b *balancers) want(what string, got, want map[string]string) {
	b.Helper()
	for k, v := range want {
		if got[k] != v {
			b.Errorf("%s: %s is %q, want %q", what, k, got[k], v)
		}
	}
}

// The life of a load balancer of each product, with every call.
func TestBalancers(t *testing.T) {
	for _, c := range []struct {
		name               string
		api                func(*alibaba.Client) cloud.BalancerAPI
		create, set        map[string]string
		listener, relisten map[string]string
		group, regroup     map[string]string
	}{
		{"CLB", (*alibaba.Client).CLB,
			map[string]string{"AddressType": "intranet", "LoadBalancerName": "a", "DeleteProtection": "on", "ModificationProtectionStatus": "ConsoleProtection", "InstanceChargeType": "PayBySpec", "LoadBalancerSpec": "slb.s1.small"},
			map[string]string{"LoadBalancerName": "b", "ModificationProtectionStatus": "NonProtection", "LoadBalancerSpec": "slb.s2.small"},
			map[string]string{"Scheduler": "wrr", "HealthCheckInterval": "7", "ConnectionDrain": "on", "ConnectionDrainTimeout": "30"},
			map[string]string{"Scheduler": "rr", "EstablishedTimeout": "100"}, nil, nil},
		{"NLB", (*alibaba.Client).NLB,
			map[string]string{"AddressType": "Intranet", "LoadBalancerName": "a0", "DeletionProtectionEnabled": "true", "ModificationProtectionStatus": "ConsoleProtection"},
			map[string]string{"LoadBalancerName": "b0", "CrossZoneEnabled": "false", "AddressType": "Internet", "ModificationProtectionStatus": "NonProtection"},
			map[string]string{"IdleTimeout": "60"}, map[string]string{"IdleTimeout": "70"},
			map[string]string{"Scheduler": "Wlc", "HealthCheckConfig.HealthCheckType": "HTTP", "HealthCheckConfig.HealthCheckHttpCode": "http_2xx,http_3xx", "HealthCheckConfig.HealthCheckInterval": "3"},
			map[string]string{"Scheduler": "rr", "HealthCheckConfig.HealthCheckHttpCode": "http_2xx"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBalancers(t)
			ctx, api := t.Context(), c.api(b.client)
			tags := map[string]string{"terway.dev/service": "u1", "creator": "terway"}
			want := cloud.NewBalancer{Token: "t1", VPC: b.vpc, Tags: tags, Settings: c.create}
			if c.name == "NLB" {
				want.Zones = b.vswitch
			} else {
				want.Settings["VSwitchId"] = b.vswitch["cn-hangzhou-i"]
			}
			id, err := api.CreateBalancer(ctx, want)
			b.must(err)
			if again, err := api.CreateBalancer(ctx, want); err != nil || again != id {
				t.Fatalf("the same token made %s, then %s, %v", id, again, err)
			}
			get := func() cloud.Balancer {
				t.Helper()
				for {
					one, err := api.DescribeBalancer(ctx, id)
					b.must(err)
					if one.Ready {
						return *one
					}
				}
			}
			b.want("load balancer", get().Settings, c.create)
			found, err := api.FindBalancers(ctx, "terway.dev/service", "u1")
			b.must(err)
			if len(found) != 1 || found[0].ID != id || found[0].Tags["creator"] != "terway" || found[0].VPC != b.vpc || found[0].Address.IsValid() == (found[0].Host != "") {
				t.Errorf("%+v", found)
			}
			b.want("found", found[0].Settings, c.create)
			if found, err := api.FindBalancers(ctx, "terway.dev/service", "u2"); err != nil || len(found) != 0 {
				t.Errorf("%+v, %v", found, err)
			}
			b.must(api.SetBalancer(ctx, id, c.set))
			b.want("changed load balancer", get().Settings, c.set)
			if err := api.SetBalancer(ctx, id, map[string]string{"ResourceGroupId": "x"}); cloud.ClassOf(err) != cloud.Invalid {
				t.Errorf("a setting that cannot be changed: %v", err)
			}
			b.must(api.SetTags(ctx, id, map[string]string{"more": "x"}, []string{"creator"}))
			if l := get(); l.Tags["more"] != "x" || l.Tags["creator"] != "" {
				t.Errorf("tags %v", l.Tags)
			}
			if c.name == "NLB" {
				b.must(api.SetSecurityGroups(ctx, id, []string{b.group}, nil))
				if l := get(); !slices.Equal(l.SecurityGroups, []string{b.group}) || len(l.Zones) != 2 || l.Zones["cn-hangzhou-h"] != b.vswitch["cn-hangzhou-h"] {
					t.Errorf("%+v", l)
				}
				b.must(api.SetSecurityGroups(ctx, id, nil, []string{b.group}))
				b.must(api.SetZones(ctx, id, b.vswitch))
			}

			group, err := api.CreateGroup(ctx, id, cloud.NewGroup{Token: "g1", Name: "k8s.80.web.shop", Protocol: "TCP", VPC: b.vpc, Tags: tags, Settings: c.group})
			b.must(err)
			groups := func() cloud.Group {
				t.Helper()
				all, err := api.ListGroups(ctx, id, "terway.dev/service", "u1")
				b.must(err)
				if len(all) != 1 || all[0].ID != group || all[0].Name != "k8s.80.web.shop" {
					t.Fatalf("%+v", all)
				}
				return all[0]
			}
			b.want("group", groups().Settings, c.group)
			b.must(api.SetGroup(ctx, group, c.regroup))
			b.want("changed group", groups().Settings, c.regroup)

			members := []cloud.Backend{
				{Server: b.eni, Type: cloud.ServerENI, Address: b.ip[0], Port: 8080, Weight: 100, Description: "k8s.80.web.shop"},
				{Server: b.eni, Type: cloud.ServerENI, Address: b.ip[1], Port: 8080, Weight: 7, Description: "k8s.80.web.shop"},
				{Server: b.instance, Type: cloud.ServerInstance, Port: 30080, Weight: 3, Description: "k8s.80.web.shop"},
			}
			b.must(api.AddBackends(ctx, group, members))
			list := func() map[cloud.BackendKey]cloud.Backend {
				t.Helper()
				all, err := api.ListBackends(ctx, group)
				b.must(err)
				m := map[cloud.BackendKey]cloud.Backend{}
				for _, x := range all {
					m[x.Key()] = x
				}
				return m
			}
			has := list()
			for _, x := range members {
				if got := has[x.Key()]; got.Weight != x.Weight || got.Type != x.Type || got.Description != x.Description {
					t.Errorf("%+v, want %+v", got, x)
				}
			}
			if n := groups().Backends; n != 3 {
				t.Errorf("%d backends", n)
			}
			members[1].Weight = 0
			b.must(api.WeighBackends(ctx, group, members[1:2]))
			b.must(api.RemoveBackends(ctx, group, members[2:]))
			if has = list(); len(has) != 2 || has[members[1].Key()].Weight != 0 || has[members[0].Key()].Weight != 100 {
				t.Errorf("%+v", has)
			}
			if err := api.AddBackends(ctx, group, []cloud.Backend{{Server: "eni-no", Type: cloud.ServerENI, Address: b.ip[2], Port: 1, Weight: 1}}); cloud.Explain(err).Reason != "BackendNotFound" {
				t.Errorf("an ENI that does not exist: %v", err)
			}

			b.must(api.CreateListener(ctx, id, cloud.Listener{Port: 80, Protocol: "TCP", Group: group, Description: "k8s.80.web.shop", Settings: c.listener}))
			listener := func() cloud.Listener {
				t.Helper()
				all, err := api.ListListeners(ctx, id)
				b.must(err)
				if len(all) != 1 || all[0].Port != 80 || all[0].Protocol != "TCP" || all[0].Group != group || all[0].Description != "k8s.80.web.shop" || !all[0].Running {
					t.Fatalf("%+v", all)
				}
				return all[0]
			}
			b.want("listener", listener().Settings, c.listener)
			if err := api.CreateListener(ctx, id, cloud.Listener{Port: 80, Protocol: "TCP", Group: group}); cloud.Explain(err).Reason != "ListenerExists" {
				t.Errorf("a second one: %v", err)
			}
			b.must(api.SetListener(ctx, listener(), c.relisten))
			if c.name == "NLB" { // where only a stopped one can be started
				if err := api.StartListener(ctx, listener()); cloud.Explain(err).Reason != "LoadBalancerBusy" {
					t.Errorf("it runs already: %v", err)
				}
			} else {
				b.must(api.StartListener(ctx, listener()))
			}
			b.want("changed listener", listener().Settings, c.relisten)
			h, err := api.Health(ctx, listener())
			b.must(err)
			if why := h.Of(members[0].Key()); why != "" {
				t.Errorf("%s: %q", members[0].Address, why)
			}
			if err := api.DeleteGroup(ctx, group); cloud.Explain(err).Reason != "LoadBalancerPartInUse" {
				t.Errorf("the group of a listener: %v", err)
			}
			was := listener()
			b.must(api.DeleteListener(ctx, was))
			b.must(api.DeleteListener(ctx, was))
			b.must(api.DeleteGroup(ctx, group))
			b.must(api.DeleteGroup(ctx, group))
			b.must(api.DeleteBalancer(ctx, id))
			b.must(api.DeleteBalancer(ctx, id))
			if _, err := api.DescribeBalancer(ctx, id); cloud.Explain(err).Reason != "LoadBalancerNotFound" {
				t.Errorf("%v", err)
			}
		})
	}
}

// A job that fails is an error, and one that does not end, too; many are asked for at once.
func TestJobs(t *testing.T) {
	b := newBalancers(t)
	ctx, api := t.Context(), b.client.NLB()
	group, err := api.CreateGroup(ctx, "", cloud.NewGroup{Token: "g", Name: "g1", Protocol: "TCP", VPC: b.vpc})
	b.must(err)
	one := []cloud.Backend{{Server: b.eni, Type: cloud.ServerENI, Address: b.ip[0], Port: 80, Weight: 1}}
	b.must(b.sim.AddFaults(faults.Rule{Name: "jobs", FailingJobs: true}))
	if err := api.AddBackends(ctx, group, one); err == nil || !strings.Contains(err.Error(), "Failed") {
		t.Errorf("a job that fails: %v", err)
	}
	b.sim.RemoveFault("jobs")
	b.must(b.sim.AddFaults(faults.Rule{Name: "stuck", StuckJobs: true}))
	short, cancel := context.WithCancel(ctx)
	ended := make(chan error)
	go func() { ended <- api.AddBackends(short, group, one) }()
	for {
		if _, err := api.ListBackends(ctx, group); cloud.ClassOf(err) == cloud.Conflict && err != nil {
			break
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("a job that does not end: %v", err)
	}
	b.sim.RemoveFault("stuck")
}

// The life of an access list of each product: an access control list of CLB, a security group for an NLB.
func TestAccess(t *testing.T) {
	prefixes := func(list ...string) (all []netip.Prefix) {
		for _, text := range list {
			all = append(all, netip.MustParsePrefix(text))
		}
		return all
	}
	for name, of := range map[string]func(*alibaba.Client) cloud.BalancerAPI{"CLB": (*alibaba.Client).CLB, "NLB": (*alibaba.Client).NLB} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBalancers(t)
			ctx, api := t.Context(), of(b.client)
			id, err := api.CreateAccess(ctx, cloud.NewAccess{Token: "a1", Name: "terway.u1", VPC: b.vpc, Tags: map[string]string{"s": "u1"}})
			b.must(err)
			want := func(sources ...string) {
				t.Helper()
				found, err := api.FindAccess(ctx, b.vpc, "s", "u1")
				b.must(err)
				if len(found) != 1 || found[0].ID != id {
					t.Fatalf("%+v", found)
				}
				slices.SortFunc(found[0].Sources, netip.Prefix.Compare)
				if !slices.Equal(found[0].Sources, prefixes(sources...)) {
					t.Errorf("%v, want %v", found[0].Sources, sources)
				}
			}
			want()
			b.must(api.ChangeAccess(ctx, id, prefixes("10.0.0.0/8", "192.0.2.7/32"), nil))
			want("10.0.0.0/8", "192.0.2.7/32")
			b.must(api.ChangeAccess(ctx, id, prefixes("198.51.100.0/24"), prefixes("10.0.0.0/8", "203.0.113.0/24")))
			want("192.0.2.7/32", "198.51.100.0/24")
			if name == "CLB" { // more than one call and page
				var many, shown []string
				for i := range 120 {
					many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 16).String())
				}
				shown = append(many, "192.0.2.7/32", "198.51.100.0/24")
				b.must(api.ChangeAccess(ctx, id, prefixes(many...), nil))
				want(shown...)
			}
			if found, err := api.FindAccess(ctx, b.vpc, "s", "u2"); err != nil || len(found) > 0 {
				t.Errorf("%+v, %v", found, err)
			}
			b.must(api.DeleteAccess(ctx, id))
			b.must(api.DeleteAccess(ctx, id))
			if found, err := api.FindAccess(ctx, b.vpc, "s", "u1"); err != nil || len(found) > 0 {
				t.Errorf("%+v, %v", found, err)
			}
		})
	}
}

// More jobs than one call asks for all end, and none needs a call of its own.
func TestManyJobs(t *testing.T) {
	b := newBalancers(t)
	const many = 50
	ended := make(chan error)
	for i := range many {
		go func() {
			_, err := b.client.NLB().CreateGroup(t.Context(), "", cloud.NewGroup{Token: fmt.Sprint("t", i), Name: fmt.Sprint("g", i), Protocol: "TCP", VPC: b.vpc})
			ended <- err
		}()
	}
	for range many {
		b.must(<-ended)
	}
	if n := b.sim.Stats().Snapshot()["ListAsynJobs"].Calls; n == 0 || n > many/2 {
		t.Errorf("%d queries for %d jobs", n, many)
	}
}
