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

// tidy: nothing is left beside the plan.
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
		var told string
		g, err := s.provisioner(t).Grow(t.Context(), f, plan.Growth{Zone: "cn-hangzhou-i", Bits: 19}, func(_ context.Context, zone, id string) error {
			told = zone + " " + id
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if g.VSwitch.CIDR.String() != want || g.Resumed || told != "cn-hangzhou-i "+g.VSwitch.ID || !strings.HasPrefix(g.VSwitch.ID, "vsw-") {
			t.Errorf("grow number %d: %+v, the cluster was told %q; want %s", i+1, g.VSwitch, told, want)
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

// Killed at any call, or before the cluster was told: the next grow finishes that one
// and adds no other.
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
			ctx := s.wire.cutAfter(t, k, late)
			_, err := s.provisioner(t).Grow(ctx, f, ask, func(context.Context, string, string) error { return killed })
			if err == nil {
				t.Fatal("grow succeeded although the cluster was not told")
			}
			calls := s.wire.mend()
			began, err := os.Stat(f.Path + ".growing")
			g, err2 := s.provisioner(t).Grow(t.Context(), f, ask, func(context.Context, string, string) error { return nil })
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
	_, err := s.provisioner(t).Grow(t.Context(), f, plan.Growth{Zone: "cn-hangzhou-i", Bits: 20}, func(context.Context, string, string) error { return refused })
	if !errors.Is(err, refused) {
		t.Fatal(err)
	}
	for _, other := range []plan.Growth{{Zone: "cn-hangzhou-j", Bits: 20}, {Zone: "cn-hangzhou-i", CIDR: ranges("192.168.200.0/24")[0]}} {
		if _, err := s.provisioner(t).Grow(t.Context(), f, other, nil); err == nil || !strings.Contains(err.Error(), "cn-hangzhou-i with 192.168.128.0/20") {
			t.Errorf("%+v: %v, want an error that names the unfinished one", other, err)
		}
	}
	if g, err := s.provisioner(t).Grow(t.Context(), f, plan.Growth{Zone: "cn-hangzhou-i", Bits: 19}, nil); err != nil || !g.Resumed || g.VSwitch.CIDR.String() != "192.168.128.0/20" {
		t.Errorf("%+v, %v", g, err)
	}
}

// A secondary range that somebody else has given to the VPC is not in the plan, and
// yet nothing may overlap it.
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
		t.Errorf("%v: want to be told of the range", err)
	}
	tidy(t, f)
	g, err := s.provisioner(t).Grow(t.Context(), f, plan.Growth{Zone: "cn-hangzhou-i", Bits: 19}, nil)
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
	if _, err := s.provisioner(t).Grow(t.Context(), f, plan.Growth{Zone: "cn-hangzhou-i", Bits: 19}, nil); err == nil || !strings.Contains(err.Error(), "vpc apply") {
		t.Errorf("%v: want to be told to apply first", err)
	}
	same(t, "afterwards", s.inventory(t), []string{})
	tidy(t, f)
}
