package provision_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"terway.dev/terway/internal/plan"
	"terway.dev/terway/internal/provision"
	"terway.dev/terway/internal/vpcsim/state"
)

// onDisk writes a plan and applies it.
func onDisk(t *testing.T, s *simulator, p *plan.Plan) *provision.PlanFile {
	t.Helper()
	f := &provision.PlanFile{Path: filepath.Join(t.TempDir(), "plan.yaml"), Types: types()}
	if err := f.Save(p); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.provisioner(t).Apply(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	return f
}

func load(t *testing.T, f *provision.PlanFile) *plan.Plan {
	t.Helper()
	p, err := f.Load()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// uses returns a cluster that uses every Pod vSwitch of the plan.
func uses(t *testing.T, s *simulator, f *provision.PlanFile) *provision.Cluster {
	t.Helper()
	p := load(t, f)
	n, err := s.provisioner(t).Show(t.Context(), p.Name)
	if err != nil {
		t.Fatal(err)
	}
	c := &provision.Cluster{}
	for _, ids := range n.ENIConfig(p).VSwitches {
		c.VSwitches = append(c.VSwitches, ids...)
	}
	c.Adopt = func(_ context.Context, _, id string) error {
		c.VSwitches = append(c.VSwitches, id)
		return nil
	}
	return c
}

// tidy checks that no file is left beside the plan.
func tidy(t *testing.T, f *provision.PlanFile) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(f.Path))
	if err != nil || len(entries) != 1 {
		t.Errorf("beside the plan there is %v, %v", entries, err)
	}
}

func TestGrow(t *testing.T) {
	s := start(t)
	f := onDisk(t, s, example())
	for i, want := range []string{"192.168.128.0/19", "192.168.160.0/19", "192.168.192.0/19", "192.168.224.0/19", "10.0.0.0/19", "10.0.32.0/19"} {
		var adopted string
		c := uses(t, s, f)
		c.Adopt = func(_ context.Context, zone, id string) error {
			adopted = zone + " " + id
			return nil
		}
		g, err := s.provisioner(t).Grow(t.Context(), f, plan.Growth{Zone: "cn-hangzhou-i", Bits: 19}, c)
		if err != nil {
			t.Fatal(err)
		}
		if g.VSwitch.CIDR.String() != want || g.Resumed || adopted != "cn-hangzhou-i "+g.VSwitch.ID || !strings.HasPrefix(g.VSwitch.ID, "vsw-") {
			t.Errorf("grow number %d: %+v, the cluster got %q; want %s", i+1, g.VSwitch, adopted, want)
		}
		if c := g.Network.ENIConfig(g.Plan).VSwitches["cn-hangzhou-i"]; len(c) != i+2 || c[i+1] != g.VSwitch.ID {
			t.Errorf("grow number %d: eni-config has %v", i+1, c)
		}
		tidy(t, f)
	}
	p := load(t, f)
	same(t, "the plan's", s.inventory(t), wanted(p))
	if fmt.Sprint(p.VPC.Secondary) != "[10.0.0.0/16]" {
		t.Errorf("secondary ranges %v", p.VPC.Secondary)
	}
}

// After a kill at any call, or before the cluster's configuration is changed, the next grow
// completes that one and adds no other.
func TestGrowIsFinishedByTheNextRun(t *testing.T) {
	crowded := func(t *testing.T) (*simulator, *provision.PlanFile) {
		s := start(t)
		p := example()
		p.SecurityGroup = plan.GroupEnterprise
		f := onDisk(t, s, p)
		vpc := s.View().VPCs[0].VpcId
		s.write(t, func(a state.API) error { // the VPC is full
			_, err := a.CreateVSwitch(state.CreateVSwitchRequest{VpcId: vpc, ZoneId: "cn-hangzhou-i", CidrBlock: "192.168.128.0/17"})
			return err
		})
		return s, f
	}
	ask := plan.Growth{Zone: "cn-hangzhou-j", Bits: 19}
	killed := errors.New("killed")
	for _, late := range []bool{false, true} {
		for k := 0; ; k++ {
			s, f := crowded(t)
			c := uses(t, s, f)
			c.Adopt = func(context.Context, string, string) error { return killed }
			ctx := s.wire.cutAfter(t, k, late)
			_, err := s.provisioner(t).Grow(ctx, f, ask, c)
			if err == nil {
				t.Fatal("grow succeeded although the cluster was not changed")
			}
			calls := s.wire.mend()
			began, err := os.Stat(f.Path + ".growing")
			c.Adopt = func(context.Context, string, string) error { return nil }
			g, err2 := s.provisioner(t).Grow(t.Context(), f, ask, c)
			if err2 != nil {
				t.Fatalf("killed after %d calls (late %t), then: %v", k, late, err2)
			}
			if g.Resumed != (err == nil) {
				t.Errorf("killed after %d calls: resumed is %t, the record was there: %v %v", k, g.Resumed, began, err)
			}
			p := load(t, f)
			if n := len(p.Zones[1].Pods); n != 2 {
				t.Errorf("killed after %d calls (late %t): zone j has %d Pod vSwitches, want 2", k, late, n)
			}
			tidy(t, f)
			got := slices.DeleteFunc(s.inventory(t), func(line string) bool { return strings.Contains(line, "192.168.128.0/17") })
			same(t, fmt.Sprintf("killed after %d calls (late %t)", k, late), got, wanted(p))
			if t.Failed() {
				return
			}
			if calls <= k {
				if k < 8 {
					t.Fatalf("grow makes %d calls: this test does not see them", calls)
				}
				break
			}
		}
	}
}

func TestGrowFinishesTheOldOneFirst(t *testing.T) {
	s := start(t)
	f := onDisk(t, s, example())
	refused := errors.New("no such cluster")
	c := uses(t, s, f)
	c.Adopt = func(context.Context, string, string) error { return refused }
	_, err := s.provisioner(t).Grow(t.Context(), f, plan.Growth{Zone: "cn-hangzhou-i", Bits: 20}, c)
	if !errors.Is(err, refused) {
		t.Fatal(err)
	}
	for _, other := range []plan.Growth{{Zone: "cn-hangzhou-j", Bits: 20}, {Zone: "cn-hangzhou-i", CIDR: ranges("192.168.200.0/24")[0]}, {Zone: "cn-hangzhou-i", Bits: 19}} {
		if _, err := s.provisioner(t).Grow(t.Context(), f, other, nil); err == nil || !strings.Contains(err.Error(), "cn-hangzhou-i with 192.168.128.0/20") {
			t.Errorf("%+v: %v, want an error that names the unfinished one", other, err)
		}
	}
	if g, err := s.provisioner(t).Grow(t.Context(), f, plan.Growth{Zone: "cn-hangzhou-i"}, nil); err != nil || !g.Resumed || g.VSwitch.CIDR.String() != "192.168.128.0/20" {
		t.Errorf("%+v, %v", g, err)
	}
}

// A secondary range that somebody else has added to the VPC is not in the plan, and nothing may
// overlap it.
func TestGrowBesideAForeignRange(t *testing.T) {
	s := start(t)
	p := example()
	f := onDisk(t, s, p)
	vpc := s.View().VPCs[0].VpcId
	s.write(t, func(a state.API) error {
		if err := a.AssociateVpcCidrBlock(state.AssociateVpcCidrBlockRequest{VpcId: vpc, SecondaryCidrBlock: "10.0.0.0/20"}); err != nil {
			return err
		}
		_, err := a.CreateVSwitch(state.CreateVSwitchRequest{VpcId: vpc, ZoneId: "cn-hangzhou-i", CidrBlock: "192.168.128.0/17"})
		return err
	})
	ask := plan.Growth{Zone: "cn-hangzhou-i", CIDR: netip.MustParsePrefix("10.0.0.0/24")}
	if _, err := s.provisioner(t).Grow(t.Context(), f, ask, nil); err == nil || !strings.Contains(err.Error(), "10.0.0.0/20, which the plan does not have") {
		t.Errorf("%v: want an error that names the range", err)
	}
	tidy(t, f)
	g, err := s.provisioner(t).Grow(t.Context(), f, plan.Growth{Zone: "cn-hangzhou-i", Bits: 19}, nil)
	if err != nil || g.VSwitch.CIDR.String() != "10.1.0.0/19" {
		t.Errorf("%+v, %v: want 10.1.0.0/19", g, err)
	}
}

// The mode of the plan's file is kept.
func TestGrowKeepsTheFilesMode(t *testing.T) {
	s := start(t)
	f := onDisk(t, s, example())
	if err := os.Chmod(f.Path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := s.provisioner(t).Grow(t.Context(), f, plan.Growth{Zone: "cn-hangzhou-i"}, nil); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(f.Path); err != nil || info.Mode() != 0o640 {
		t.Errorf("%v, %v: want the mode 0640", info.Mode(), err)
	}
}

// What others have in the VPC counts for the cloud's limits: what the cloud would refuse is
// rejected before it is in the plan.
func TestGrowCountsWhatIsForeign(t *testing.T) {
	s := start(t)
	f := onDisk(t, s, example())
	vpc := s.View().VPCs[0].VpcId
	s.write(t, func(a state.API) error {
		for i := range 5 {
			if err := a.AssociateVpcCidrBlock(state.AssociateVpcCidrBlockRequest{VpcId: vpc, SecondaryCidrBlock: fmt.Sprintf("10.%d.0.0/28", i)}); err != nil {
				return err
			}
		}
		return nil
	})
	refused := func(ask plan.Growth, want string) {
		t.Helper()
		before := load(t, f)
		if _, err := s.provisioner(t).Grow(t.Context(), f, ask, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %q in it", err, want)
		}
		if after := load(t, f); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("the plan has changed: %v", after)
		}
		tidy(t, f)
	}
	refused(plan.Growth{Zone: "cn-hangzhou-i", Bits: 16}, "has 5 secondary ranges already")
	refused(plan.Growth{Zone: "cn-hangzhou-i", CIDR: ranges("10.9.0.0/24")[0]}, "has 5 secondary ranges already")
	for i := range 145 { // the plan has four
		s.write(t, func(a state.API) error {
			_, err := a.CreateVSwitch(state.CreateVSwitchRequest{VpcId: vpc, ZoneId: "cn-hangzhou-i", CidrBlock: fmt.Sprintf("192.168.%d.%d/28", 128+i/16, i%16*16)})
			return err
		})
	}
	ask := plan.Growth{Zone: "cn-hangzhou-i", Bits: 28}
	if _, err := s.provisioner(t).Grow(t.Context(), f, ask, nil); err != nil {
		t.Errorf("number 150: %v", err)
	}
	refused(ask, "has 150 vSwitches already")
}

// vSwitches of the plan that the cluster does not use come first: from a grow without the cluster,
// or added to the plan by hand. Only then a new one is created.
func TestGrowGivesTheClusterThePlans(t *testing.T) {
	s := start(t)
	f := onDisk(t, s, example())
	c := uses(t, s, f)
	ask := plan.Growth{Zone: "cn-hangzhou-i", Bits: 20}
	if _, err := s.provisioner(t).Grow(t.Context(), f, ask, nil); err != nil {
		t.Fatal(err)
	}
	ask.Bits = 0
	p := load(t, f)
	p.Zones[0].Pods = append(p.Zones[0].Pods, vsw("by-hand", "192.168.200.0/24"))
	p.Zones[1].Pods = append(p.Zones[1].Pods, vsw("elsewhere", "192.168.201.0/24"))
	if err := f.Save(p); err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		cidr    string
		resumed bool
	}{{"192.168.128.0/20", true}, {"192.168.200.0/24", true}, {"192.168.160.0/19", false}} {
		g, err := s.provisioner(t).Grow(t.Context(), f, ask, c)
		if err != nil || g.VSwitch.CIDR.String() != want.cidr || g.Resumed != want.resumed || !slices.Contains(c.VSwitches, g.VSwitch.ID) {
			t.Fatalf("%+v, %v: want %+v; the cluster uses %v", g, err, want, c.VSwitches)
		}
		tidy(t, f)
	}
	// A request for a range gets that range, and no other vSwitch of the plan.
	ask = plan.Growth{Zone: "cn-hangzhou-j", CIDR: ranges("192.168.202.0/24")[0]}
	if g, err := s.provisioner(t).Grow(t.Context(), f, ask, c); err != nil || g.VSwitch.CIDR != ask.CIDR || g.Resumed {
		t.Errorf("%+v, %v: want %s, new", g, err, ask.CIDR)
	}
	ask.CIDR = ranges("192.168.201.0/24")[0]
	if g, err := s.provisioner(t).Grow(t.Context(), f, ask, c); err != nil || g.VSwitch.CIDR != ask.CIDR || !g.Resumed {
		t.Errorf("%+v, %v: want %s, the plan's", g, err, ask.CIDR)
	}
	same(t, "the plan's", s.inventory(t), wanted(load(t, f)))
}

// A request for a mask gets a vSwitch with that mask: one of the plan with another mask is skipped,
// and the user is told.
func TestGrowPassesOverAnotherMask(t *testing.T) {
	s := start(t)
	p := example()
	p.Zones[0].Pods = append(p.Zones[0].Pods, vsw("small", "192.168.200.0/28"), vsw("right", "192.168.201.0/24"))
	f := onDisk(t, s, p)
	c := uses(t, s, f)
	c.VSwitches = slices.DeleteFunc(c.VSwitches, func(id string) bool {
		return slices.ContainsFunc(s.View().VSwitches, func(v state.VSwitch) bool {
			return v.VSwitchId == id && strings.HasPrefix(v.CidrBlock.String(), "192.168.20")
		})
	})
	for _, want := range []struct {
		cidr    string
		resumed bool
	}{{"192.168.201.0/24", true}, {"192.168.128.0/24", false}} {
		run := s.provisioner(t)
		var said []string
		run.Say = func(line string) { said = append(said, line) }
		g, err := run.Grow(t.Context(), f, plan.Growth{Zone: "cn-hangzhou-i", Bits: 24}, c)
		if err != nil || g.VSwitch.CIDR.String() != want.cidr || g.Resumed != want.resumed {
			t.Fatalf("%+v, %v: want %+v", g, err, want)
		}
		if n := strings.Count(strings.Join(said, "\n"), "skipped"); n != 1 || !strings.Contains(strings.Join(said, "\n"), "vSwitch small (192.168.200.0/28) of the plan, which the cluster does not use, is skipped: the request is for a /24") {
			t.Errorf("it says %q, want that small is skipped, and nothing else", said)
		}
	}
	// Without a requested range or mask it is the next one.
	if g, err := s.provisioner(t).Grow(t.Context(), f, plan.Growth{Zone: "cn-hangzhou-i"}, c); err != nil || g.VSwitch.CIDR.String() != "192.168.200.0/28" {
		t.Errorf("%+v, %v: want 192.168.200.0/28", g, err)
	}
}

// A vSwitch of the plan that is already full is of no use to the cluster.
func TestGrowPassesOverWhatIsFull(t *testing.T) {
	s := start(t)
	f := onDisk(t, s, example())
	c := uses(t, s, f)
	ask := plan.Growth{Zone: "cn-hangzhou-i", CIDR: ranges("192.168.200.0/29")[0]}
	full, err := s.provisioner(t).Grow(t.Context(), f, ask, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, func(a state.API) error {
		for range full.VSwitch.Free {
			if _, err := a.CreateNetworkInterface(state.CreateNetworkInterfaceRequest{VSwitchId: full.VSwitch.ID, SecurityGroupId: full.Network.Groups[0].ID}); err != nil {
				return err
			}
		}
		return nil
	})
	// Any mask matches: it is skipped because it is full.
	g, err := s.provisioner(t).Grow(t.Context(), f, plan.Growth{Zone: "cn-hangzhou-i"}, c)
	if err != nil || g.Resumed || g.VSwitch.ID == full.VSwitch.ID {
		t.Errorf("%+v, %v: want another vSwitch than the full one", g, err)
	}
}

// The cluster got the vSwitch but the answer was lost: the next run adds no other.
func TestGrowAdoptsOnceThoughTheAnswerIsLost(t *testing.T) {
	s := start(t)
	f := onDisk(t, s, example())
	c := uses(t, s, f)
	ask := plan.Growth{Zone: "cn-hangzhou-i", Bits: 20}
	if _, err := s.provisioner(t).Grow(t.Context(), f, ask, nil); err != nil {
		t.Fatal(err)
	}
	adopt := c.Adopt
	c.Adopt = func(ctx context.Context, zone, id string) error {
		return errors.Join(adopt(ctx, zone, id), errors.New("the answer is lost"))
	}
	if _, err := s.provisioner(t).Grow(t.Context(), f, ask, c); err == nil {
		t.Fatal("a lost answer is no error")
	}
	c.Adopt = adopt
	if g, err := s.provisioner(t).Grow(t.Context(), f, ask, c); err != nil || g.VSwitch.CIDR.String() != "192.168.128.0/20" {
		t.Errorf("%+v, %v: want 192.168.128.0/20 again", g, err)
	}
	tidy(t, f)
	same(t, "the plan's", s.inventory(t), wanted(load(t, f)))
}

// The cluster's Service range may differ from the plan's: nothing may overlap it.
func TestGrowBesideTheClustersServices(t *testing.T) {
	s := start(t)
	f := onDisk(t, s, example())
	vpc := s.View().VPCs[0].VpcId
	s.write(t, func(a state.API) error { // the VPC is full
		_, err := a.CreateVSwitch(state.CreateVSwitchRequest{VpcId: vpc, ZoneId: "cn-hangzhou-i", CidrBlock: "192.168.128.0/17"})
		return err
	})
	c := uses(t, s, f)
	c.Services = ranges("10.0.16.0/20")
	ask := plan.Growth{Zone: "cn-hangzhou-i", CIDR: ranges("10.0.0.0/19")[0]}
	if _, err := s.provisioner(t).Grow(t.Context(), f, ask, c); err == nil || !strings.Contains(err.Error(), "range 10.0.0.0/19 overlaps the cluster's Service range 10.0.16.0/20") {
		t.Errorf("%v: want the Service range named", err)
	}
	tidy(t, f)
	g, err := s.provisioner(t).Grow(t.Context(), f, plan.Growth{Zone: "cn-hangzhou-i", Bits: 19}, c)
	if err != nil || g.VSwitch.CIDR.String() != "10.1.0.0/19" {
		t.Errorf("%+v, %v: want 10.1.0.0/19", g, err)
	}
}

func TestGrowNeedsAVPC(t *testing.T) {
	s := start(t)
	f := &provision.PlanFile{Path: filepath.Join(t.TempDir(), "plan.yaml"), Types: types()}
	if err := f.Save(example()); err != nil {
		t.Fatal(err)
	}
	grow := func() {
		t.Helper()
		if _, err := s.provisioner(t).Grow(t.Context(), f, plan.Growth{Zone: "cn-hangzhou-i", Bits: 19}, nil); err == nil || !strings.Contains(err.Error(), "vpc apply") {
			t.Errorf("%v: want the advice to apply first", err)
		}
		same(t, "afterwards", s.inventory(t), []string{})
	}
	grow()
	tidy(t, f)
	// A growth whose VPC was deleted since is not completed.
	if err := os.WriteFile(f.Path+".growing", []byte(`{"zone":"cn-hangzhou-i","vSwitch":{"name":"pod-i-2","cidr":"192.168.128.0/19"}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	grow()
}
