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
			adopted += zone + " " + id
			return nil
		}
		to := provision.Target{Zone: "cn-hangzhou-i", VSwitches: i + 2, Bits: 19}
		preview, err := s.provisioner(t).PreviewGrow(t.Context(), f, to, c)
		if err != nil {
			t.Fatal(err)
		}
		g, err := s.provisioner(t).Grow(t.Context(), f, to, c)
		if err != nil {
			t.Fatal(err)
		}
		grown := g.VSwitches[i+1]
		if len(g.VSwitches) != i+2 || grown.CIDR.String() != want || adopted != "cn-hangzhou-i "+grown.ID || !strings.HasPrefix(grown.ID, "vsw-") {
			t.Errorf("grow to %d: %+v, the cluster got %q; want %s", i+2, g.VSwitches, adopted, want)
		}
		if c := g.Network.ENIConfig(g.Plan).VSwitches["cn-hangzhou-i"]; len(c) != i+2 || c[i+1] != grown.ID {
			t.Errorf("grow to %d: eni-config has %v", i+2, c)
		}
		done := slices.Clone(g.Done)
		done[len(done)-1].ID = "" // which was not known before
		if !slices.Equal(preview, done) {
			t.Errorf("grow to %d: the preview says %v, done is %v", i+2, preview, done)
		}
		tidy(t, f)
	}
	p := load(t, f)
	same(t, "the plan's", s.inventory(t), wanted(p))
	if fmt.Sprint(p.VPC.Secondary) != "[10.0.0.0/16]" {
		t.Errorf("secondary ranges %v", p.VPC.Secondary)
	}
}

// A target that is reached changes nothing: not the plan's file, nor the cloud, nor the cluster. So
// it is after the file was replaced by one from before.
func TestGrowAgain(t *testing.T) {
	s := start(t)
	f := onDisk(t, s, example())
	old, err := os.ReadFile(f.Path)
	if err != nil {
		t.Fatal(err)
	}
	c := uses(t, s, f)
	to := provision.Target{Zone: "cn-hangzhou-i", VSwitches: 3, Bits: 17}
	one := provision.Target{Zone: "cn-hangzhou-j", CIDR: ranges("10.8.0.0/24")[0]}
	for _, target := range []provision.Target{to, one} {
		if g, err := s.provisioner(t).Grow(t.Context(), f, target, c); err != nil || len(g.Done) == 0 {
			t.Fatalf("%+v, %v", g, err)
		}
	}
	grown, err := os.ReadFile(f.Path)
	if err != nil {
		t.Fatal(err)
	}
	there, uses := s.inventory(t), fmt.Sprint(c.VSwitches)
	for _, target := range []provision.Target{to, one, {Zone: "cn-hangzhou-i", VSwitches: 1}} {
		g, err := s.provisioner(t).Grow(t.Context(), f, target, c)
		if err != nil || len(g.Done) > 0 {
			t.Errorf("%+v again: %+v, %v", target, g, err)
		}
		if preview, err := s.provisioner(t).PreviewGrow(t.Context(), f, target, c); err != nil || len(preview) > 0 {
			t.Errorf("%+v again: the preview says %v, %v", target, preview, err)
		}
	}
	if err := os.WriteFile(f.Path, old, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, target := range []provision.Target{to, one} {
		if _, err := s.provisioner(t).Grow(t.Context(), f, target, c); err != nil {
			t.Errorf("%+v with the old file: %v", target, err)
		}
	}
	same(t, "after all", s.inventory(t), there)
	if again, err := os.ReadFile(f.Path); err != nil || string(again) != string(grown) {
		t.Errorf("%v, the plan's file has\n%s\nwant\n%s", err, again, grown)
	}
	if now := fmt.Sprint(c.VSwitches); now != uses {
		t.Errorf("the cluster uses %s, and used %s", now, uses)
	}
}

// After a kill at any call, or before the cluster's configuration is changed, the same grow
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
	ask := provision.Target{Zone: "cn-hangzhou-j", VSwitches: 2, Bits: 19}
	killed := errors.New("killed")
	for _, late := range []bool{false, true} {
		for k := 0; ; k++ {
			s, f := crowded(t)
			c := uses(t, s, f)
			c.Adopt = func(context.Context, string, string) error { return killed }
			ctx := s.wire.cutAfter(t, k, late)
			if _, err := s.provisioner(t).Grow(ctx, f, ask, c); err == nil {
				t.Fatal("grow succeeded although the cluster was not changed")
			}
			calls := s.wire.mend()
			var adopted []string
			c.Adopt = func(_ context.Context, _, id string) error {
				adopted = append(adopted, id)
				return nil
			}
			g, err := s.provisioner(t).Grow(t.Context(), f, ask, c)
			if err != nil {
				t.Fatalf("killed after %d calls (late %t), then: %v", k, late, err)
			}
			if len(adopted) != 1 || adopted[0] != g.VSwitches[1].ID {
				t.Errorf("killed after %d calls (late %t): the cluster got %v, want the second of %+v", k, late, adopted, g.VSwitches)
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
	ask := provision.Target{Zone: "cn-hangzhou-i", CIDR: netip.MustParsePrefix("10.0.0.0/24")}
	if _, err := s.provisioner(t).Grow(t.Context(), f, ask, nil); err == nil || !strings.Contains(err.Error(), "10.0.0.0/20, which the plan does not have") {
		t.Errorf("%v: want an error that names the range", err)
	}
	tidy(t, f)
	g, err := s.provisioner(t).Grow(t.Context(), f, provision.Target{Zone: "cn-hangzhou-i", VSwitches: 2, Bits: 19}, nil)
	if err != nil || g.VSwitches[1].CIDR.String() != "10.1.0.0/19" {
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
	if _, err := s.provisioner(t).Grow(t.Context(), f, provision.Target{Zone: "cn-hangzhou-i", VSwitches: 2}, nil); err != nil {
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
	refused := func(ask provision.Target, want string) {
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
	refused(provision.Target{Zone: "cn-hangzhou-i", VSwitches: 2, Bits: 16}, "has 5 secondary ranges already")
	refused(provision.Target{Zone: "cn-hangzhou-i", CIDR: ranges("10.9.0.0/24")[0]}, "has 5 secondary ranges already")
	for i := range 145 { // the plan has four
		s.write(t, func(a state.API) error {
			_, err := a.CreateVSwitch(state.CreateVSwitchRequest{VpcId: vpc, ZoneId: "cn-hangzhou-i", CidrBlock: fmt.Sprintf("192.168.%d.%d/28", 128+i/16, i%16*16)})
			return err
		})
	}
	ask := provision.Target{Zone: "cn-hangzhou-i", VSwitches: 2, Bits: 28}
	if _, err := s.provisioner(t).Grow(t.Context(), f, ask, nil); err != nil {
		t.Errorf("number 150: %v", err)
	}
	ask.VSwitches = 3
	refused(ask, "has 150 vSwitches already")
}

// vSwitches of the plan that the cluster does not use count for the target, and the cluster gets them:
// from a grow without the cluster, or added to the plan by hand.
func TestGrowGivesTheClusterThePlans(t *testing.T) {
	s := start(t)
	f := onDisk(t, s, example())
	c := uses(t, s, f)
	if _, err := s.provisioner(t).Grow(t.Context(), f, provision.Target{Zone: "cn-hangzhou-i", VSwitches: 2, Bits: 20}, nil); err != nil {
		t.Fatal(err)
	}
	p := load(t, f)
	p.Zones[0].Pods = append(p.Zones[0].Pods, vsw("by-hand", "192.168.200.0/24"))
	p.Zones[1].Pods = append(p.Zones[1].Pods, vsw("elsewhere", "192.168.201.0/24"))
	if err := f.Save(p); err != nil {
		t.Fatal(err)
	}
	// A range is that one, and no other vSwitch of the plan.
	for _, ask := range []struct {
		to   provision.Target
		want []string
	}{
		{provision.Target{Zone: "cn-hangzhou-i", VSwitches: 3}, []string{"192.168.128.0/20", "192.168.200.0/24"}},
		{provision.Target{Zone: "cn-hangzhou-i", VSwitches: 4}, []string{"192.168.160.0/19"}},
		{provision.Target{Zone: "cn-hangzhou-j", CIDR: ranges("192.168.202.0/24")[0]}, []string{"192.168.202.0/24"}},
		{provision.Target{Zone: "cn-hangzhou-j", VSwitches: 1}, []string{"192.168.201.0/24"}},
	} {
		before := len(c.VSwitches)
		g, err := s.provisioner(t).Grow(t.Context(), f, ask.to, c)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, id := range c.VSwitches[before:] {
			for _, v := range g.VSwitches {
				if v.ID == id {
					got = append(got, v.CIDR.String())
				}
			}
		}
		if !slices.Equal(got, ask.want) {
			t.Errorf("%+v: the cluster got %v, want %v", ask.to, got, ask.want)
		}
		tidy(t, f)
	}
	same(t, "the plan's", s.inventory(t), wanted(load(t, f)))
}

// The cluster got the vSwitch but the answer was lost: the next run adds no other.
func TestGrowAdoptsOnceThoughTheAnswerIsLost(t *testing.T) {
	s := start(t)
	f := onDisk(t, s, example())
	c := uses(t, s, f)
	ask := provision.Target{Zone: "cn-hangzhou-i", VSwitches: 2, Bits: 20}
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
	if g, err := s.provisioner(t).Grow(t.Context(), f, ask, c); err != nil || len(g.VSwitches) != 2 || g.VSwitches[1].CIDR.String() != "192.168.128.0/20" {
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
	ask := provision.Target{Zone: "cn-hangzhou-i", CIDR: ranges("10.0.0.0/19")[0]}
	if _, err := s.provisioner(t).Grow(t.Context(), f, ask, c); err == nil || !strings.Contains(err.Error(), "range 10.0.0.0/19 overlaps the cluster's Service range 10.0.16.0/20") {
		t.Errorf("%v: want the Service range named", err)
	}
	tidy(t, f)
	g, err := s.provisioner(t).Grow(t.Context(), f, provision.Target{Zone: "cn-hangzhou-i", VSwitches: 2, Bits: 19}, c)
	if err != nil || g.VSwitches[1].CIDR.String() != "10.1.0.0/19" {
		t.Errorf("%+v, %v: want 10.1.0.0/19", g, err)
	}
}

func TestGrowNeedsAVPC(t *testing.T) {
	s := start(t)
	f := &provision.PlanFile{Path: filepath.Join(t.TempDir(), "plan.yaml"), Types: types()}
	if err := f.Save(example()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.provisioner(t).Grow(t.Context(), f, provision.Target{Zone: "cn-hangzhou-i", VSwitches: 2}, nil); err == nil || !strings.Contains(err.Error(), "vpc apply") {
		t.Errorf("%v: want the advice to apply first", err)
	}
	same(t, "afterwards", s.inventory(t), []string{})
	tidy(t, f)
}
