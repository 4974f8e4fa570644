package provision

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/datapath/claims"
)

// world is what the cloud holds of a plan.
type world struct {
	// vpc is nil when there is none; everything else is empty then.
	vpc *cloud.VPC
	// vswitches and groups are all in the VPC, the plan's and others', by range and by id.
	vswitches []cloud.VSwitch
	groups    []cloud.SecurityGroup
	// allowed are the ranges that the plan's groups accept, by group id.
	allowed map[string][]netip.Prefix
}

// owned reports whether a resource has the plan's tag. A plan without a name owns nothing:
// resources without a tag belong to somebody else.
func owned(tags map[string]string, name string) bool {
	return name != "" && tags[claims.TagPlan] == name
}

// tags returns the tags of a plan's resources.
func tags(name string) map[string]string {
	return map[string]string{claims.TagPlan: name, claims.TagCreator: claims.Creator}
}

// observe reads what the cloud holds of a plan.
func (p *Provisioner) observe(ctx context.Context, name string) (*world, error) {
	all, err := p.Cloud.ListVPCs(ctx, cloud.VPCFilter{Tags: map[string]string{claims.TagPlan: name}})
	if err != nil {
		return nil, fmt.Errorf("find the VPC of plan %q: %w", name, err)
	}
	// The tags in the answer count, not the cloud's filter.
	all = slices.DeleteFunc(all, func(v cloud.VPC) bool { return !owned(v.Tags, name) })
	switch len(all) {
	case 0:
		return &world{}, nil
	case 1:
		return p.look(ctx, &all[0], name)
	}
	var ids []string
	for _, v := range all {
		ids = append(ids, v.ID)
	}
	slices.Sort(ids)
	return nil, fmt.Errorf("%d VPCs of %s carry the tag %s=%s: %s; remove the tag from all but the right one", len(all), p.Region, claims.TagPlan, name, strings.Join(ids, ", "))
}

// look reads what is in a VPC.
func (p *Provisioner) look(ctx context.Context, v *cloud.VPC, name string) (*world, error) {
	w := &world{vpc: v, allowed: map[string][]netip.Prefix{}}
	var err error
	if w.vswitches, err = p.Cloud.ListVSwitches(ctx, v.ID); err != nil {
		return nil, fmt.Errorf("list the vSwitches of %s: %w", v.ID, err)
	}
	slices.SortFunc(w.vswitches, func(a, b cloud.VSwitch) int { return a.CIDR.Compare(b.CIDR) })
	if w.groups, err = p.Cloud.ListSecurityGroups(ctx, v.ID); err != nil {
		return nil, fmt.Errorf("list the security groups of %s: %w", v.ID, err)
	}
	slices.SortFunc(w.groups, func(a, b cloud.SecurityGroup) int { return cmp.Compare(a.ID, b.ID) })
	for _, g := range w.ownGroups(name) {
		if w.allowed[g.ID], err = p.Cloud.AllowedFrom(ctx, g.ID); err != nil {
			return nil, fmt.Errorf("read the rules of security group %s: %w", g.ID, err)
		}
	}
	return w, nil
}

func (w *world) ownVSwitches(name string) []cloud.VSwitch {
	return slices.DeleteFunc(slices.Clone(w.vswitches), func(v cloud.VSwitch) bool { return !owned(v.Tags, name) })
}

func (w *world) ownGroups(name string) []cloud.SecurityGroup {
	return slices.DeleteFunc(slices.Clone(w.groups), func(g cloud.SecurityGroup) bool { return !owned(g.Tags, name) })
}

// moving returns what is changing its state; nil: nothing is. A Pending VPC accepts no vSwitch, and
// a Deleting vSwitch keeps its range.
func (w *world) moving() error {
	if w.vpc == nil {
		return nil
	}
	if w.vpc.Status != cloud.StatusAvailable {
		return fmt.Errorf("VPC %s is %s", w.vpc.ID, w.vpc.Status)
	}
	for _, v := range w.vswitches {
		if v.Status != cloud.StatusAvailable {
			return fmt.Errorf("vSwitch %s (%s) is %s", v.ID, v.CIDR, v.Status)
		}
	}
	return nil
}

// settle observes until nothing is changing.
func (p *Provisioner) settle(ctx context.Context, name string) (w *world, err error) {
	err = p.wait(ctx, func() (bool, error, error) {
		if w, err = p.observe(ctx, name); err != nil {
			return false, nil, err
		}
		moving := w.moving()
		return moving == nil, moving, nil
	})
	return w, err
}
