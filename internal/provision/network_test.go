package provision_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/plan"
)

// The output of apply is a configuration that the controller accepts.
func TestENIConfigIsOne(t *testing.T) {
	for name, p := range plans() {
		s := start(t)
		n, _, err := s.provisioner(t).Apply(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		b, err := yaml.Marshal(n.ENIConfig(p))
		if err != nil {
			t.Fatal(err)
		}
		c, err := config.Parse(b)
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, b)
		}
		if c.Network != p.Network || c.ServiceCIDR != p.ServiceCIDR.String() {
			t.Errorf("%s: %s", name, b)
		}
		if p.Network == claims.NetworkFlannel {
			if c.PodRange() != p.PodCIDR {
				t.Errorf("%s: %s", name, b)
			}
			continue
		}
		if !slices.Equal(c.SecurityGroups, []string{s.View().SecurityGroups[0].SecurityGroupId}) {
			t.Errorf("%s: %s", name, b)
		}
		for _, z := range p.Zones {
			var want []string
			for _, v := range z.Pods {
				want = append(want, n.ByCIDR(v.CIDR).ID)
			}
			if !slices.Equal(c.VSwitches[z.ID], want) {
				t.Errorf("%s: zone %s has %v, want %v", name, z.ID, c.VSwitches[z.ID], want)
			}
		}
	}
}

// A cluster must not silently get another mode than its plan is made for.
func TestENIConfigHasTheMode(t *testing.T) {
	s := start(t)
	p := example()
	p.Mode = claims.ModeExclusive
	n, _, err := s.provisioner(t).Apply(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if c := n.ENIConfig(p); c.Mode != claims.ModeExclusive {
		t.Errorf("%+v", c)
	}
}

// For any plan's name, the cluster id is one that the configuration accepts.
func TestClusterIDIsOne(t *testing.T) {
	s := start(t)
	p := example()
	n, _, err := s.provisioner(t).Apply(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	sound := func(t interface{ Fatalf(string, ...any) }, name string) {
		named := *p
		named.Name = name
		if ps := plan.Check(&named, types()); len(ps) > 0 {
			t.Fatalf("%q is no plan's name: %v", name, ps)
		}
		b, err := yaml.Marshal(n.ENIConfig(&named))
		if err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		if _, err := config.Parse(b); err != nil {
			t.Fatalf("%q: %v", name, err)
		}
	}
	sound(t, strings.Repeat("店", 128))
	rapid.Check(t, func(t *rapid.T) {
		sound(t, rapid.StringMatching(`[b-zß-ö店][A-Z0-9:_.ß-ö店-]{1,127}`).Draw(t, "name"))
	})
}

func TestShow(t *testing.T) {
	s := start(t)
	if _, err := s.provisioner(t).Show(t.Context(), "shop"); err == nil {
		t.Error("nothing exists, and it is shown")
	}
	p := example()
	if _, _, err := s.provisioner(t).Apply(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	n, err := s.provisioner(t).Show(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(n.Free); got != "[192.168.128.0/17]" {
		t.Errorf("free ranges %s, want the upper half", got)
	}
	for _, v := range n.VSwitches {
		if v.Addresses != 8188 || v.Free != 8188 || !v.Own {
			t.Errorf("%+v: want 8188 of 8188 addresses free", v)
		}
	}
	byID, err := s.provisioner(t).ShowVPC(t.Context(), n.VPC.ID)
	if err != nil || fmt.Sprint(byID) != fmt.Sprint(n) {
		t.Errorf("by id: %+v, %v; by name %+v", byID, err, n)
	}
	if _, err := s.provisioner(t).ShowVPC(t.Context(), "vpc-none"); err == nil {
		t.Error("a VPC that is not there is shown")
	}
}
