package state_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/vpcsim/state"
)

// world is a cloud with a VPC, a vSwitch in it and a normal security group.
type world struct {
	*state.State
	t     *testing.T
	clock *clock
	vpc   string
	table string
	vsw   string
	sg    string
}

const zone = "cn-hangzhou-i"

type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func options(c *clock) state.Options {
	return state.Options{Now: c.Now, Seed: 1, Catalog: catalog.Default()}
}

func newWorld(t *testing.T, change ...func(*state.Options)) *world {
	t.Helper()
	c := &clock{time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	o := options(c)
	for _, f := range change {
		f(&o)
	}
	s, err := state.New(o)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{State: s, t: t, clock: c}
	vpc := must(s.CreateVpc(state.CreateVpcRequest{CidrBlock: "192.168.0.0/16", EnableIpv6: true}))
	w.vpc, w.table = vpc.VpcId, vpc.RouteTableId
	w.settle()
	w.vsw = w.vSwitch("192.168.1.0/24")
	w.sg = must(s.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: w.vpc}))
	return w
}

// settle completes all operations.
func (w *world) settle() {
	for {
		check(w.CheckIndex())
		due, ok := w.NextDue()
		if !ok {
			return
		}
		if due.After(w.clock.now) {
			w.clock.now = due
		}
		w.Tick(w.clock.now)
	}
}

func (w *world) vSwitch(cidr string) string {
	n := len(must(w.DescribeVSwitches(state.DescribeVSwitchesRequest{})))
	id := must(w.CreateVSwitch(state.CreateVSwitchRequest{VpcId: w.vpc, ZoneId: zone, CidrBlock: cidr, Ipv6CidrBlock: &n}))
	w.settle()
	return id
}

// eni creates an Available ENI.
func (w *world) eni(change ...func(*state.CreateNetworkInterfaceRequest)) *state.NetworkInterface {
	req := state.CreateNetworkInterfaceRequest{VSwitchId: w.vsw, SecurityGroupId: w.sg}
	for _, f := range change {
		f(&req)
	}
	id := must(w.CreateNetworkInterface(req)).NetworkInterfaceId
	w.settle()
	return w.getENI(id)
}

func (w *world) getENI(id string) *state.NetworkInterface {
	return must(w.DescribeNetworkInterfaceAttribute(id))
}

// instance creates a Running instance.
func (w *world) instance(instanceType string) string {
	id := must(w.RunInstances(state.RunInstancesRequest{InstanceType: instanceType, VSwitchId: w.vsw, SecurityGroupId: w.sg}))[0]
	w.settle()
	return id
}

func (w *world) getInstance(id string) *state.Instance {
	return must(w.DescribeInstanceAttribute(id))
}

// attached creates an ENI that is InUse.
func (w *world) attached(instance string, change ...func(*state.CreateNetworkInterfaceRequest)) *state.NetworkInterface {
	eni := w.eni(change...)
	check(w.AttachNetworkInterface(state.AttachNetworkInterfaceRequest{NetworkInterfaceId: eni.NetworkInterfaceId, InstanceId: instance}))
	w.settle()
	return w.getENI(eni.NetworkInterfaceId)
}

func (w *world) available(vsw string) int {
	return must(w.DescribeVSwitchAttributes(vsw)).AvailableIpAddressCount
}

// saved returns the whole state as text.
func (w *world) saved() string {
	return string(must(w.MarshalJSON()))
}

// refused checks that a call fails with a status and code and changes nothing.
func (w *world) refused(status int, code string, call func() error) {
	w.t.Helper()
	before := w.saved()
	err := call()
	var e *state.Error
	if !errors.As(err, &e) || e.Code != code || e.HTTPStatus != status || e.Message == "" {
		w.t.Errorf("got %v, want %d %s", err, status, code)
	}
	if w.saved() != before {
		w.t.Errorf("the refused call changed the state (%v)", err)
	}
}

// errOf drops a call's answer.
func errOf[T any](_ T, err error) error { return err }

func must[T any](v T, err error) T {
	check(err)
	return v
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func ptr[T any](v T) *T { return &v }

func addrs(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, t := range texts {
		all = append(all, netip.MustParseAddr(t))
	}
	return all
}
