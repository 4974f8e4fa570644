//go:build bench

package scale

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/faults"
	"terway.dev/terway/internal/vpcsim/openapi"
	"terway.dev/terway/internal/vpcsim/state"
)

const (
	regionID = "cn-hangzhou"
	// vswitchesPerZone is the number of a large user. As in a plan, they hold all addresses
	// that the nodes' ENIs can have: an ENI in a full vSwitch leaves its node short.
	vswitchesPerZone = 16
	// groupsOfNodes: an enterprise security group holds 65,536 addresses.
	groupsOfNodes = 8
)

var zoneIDs = []string{regionID + "-i", regionID + "-j", regionID + "-k"}

// region is the simulated cloud with a cluster's VPC, vSwitches and instances. It has no data
// plane: ENIs are entries in its state.
type region struct {
	*vpcsim.Server
	// pods are the Pod vSwitches by zone.
	pods map[string][]string
	// machines are the instances, in the order of the nodes.
	machines []machine
}

type machine struct {
	id, zone string
	address  netip.Addr
}

// newRegion returns a region whose calls are answered at once, at any rate, until pace is
// called.
func newRegion(t testing.TB, instances int, instanceType string) *region {
	t.Helper()
	if _, ok := catalog.Lookup(instanceType); !ok {
		t.Fatalf("TYPE=%s: the catalogue has no such instance type", instanceType)
	}
	timing := state.DefaultTiming()
	timing.VPC, timing.VSwitch, timing.InstancePend, timing.InstanceStart = 0, 0, 0, 0
	sim, err := vpcsim.New(vpcsim.Options{
		RegionID: regionID, Zones: zoneIDs, Seed: 1, Timing: timing, Throttle: openapi.Throttle{Off: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	r := &region{Server: sim, pods: map[string][]string{}}
	if err := r.fill(t.Context(), instances, instanceType); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *region) fill(ctx context.Context, instances int, instanceType string) error {
	var vpc string
	nodes := map[string]string{}
	var groups []string
	make := func(f func(api state.API) error) error { return r.Write(ctx, f) }
	if err := make(func(api state.API) error {
		v, err := api.CreateVpc(state.CreateVpcRequest{CidrBlock: "10.0.0.0/8", VpcName: "bench"})
		if err != nil {
			return err
		}
		vpc = v.VpcId
		return nil
	}); err != nil {
		return err
	}
	next := 0
	vswitch := func(zone string) (id string, err error) {
		block := fmt.Sprintf("10.%d.%d.0/19", next/8, next%8*32)
		next++
		err = make(func(api state.API) error {
			id, err = api.CreateVSwitch(state.CreateVSwitchRequest{VpcId: vpc, ZoneId: zone, CidrBlock: block})
			return err
		})
		return id, err
	}
	for _, zone := range zoneIDs {
		id, err := vswitch(zone)
		if err != nil {
			return err
		}
		nodes[zone] = id
		for range vswitchesPerZone {
			if id, err = vswitch(zone); err != nil {
				return err
			}
			r.pods[zone] = append(r.pods[zone], id)
		}
	}
	for range groupsOfNodes {
		if err := make(func(api state.API) error {
			id, err := api.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: vpc, SecurityGroupType: state.SecurityGroupEnterprise})
			groups = append(groups, id)
			return err
		}); err != nil {
			return err
		}
	}
	// Many requests, so that zones and groups have equal numbers of instances.
	order := min(100, max(1, instances/(len(zoneIDs)*len(groups))))
	for made := 0; made < instances; made += order {
		zone, group := zoneIDs[made/order%len(zoneIDs)], groups[made/order%len(groups)]
		n := min(order, instances-made)
		if err := make(func(api state.API) error {
			_, err := api.RunInstances(state.RunInstancesRequest{
				Amount: &n, InstanceType: instanceType, ImageId: "debian_12_x64_20G_alibase.vhd",
				ZoneId: zone, VSwitchId: nodes[zone], SecurityGroupIds: []string{group},
			})
			return err
		}); err != nil {
			return err
		}
	}
	return r.Read(ctx, 0, func(api state.API) error {
		all, err := api.DescribeInstances(state.DescribeInstancesRequest{})
		for _, i := range all {
			if i.Status != state.InstanceRunning {
				return fmt.Errorf("instance %s is %s", i.InstanceId, i.Status)
			}
			r.machines = append(r.machines, machine{i.InstanceId, i.ZoneId, i.PrimaryIpAddress})
		}
		return err
	})
}

// latencyRule is the name of the rule for the duration of every call.
const latencyRule = "latency"

// pace sets the rates of calls, the duration of a call and of ENI operations to those of the
// real service, times factor. The controller's own timers do not change.
func (r *region) pace(ctx context.Context, factor float64, latency time.Duration) error {
	scale := func(d time.Duration) time.Duration { return time.Duration(float64(d) / factor) }
	r.SetThrottle(openapi.Throttle{Scale: factor})
	timing := state.DefaultTiming()
	timing.CreateENI, timing.AttachENI = scale(timing.CreateENI), scale(timing.AttachENI)
	timing.DetachENI, timing.DeleteENI = scale(timing.DetachENI), scale(timing.DeleteENI)
	if err := r.Write(ctx, func(api state.API) error { api.SetTiming(timing); return nil }); err != nil {
		return err
	}
	r.RemoveFault(latencyRule)
	return r.AddFaults(faults.Rule{Name: latencyRule, Action: "*", Latency: &faults.Latency{Fixed: faults.Duration(scale(latency))}})
}

// calls has the statistics of each action, without those before; throttled calls are counted
// separately.
type calls map[string]openapi.ActionStats

func (r *region) calls() calls { return r.Stats().Snapshot() }

// since returns the difference to before.
func (c calls) since(before calls) calls {
	out := calls{}
	for action, now := range c {
		was := before[action]
		now.Calls -= was.Calls
		now.Errors -= was.Errors
		now.Throttled -= was.Throttled
		now.Seconds -= was.Seconds
		if now.Calls > 0 {
			out[action] = now
		}
	}
	return out
}

// actions returns the names in order.
func (c calls) actions() (names []string) {
	for name := range c {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (c calls) String() string {
	var parts []string
	for _, action := range c.actions() {
		parts = append(parts, fmt.Sprintf("%s %d", action, c[action].Calls))
	}
	return strings.Join(parts, ", ")
}

// addresses returns the addresses of all attached secondary ENIs, with their instance.
func (r *region) addresses(ctx context.Context) (map[netip.Addr]string, error) {
	out := map[netip.Addr]string{}
	err := r.Read(ctx, 0, func(api state.API) error {
		all, err := api.DescribeNetworkInterfaces(state.DescribeNetworkInterfacesRequest{Type: state.ENISecondary})
		for _, e := range all {
			for _, a := range e.PrivateIpAddresses {
				out[a] = e.InstanceId
			}
		}
		return err
	})
	return out, err
}
