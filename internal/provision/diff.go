package provision

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/plan"
)

// change is one thing that the cloud lacks: exactly one of the fields is set.
type change struct {
	vpc   bool
	cidr  netip.Prefix
	vsw   *vswitch
	group bool
	allow netip.Prefix
}

// vswitch is a vSwitch of the plan with its zone and role.
type vswitch struct {
	plan.VSwitch
	zone, role string
}

// vswitches returns the plan's vSwitches, nodes' before pods' in each zone.
func vswitches(p *plan.Plan) []vswitch {
	var all []vswitch
	for _, z := range p.Zones {
		all = append(all, vswitch{z.Node, z.ID, RoleNode})
		for _, v := range z.Pods {
			all = append(all, vswitch{v, z.ID, RolePod})
		}
	}
	return all
}

// allowed returns the ranges that the security group must accept beside its own members. The
// members of a normal group reach each other anyway, those of an enterprise group do not; and a pod
// of Flannel sends with an address that no member has.
func allowed(p *plan.Plan) []netip.Prefix {
	var all []netip.Prefix
	if p.SecurityGroup == cloud.SecurityGroupEnterprise {
		all = append(append(all, p.VPC.CIDR), p.VPC.Secondary...)
	}
	if p.Network == claims.NetworkFlannel {
		all = append(all, p.PodCIDR)
	}
	return all
}

// diff returns what the cloud lacks, in the order in which it can be created. Resources that differ
// are an error, which names all of them.
func diff(p *plan.Plan, w *world) ([]change, error) {
	var all []change
	if w.vpc == nil {
		all = append(all, change{vpc: true})
		w = &world{vpc: &cloud.VPC{CIDRs: []netip.Prefix{p.VPC.CIDR}}}
	}
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	if w.vpc.CIDRs[0] != p.VPC.CIDR {
		bad("VPC %s has the range %s, the plan says vpc.cidr %s: a VPC's range cannot be changed; correct the plan, or delete the VPC", w.vpc.ID, w.vpc.CIDRs[0], p.VPC.CIDR)
	}
	for _, c := range w.vpc.CIDRs[1:] {
		// Others may add ranges to the VPC, but none that overlaps the plan's ranges outside the
		// VPC.
		for _, beside := range []struct {
			key string
			netip.Prefix
		}{{"serviceCIDR", p.ServiceCIDR}, {"podCIDR", p.PodCIDR}} {
			if beside.Overlaps(c) {
				bad("VPC %s has the range %s, which overlaps the plan's %s %s: choose another one, or remove the range from the VPC", w.vpc.ID, c, beside.key, beside.Prefix)
			}
		}
	}
	for _, c := range p.VPC.Secondary {
		if !slices.Contains(w.vpc.CIDRs, c) {
			all = append(all, change{cidr: c})
		}
	}
	for _, v := range vswitches(p) {
		there, err := find(v, w, p.Name)
		switch {
		case err != nil:
			errs = append(errs, err)
		case there == nil:
			all = append(all, change{vsw: &v})
		}
	}
	switch groups := w.ownGroups(p.Name); len(groups) {
	case 0:
		all = append(all, change{group: true})
		for _, c := range allowed(p) {
			all = append(all, change{allow: c})
		}
	case 1:
		if g := groups[0]; g.Type != p.SecurityGroup {
			bad("security group %s is of type %s, the plan says securityGroup %s: the type cannot be changed; correct the plan, or delete the group", g.ID, g.Type, p.SecurityGroup)
		}
		for _, c := range allowed(p) {
			if !slices.Contains(w.allowed[groups[0].ID], c) {
				all = append(all, change{allow: c})
			}
		}
	default:
		bad("%d security groups of VPC %s carry the tag %s=%s: %s and %s; remove the tag from all but one", len(groups), w.vpc.ID, claims.TagPlan, p.Name, groups[0].ID, groups[1].ID)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return all, nil
}

// find returns the cloud's vSwitch that is the plan's, nil if it has to be created. A range is
// unique in a VPC and never changes, so it identifies a vSwitch; a vSwitch whose range the plan has
// changed is found by its name.
func find(v vswitch, w *world, name string) (*cloud.VSwitch, error) {
	for i := range w.vswitches {
		there := &w.vswitches[i]
		switch {
		case !there.CIDR.Overlaps(v.CIDR):
		case there.CIDR != v.CIDR && owned(there.Tags, name) && there.Name == v.Name:
			return nil, changed(v, there)
		case there.CIDR != v.CIDR:
			return nil, fmt.Errorf("vSwitch %s: the plan's range %s overlaps %s of %s (%q): choose a range that is free", v.Name, v.CIDR, there.CIDR, there.ID, there.Name)
		case !owned(there.Tags, name):
			return nil, fmt.Errorf("vSwitch %s: %s (%q) has the range %s and is not the plan's: choose another range, or give it the tag %s=%s to make it the plan's", v.Name, there.ID, there.Name, v.CIDR, claims.TagPlan, name)
		case there.Zone != v.zone:
			return nil, fmt.Errorf("vSwitch %s: %s with the range %s is in zone %s, the plan says %s: a vSwitch cannot be moved; correct the plan, or delete the vSwitch", v.Name, there.ID, v.CIDR, there.Zone, v.zone)
		default:
			return there, nil
		}
	}
	for i := range w.vswitches {
		if there := &w.vswitches[i]; owned(there.Tags, name) && there.Name == v.Name {
			return nil, changed(v, there)
		}
	}
	return nil, nil
}

func changed(v vswitch, there *cloud.VSwitch) error {
	return fmt.Errorf("vSwitch %s: %s has the range %s, the plan says %s: a vSwitch's range cannot be changed; correct the plan, or delete the vSwitch", v.Name, there.ID, there.CIDR, v.CIDR)
}

// step describes a change.
func (c change) step(p *plan.Plan) Step {
	switch {
	case c.vpc:
		return Step{Action: ActionCreate, Kind: KindVPC, Name: p.Name, CIDR: p.VPC.CIDR.String()}
	case c.cidr.IsValid():
		return Step{Action: ActionAdd, Kind: KindVPC, CIDR: c.cidr.String()}
	case c.vsw != nil:
		return Step{Action: ActionCreate, Kind: KindVSwitch, Name: c.vsw.Name, CIDR: c.vsw.CIDR.String(), Zone: c.vsw.zone, Role: c.vsw.role}
	case c.group:
		return Step{Action: ActionCreate, Kind: KindGroup, Name: p.Name, Type: p.SecurityGroup}
	}
	return Step{Action: ActionAllow, Kind: KindGroup, CIDR: c.allow.String()}
}
