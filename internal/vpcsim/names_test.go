package vpcsim

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"terway.dev/terway/internal/testutil"
	"terway.dev/terway/internal/vpcsim/fabric"
	"terway.dev/terway/internal/vpcsim/state"
)

func TestAnswer(t *testing.T) {
	addresses := map[string][]netip.Addr{"nlb-1.nlb.aliyuncs.com.": {netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")}}
	for _, c := range []struct {
		name string
		kind dnsmessage.Type
		code dnsmessage.RCode
		want string
	}{
		{"nlb-1.nlb.aliyuncs.com.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, "198.51.100.1 198.51.100.2"},
		{"NLB-1.nlb.AliyunCS.com.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, "198.51.100.1 198.51.100.2"},
		{"nlb-1.nlb.aliyuncs.com.", dnsmessage.TypeAAAA, dnsmessage.RCodeSuccess, ""},
		{"nlb-2.nlb.aliyuncs.com.", dnsmessage.TypeA, dnsmessage.RCodeNameError, ""},
		{"nlb-2.nlb.aliyuncs.com.", dnsmessage.TypeAAAA, dnsmessage.RCodeNameError, ""},
	} {
		query := dnsmessage.Message{
			Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
			Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(c.name), Type: c.kind, Class: dnsmessage.ClassINET}},
		}
		packed, err := query.Pack()
		if err != nil {
			t.Fatal(err)
		}
		var got dnsmessage.Message
		if err := got.Unpack(answer(packed, addresses)); err != nil {
			t.Fatalf("%s %s: %v", c.kind, c.name, err)
		}
		var list []string
		for _, r := range got.Answers {
			list = append(list, netip.AddrFrom4(r.Body.(*dnsmessage.AResource).A).String())
		}
		if got.ID != 7 || !got.Response || got.RCode != c.code || strings.Join(list, " ") != c.want || !slices.Equal(got.Questions, query.Questions) {
			t.Errorf("%s %s: %+v", c.kind, c.name, got)
		}
		query.Response = true
		if packed, err = query.Pack(); err != nil || answer(packed, addresses) != nil {
			t.Errorf("%s %s: a reply is answered, %v", c.kind, c.name, err)
		}
	}
	for _, query := range []string{"", "short", "twelve bytes"} {
		if got := answer([]byte(query), addresses); got != nil {
			t.Errorf("%q is answered with %q", query, got)
		}
	}
}

// An instance and a client outside ask for the name of an NLB, also after their namespaces were made anew.
func TestNamesOfLoadBalancers(t *testing.T) {
	testutil.RequireRoot(t)
	ip := netip.MustParseAddr
	f, err := fabric.New(fabric.Options{Prefix: fmt.Sprintf("vs%08x-", rand.Uint32()), Strict: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Destroy(); err != nil {
			t.Error(err)
		}
	})
	plane := &names{at: f, log: slog.New(slog.DiscardHandler), open: map[string]*resolver{}}
	t.Cleanup(func() {
		if err := plane.Close(); err != nil {
			t.Error(err)
		}
	})
	private, public := state.BalancerAddress{Address: ip("10.0.0.100"), VSwitchId: "vsw-1"}, state.BalancerAddress{Address: ip("198.51.100.1"), Public: true}
	view := state.View{
		VSwitches:      []state.VSwitch{{VSwitchId: "vsw-1", VpcId: "vpc-1", CidrBlock: netip.MustParsePrefix("10.0.0.0/24"), RouteTableId: "vtb-1"}},
		SecurityGroups: []state.SecurityGroup{{SecurityGroupId: "sg-1", SecurityGroupType: state.SecurityGroupNormal, InnerAccessPolicy: state.PolicyDrop}},
		Instances: []state.InstanceView{{Instance: state.Instance{
			InstanceId: "i-1", Status: state.InstanceRunning,
			NetworkInterfaces: []state.NetworkInterface{{
				NetworkInterfaceId: "eni-1", Type: state.ENIPrimary, VpcId: "vpc-1", VSwitchId: "vsw-1",
				MacAddress: "00:16:3e:00:00:01", PrivateIpAddresses: []netip.Addr{ip("10.0.0.1")}, SecurityGroupIds: []string{"sg-1"},
			}},
		}}},
	}
	to := func(p Plane, balancers ...state.Balancer) {
		t.Helper()
		view.Revision++
		view.Balancers = balancers
		if err := p.Apply(t.Context(), &view); err != nil {
			t.Fatal(err)
		}
	}
	apply := func(balancers ...state.Balancer) {
		t.Helper()
		to(Dataplane{Fabric: f}, balancers...)
		to(plane, balancers...)
	}
	resolve := func(from, at string) string {
		t.Helper()
		path, err := f.NetNSPath(from)
		if err != nil {
			return err.Error()
		}
		r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return fabric.DialAt(ctx, path, network, netip.AddrPortFrom(ip(at), 53))
		}}
		got, err := r.LookupHost(t.Context(), "nlb-1.nlb.aliyuncs.com.")
		if err != nil {
			return err.Error()
		}
		return strings.Join(got, " ")
	}
	want := func(from, at, want string) {
		t.Helper()
		if got := resolve(from, at); got != want {
			t.Errorf("%s asks %s: %s, want %s", from, at, got, want)
		}
	}
	nlb := state.Balancer{LoadBalancerId: "nlb-1", VpcId: "vpc-1", DNSName: "nlb-1.nlb.aliyuncs.com", Addresses: []state.BalancerAddress{private}}
	inside, outside := fabric.BalancerSource.Addr().String(), fabric.Outside.Addr().String()
	apply(nlb)
	want("i-1", inside, "10.0.0.100")
	both := nlb
	both.Addresses = []state.BalancerAddress{private, public}
	for range 2 {
		apply(both)
		want("i-1", inside, "198.51.100.1")
		want(fabric.OutsideID, outside, "198.51.100.1")
		to(Dataplane{Fabric: f}) // the next plane did not come to it
		apply(state.Balancer{LoadBalancerId: "lb-2", VpcId: "vpc-1", Addresses: []state.BalancerAddress{public}})
		if got := resolve("i-1", inside); !strings.Contains(got, "no such host") {
			t.Errorf("the name of an NLB that is gone: %s", got)
		}
	}
}
