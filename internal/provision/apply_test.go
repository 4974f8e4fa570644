package provision_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/plan"
	"terway.dev/terway/internal/provision"
	"terway.dev/terway/internal/testutil/testclock"
	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/faults"
	"terway.dev/terway/internal/vpcsim/state"
)

func plans() map[string]*plan.Plan {
	return map[string]*plan.Plan{"two zones": example(), "secondary range, enterprise": full(), "flannel": flannel()}
}

// The command would accept the plans of these tests.
func TestPlansAreSound(t *testing.T) {
	for name, p := range plans() {
		if ps := plan.Check(p, types()); len(ps) > 0 {
			t.Errorf("%s: %v", name, plan.Problems(ps))
		}
	}
}

func TestApplyMakesThePlanOnce(t *testing.T) {
	for name, p := range plans() {
		t.Run(name, func(t *testing.T) {
			// The slowest simulator, in the time of the test's clock.
			s := start(t, func(o *vpcsim.Options) {
				o.Timing = state.Timing{VPC: 5 * time.Millisecond, VSwitch: 5 * time.Millisecond}
			})
			preview, err := s.provisioner(t).Preview(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			same(t, "after the preview", s.inventory(t), []string{})
			n, done, err := s.provisioner(t).Apply(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			same(t, "after the first run", s.inventory(t), wanted(p))
			if !slices.Equal(done, preview) {
				t.Errorf("done: %q, the preview said %q", done, preview)
			}
			again, done, err := s.provisioner(t).Apply(t.Context(), p)
			if err != nil || len(done) != 0 {
				t.Errorf("the second run did %q, %v", done, err)
			}
			if fmt.Sprint(again) != fmt.Sprint(n) {
				t.Errorf("the second run shows %v, the first %v", again, n)
			}
			same(t, "after the second run", s.inventory(t), wanted(p))
		})
	}
}

// Nothing is created for a plan with a zone that does not exist.
func TestApplyWithoutTheZone(t *testing.T) {
	s := start(t)
	p := example()
	p.Zones[1].ID = "cn-hangzhou-z"
	preview, err := s.provisioner(t).Preview(t.Context(), p)
	for _, err := range []error{err, func() error { _, _, err := s.provisioner(t).Apply(t.Context(), p); return err }()} {
		if err == nil || !strings.Contains(err.Error(), "zone cn-hangzhou-z: region cn-hangzhou has no such zone") || !strings.Contains(err.Error(), "cn-hangzhou-i, ") {
			t.Errorf("error %v (preview %q)", err, preview)
		}
	}
	same(t, "after both", s.inventory(t), []string{})
}

// After a kill at any call, before or after the cloud has carried it out, the next run completes
// exactly the plan.
func TestApplyIsFinishedByTheNextRun(t *testing.T) {
	p := full()
	for _, late := range []bool{false, true} {
		for k := 0; ; k++ {
			s := start(t)
			_, _, err := s.provisioner(t).Apply(s.wire.cutAfter(t, k, late), p)
			if s.wire.mend() <= k { // done before the cut
				if err != nil {
					t.Fatal(err)
				}
				if k < 10 {
					t.Fatalf("apply makes %d calls: this test does not see them", k)
				}
				break
			}
			if err == nil {
				t.Fatalf("killed after %d calls, apply says that it succeeded", k)
			}
			if _, _, err := s.provisioner(t).Apply(t.Context(), p); err != nil {
				t.Errorf("killed after %d calls (late %t), then: %v", k, late, err)
			}
			same(t, fmt.Sprintf("killed after %d calls (late %t)", k, late), s.inventory(t), wanted(p))
			if t.Failed() {
				return
			}
		}
	}
}

// Whatever temporary faults occur, several runs result in exactly the plan.
func TestApplyInTrouble(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		all := plans()
		p := all[rapid.SampledFrom([]string{"two zones", "secondary range, enterprise", "flannel"}).Draw(rt, "plan")]
		s := start(t, func(o *vpcsim.Options) {
			o.Seed = rapid.Uint64().Draw(rt, "seed")
			o.Timing = state.Timing{VPC: 3 * time.Millisecond, VSwitch: 3 * time.Millisecond}
		})
		actions := rapid.SampledFrom([]string{"*", "Create*", "Describe*", "Associate*", "Authorize*", "CreateVSwitch", "CreateVpc", "CreateSecurityGroup"})
		for i := range rapid.IntRange(1, 4).Draw(rt, "rules") {
			r := faults.Rule{Name: fmt.Sprint(i), Action: actions.Draw(rt, "action"),
				Skip: rapid.IntRange(0, 8).Draw(rt, "skip"), Count: rapid.IntRange(1, 3).Draw(rt, "count")}
			switch rapid.IntRange(0, 3).Draw(rt, "kind") {
			case 0:
				r.LostAnswer = true
			case 1:
				r.Error = &faults.Error{Code: rapid.SampledFrom([]string{"TaskConflict", "IncorrectVpcStatus", "LastTokenProcessing", "Throttling.User", "DependencyViolation"}).Draw(rt, "code")}
			case 2:
				r.Error = &faults.Error{Code: "InternalError", Status: 500}
			case 3:
				r.Action, r.Stale = "Describe*", faults.Duration(4*time.Millisecond)
			}
			if err := s.AddFaults(r); err != nil {
				rt.Fatal(err)
			}
		}
		for tries := 0; ; tries++ {
			_, _, err := s.provisioner(t).Apply(t.Context(), p)
			if err == nil {
				break
			}
			if tries == 12 { // the rules end after 12 hits at most
				rt.Fatal(err)
			}
		}
		s.RemoveFault("")
		if got, want := s.inventory(t), wanted(p); !slices.Equal(got, want) {
			rt.Fatalf("the cloud holds\n%q\nwant\n%q", got, want)
		}
		if _, done, err := s.provisioner(t).Apply(t.Context(), p); err != nil || len(done) > 0 {
			rt.Fatalf("another run did %q, %v", done, err)
		}
	})
}

// Resources that differ from the plan are named with both values, all at once, and nothing is
// changed.
func TestApplyRefusesWhatDiffers(t *testing.T) {
	s := start(t)
	if _, _, err := s.provisioner(t).Apply(t.Context(), example()); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*plan.Plan)
		want   []string
	}{
		"VPC's range":       {func(p *plan.Plan) { p.VPC.CIDR = ranges("192.168.0.0/17")[0] }, []string{"192.168.0.0/16", "192.168.0.0/17"}},
		"vSwitch's range":   {func(p *plan.Plan) { p.Zones[0].Pods[0].CIDR = ranges("192.168.32.0/20")[0] }, []string{"pod-i", "192.168.32.0/19", "192.168.32.0/20"}},
		"vSwitch elsewhere": {func(p *plan.Plan) { p.Zones[0].Pods[0].CIDR = ranges("192.168.128.0/19")[0] }, []string{"pod-i", "192.168.32.0/19", "192.168.128.0/19"}},
		"zone":              {func(p *plan.Plan) { p.Zones[0].ID, p.Zones[1].ID = p.Zones[1].ID, p.Zones[0].ID }, []string{"cn-hangzhou-i", "cn-hangzhou-j"}},
		"security group":    {func(p *plan.Plan) { p.SecurityGroup = plan.GroupEnterprise }, []string{"normal", "enterprise"}},
		"all at once": {func(p *plan.Plan) {
			p.SecurityGroup, p.VPC.CIDR, p.Zones[1].Pods[0].CIDR = plan.GroupEnterprise, ranges("192.168.0.0/17")[0], ranges("192.168.96.0/20")[0]
		}, []string{"enterprise", "192.168.0.0/17", "pod-j", "192.168.96.0/20"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := example()
			c.change(p)
			_, done, err := s.provisioner(t).Apply(t.Context(), p)
			if err == nil || len(done) > 0 {
				t.Fatalf("done %q, error %v", done, err)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q is not in: %v", w, err)
				}
			}
			same(t, "afterwards", s.inventory(t), wanted(example()))
		})
	}
}

func TestApplyLeavesOthersAlone(t *testing.T) {
	s := start(t)
	// A VPC of the same name and range without a tag, and another plan's.
	s.write(t, func(a state.API) error {
		_, err := a.CreateVpc(state.CreateVpcRequest{CidrBlock: "192.168.0.0/16", VpcName: "shop"})
		return err
	})
	other := example()
	other.Name = "shop-2"
	if _, _, err := s.provisioner(t).Apply(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	before := s.inventory(t)
	if _, _, err := s.provisioner(t).Apply(t.Context(), example()); err != nil {
		t.Fatal(err)
	}
	want := append(slices.Clone(before), wanted(example())...)
	slices.Sort(want)
	same(t, "both plans", s.inventory(t), want)
	if _, err := s.provisioner(t).Delete(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	same(t, "the plan deleted", s.inventory(t), before)
}

// A range that somebody else has added to the VPC is ignored, unless the plan has its Services or
// pods in it.
func TestApplyBesideAForeignRange(t *testing.T) {
	s := start(t)
	p := flannel()
	if _, _, err := s.provisioner(t).Apply(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	vpc := s.View().VPCs[0].VpcId
	add := func(cidr string) {
		s.write(t, func(a state.API) error {
			return a.AssociateVpcCidrBlock(state.AssociateVpcCidrBlockRequest{VpcId: vpc, SecondaryCidrBlock: cidr})
		})
	}
	add("10.0.0.0/16")
	if _, done, err := s.provisioner(t).Apply(t.Context(), p); err != nil || len(done) > 0 {
		t.Errorf("did %q, %v; want nothing", done, err)
	}
	add("172.21.0.0/24")
	add("172.20.128.0/17")
	_, _, err := s.provisioner(t).Apply(t.Context(), p)
	for _, want := range []string{"172.21.0.0/24, which overlaps the plan's serviceCIDR 172.21.0.0/20", "172.20.128.0/17, which overlaps the plan's podCIDR 172.20.0.0/16"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

// A vSwitch of somebody else in the plan's range is refused, until it has the plan's tag.
func TestApplyTakesOverWhatIsTagged(t *testing.T) {
	s := start(t)
	p := example()
	n, _, err := s.provisioner(t).Apply(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	var id string
	s.write(t, func(a state.API) (err error) {
		id, err = a.CreateVSwitch(state.CreateVSwitchRequest{VpcId: n.VPC.ID, ZoneId: "cn-hangzhou-i", CidrBlock: "192.168.128.0/19", VSwitchName: "by-hand"})
		return err
	})
	p.Zones[0].Pods = append(p.Zones[0].Pods, vsw("pod-i-2", "192.168.128.0/19"))
	if _, _, err := s.provisioner(t).Apply(t.Context(), p); err == nil || !strings.Contains(err.Error(), id) || !strings.Contains(err.Error(), "terway.dev/plan=shop") {
		t.Fatalf("%v: want an error that names %s and the tag", err, id)
	}
	s.write(t, func(a state.API) error {
		return a.TagResources(state.TagResourcesRequest{ResourceType: "vswitch", ResourceId: []string{id}, Tag: []state.Tag{{Key: "terway.dev/plan", Value: "shop"}}})
	})
	n, done, err := s.provisioner(t).Apply(t.Context(), p)
	if err != nil || len(done) > 0 {
		t.Fatalf("did %q, %v", done, err)
	}
	if c := n.ENIConfig(p); !slices.Contains(c.VSwitches["cn-hangzhou-i"], id) {
		t.Errorf("eni-config %v does not have %s", c, id)
	}
}

func TestTwoVPCsOfOnePlan(t *testing.T) {
	s := start(t)
	for range 2 {
		s.write(t, func(a state.API) error {
			_, err := a.CreateVpc(state.CreateVpcRequest{CidrBlock: "192.168.0.0/16", Tag: []state.Tag{{Key: claims.TagPlan, Value: "shop"}}})
			return err
		})
	}
	_, _, err := s.provisioner(t).Apply(t.Context(), example())
	for _, v := range s.View().VPCs {
		if err == nil || !strings.Contains(err.Error(), v.VpcId) {
			t.Errorf("%v: want an error that names %s", err, v.VpcId)
		}
	}
}

// The cloud keeps the token of a deleted resource; the plan is created again anyway.
func TestMadeAgainAfterDelete(t *testing.T) {
	s := start(t)
	for range 3 {
		if _, _, err := s.provisioner(t).Apply(t.Context(), example()); err != nil {
			t.Fatal(err)
		}
		same(t, "applied", s.inventory(t), wanted(example()))
		if _, err := s.provisioner(t).Delete(t.Context(), "shop"); err != nil {
			t.Fatal(err)
		}
		same(t, "deleted", s.inventory(t), []string{})
	}
}

// The cloud also keeps the token of a failed call: the next token is used.
func TestMadeAgainAfterAFailedCall(t *testing.T) {
	s := start(t)
	for _, action := range []string{"CreateVpc", "CreateVSwitch", "CreateSecurityGroup"} {
		if err := s.AddFaults(faults.Rule{Action: action, Count: 1, Error: &faults.Error{Code: "IdempotentFailed"}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := s.provisioner(t).Apply(t.Context(), example()); err != nil {
		t.Fatal(err)
	}
	same(t, "afterwards", s.inventory(t), wanted(example()))
}

// A vSwitch that is being deleted is still listed: the run waits for it, and creates a new one.
func TestApplyWaitsForWhatIsBeingDeleted(t *testing.T) {
	s := start(t, func(o *vpcsim.Options) { o.Timing = state.Timing{VSwitch: 20 * time.Millisecond} })
	n, _, err := s.provisioner(t).Apply(t.Context(), example())
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, func(a state.API) error {
		return a.DeleteVSwitch(state.DeleteVSwitchRequest{VSwitchId: n.ByCIDR(ranges("192.168.32.0/19")[0]).ID})
	})
	if _, done, err := s.provisioner(t).Apply(t.Context(), example()); err != nil || len(done) != 1 {
		t.Errorf("did %q, %v; want a new vSwitch", done, err)
	}
	same(t, "afterwards", s.inventory(t), wanted(example()))
}

func TestApplySaysWhatTheCloudRefuses(t *testing.T) {
	s := start(t, func(o *vpcsim.Options) { o.Limits.VSwitchesPerVPC = 3 })
	_, done, err := s.provisioner(t).Apply(t.Context(), example())
	if cloud.Explain(err).Reason != "NetworkQuota" || !strings.Contains(fmt.Sprint(err), "pod-j") || len(done) != 4 {
		t.Errorf("done %q, error %v; want the quota, at vSwitch pod-j", done, err)
	}
}

// A list that lags behind lacks the VPC of a killed run: the token finds it.
func TestTokenFindsWhatListsDoNotShow(t *testing.T) {
	s := start(t)
	if err := s.AddFaults(faults.Rule{Action: "DescribeVpcs", Count: 3, Stale: faults.Duration(10 * time.Second)}); err != nil {
		t.Fatal(err)
	}
	// The first call lists VPCs, the second lists zones, the third creates the VPC.
	if _, _, err := s.provisioner(t).Apply(s.wire.cutAfter(t, 2, true), example()); err == nil {
		t.Fatal("the killed run says that it succeeded")
	}
	s.wire.mend()
	if n := len(s.View().VPCs); n != 1 {
		t.Fatalf("the killed run has made %d VPCs, want 1", n)
	}
	if _, _, err := s.provisioner(t).Apply(t.Context(), example()); err != nil {
		t.Fatal(err)
	}
	same(t, "after the second run", s.inventory(t), wanted(example()))
}

// A slow answer shows the state at the time of the call, so what it lacks need not be deleted:
// otherwise there would be two VPCs.
func TestASlowAnswerIsNoProof(t *testing.T) {
	s := start(t)
	p := s.provisioner(t)
	clock := testclock.New(time.Unix(0, 0))
	p.Cloud, p.Clock = &slowList{p.Cloud, clock, 1}, clock
	if _, _, err := p.Apply(t.Context(), example()); err != nil {
		t.Fatal(err)
	}
	same(t, "afterwards", s.inventory(t), wanted(example()))
}

// slowList is a cloud whose first lists of a VPC take a minute and lack it.
type slowList struct {
	provision.Cloud
	clock testclock.Clock
	slow  int
}

func (c *slowList) ListVPCs(ctx context.Context, f cloud.VPCFilter) ([]cloud.VPC, error) {
	if f.ID != "" && c.slow > 0 {
		c.slow--
		c.clock.Step(time.Minute)
		return nil, nil
	}
	return c.Cloud.ListVPCs(ctx, f)
}
