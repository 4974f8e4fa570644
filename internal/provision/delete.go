package provision

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/datapath/claims"
)

// InUse is why a VPC cannot be deleted: what is in it that does not belong to the plan.
type InUse struct {
	VPC       string
	ENIs      []cloud.ENI
	VSwitches []cloud.VSwitch
	Groups    []cloud.SecurityGroup
}

// claims.TagCluster is on the ENIs that a Terway controller creates.

func (e *InUse) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "VPC %s is in use; nothing was deleted. Delete first:\n", e.VPC)
	tw := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprint(tw, "  WHAT\tID\tOWNER\tSTATUS\tADDRESSES\n")
	for _, n := range e.ENIs {
		fmt.Fprintf(tw, "  %s ENI\t%s\t%s\t%s\t%d in %s\n", strings.ToLower(n.Type), n.ID, owner(n), n.Status, len(n.Addresses), n.VSwitchID)
	}
	for _, v := range e.VSwitches {
		fmt.Fprintf(tw, "  vSwitch\t%s\t%s\t%s\t%s\n", v.ID, named(v.Name, v.Tags), v.Status, v.CIDR)
	}
	for _, g := range e.Groups {
		fmt.Fprintf(tw, "  security group\t%s\t%s\t\t\n", g.ID, named(g.Name, g.Tags))
	}
	_ = tw.Flush() // into memory
	return strings.TrimRight(b.String(), "\n")
}

// owner returns to whom an ENI belongs.
func owner(n cloud.ENI) string {
	var who []string
	if c := n.Tags[claims.TagCluster]; c != "" {
		who = append(who, "Terway cluster "+c)
	}
	if n.InstanceID != "" {
		who = append(who, "instance "+n.InstanceID)
	}
	if len(who) == 0 {
		return "none"
	}
	return strings.Join(who, ", ")
}

func named(name string, tags map[string]string) string {
	if other := tags[claims.TagPlan]; other != "" {
		return "plan " + other
	}
	if name == "" {
		return "no name"
	}
	return fmt.Sprintf("%q", name)
}

// PreviewDelete returns what Delete would delete, one line each, or an *InUse error if it would refuse.
func (p *Provisioner) PreviewDelete(ctx context.Context, name string) ([]string, error) {
	w, err := p.observe(ctx, name)
	if err != nil || w.vpc == nil {
		return nil, err
	}
	var lines []string
	for _, v := range w.ownVSwitches(name) {
		lines = append(lines, fmt.Sprintf("vSwitch %s (%s, %s)", v.ID, v.Name, v.CIDR))
	}
	for _, g := range w.ownGroups(name) {
		lines = append(lines, fmt.Sprintf("security group %s (%s)", g.ID, g.Name))
	}
	lines = append(lines, fmt.Sprintf("VPC %s (%s, %s)", w.vpc.ID, w.vpc.Name, w.vpc.CIDRs[0]))
	return lines, p.inUse(ctx, w, name)
}

// inUse returns an error that names what keeps a VPC from being deleted.
func (p *Provisioner) inUse(ctx context.Context, w *world, name string) error {
	enis, err := p.Cloud.DescribeENIs(ctx, cloud.ENIFilter{VPCID: w.vpc.ID})
	if err != nil {
		return fmt.Errorf("list the ENIs of %s: %w", w.vpc.ID, err)
	}
	// ENIs that are being deleted do not count: the deletion of their vSwitch waits for them.
	enis = slices.DeleteFunc(enis, func(n cloud.ENI) bool { return n.Status == cloud.ENIDeleting })
	use := &InUse{VPC: w.vpc.ID, ENIs: enis}
	for _, v := range w.vswitches {
		if !owned(v.Tags, name) {
			use.VSwitches = append(use.VSwitches, v)
		}
	}
	for _, g := range w.groups {
		if !owned(g.Tags, name) {
			use.Groups = append(use.Groups, g)
		}
	}
	if len(use.ENIs)+len(use.VSwitches)+len(use.Groups) > 0 {
		return use
	}
	return nil
}

// Delete deletes what Apply created for the plan, and nothing else. It refuses with an *InUse
// before it has deleted anything. It returns what was deleted.
func (p *Provisioner) Delete(ctx context.Context, name string) ([]string, error) {
	w, err := p.settle(ctx, name)
	if err != nil || w.vpc == nil {
		return nil, err
	}
	if err := p.inUse(ctx, w, name); err != nil {
		return nil, err
	}
	var done []string
	step := func(what, id string, remove func(context.Context, string) error, gone func() (bool, error)) error {
		p.say("delete %s %s", what, id)
		if err := p.retryWhileBusy(ctx, func() error { return remove(ctx, id) }); err != nil {
			return fmt.Errorf("delete %s %s: %w", what, id, err)
		}
		if err := p.wait(ctx, func() (bool, error, error) {
			ok, err := gone()
			return ok, fmt.Errorf("%s %s is still listed", what, id), err
		}); err != nil {
			return fmt.Errorf("delete %s %s: %w", what, id, err)
		}
		done = append(done, what+" "+id)
		return nil
	}
	for _, v := range w.ownVSwitches(name) {
		if err := step("vSwitch", v.ID, p.Cloud.DeleteVSwitch, func() (bool, error) {
			all, err := p.Cloud.ListVSwitches(ctx, w.vpc.ID)
			return err == nil && !slices.ContainsFunc(all, func(x cloud.VSwitch) bool { return x.ID == v.ID }), err
		}); err != nil {
			return done, err
		}
	}
	for _, g := range w.ownGroups(name) {
		if err := step("security group", g.ID, p.Cloud.DeleteSecurityGroup, func() (bool, error) {
			all, err := p.Cloud.ListSecurityGroups(ctx, w.vpc.ID)
			return err == nil && !slices.ContainsFunc(all, func(x cloud.SecurityGroup) bool { return x.ID == g.ID }), err
		}); err != nil {
			return done, err
		}
	}
	err = step("VPC", w.vpc.ID, p.Cloud.DeleteVPC, func() (bool, error) {
		all, err := p.Cloud.ListVPCs(ctx, cloud.VPCFilter{ID: w.vpc.ID})
		return err == nil && !slices.ContainsFunc(all, func(x cloud.VPC) bool { return x.ID == w.vpc.ID }), err
	})
	return done, err
}
