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

// PreviewDelete returns what Delete would delete, and an *InUse error if it would refuse.
func (p *Provisioner) PreviewDelete(ctx context.Context, name string) ([]Step, error) {
	w, err := p.observe(ctx, name)
	if err != nil || w.vpc == nil {
		return []Step{}, err
	}
	return w.removal(name), p.inUse(ctx, w, name)
}

// removal is what a plan has in the cloud, in the order in which it can be deleted.
func (w *world) removal(name string) (steps []Step) {
	for _, v := range w.ownVSwitches(name) {
		steps = append(steps, Step{Action: ActionDelete, Kind: KindVSwitch, ID: v.ID, Name: v.Name, CIDR: v.CIDR.String(), Zone: v.Zone, Role: v.Tags[claims.TagRole]})
	}
	for _, g := range w.ownGroups(name) {
		steps = append(steps, Step{Action: ActionDelete, Kind: KindGroup, ID: g.ID, Name: g.Name, Type: g.Type})
	}
	return append(steps, Step{Action: ActionDelete, Kind: KindVPC, ID: w.vpc.ID, Name: w.vpc.Name, CIDR: w.vpc.CIDRs[0].String()})
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
func (p *Provisioner) Delete(ctx context.Context, name string) ([]Step, error) {
	done := []Step{}
	w, err := p.settle(ctx, name)
	if err != nil || w.vpc == nil {
		return done, err
	}
	if err := p.inUse(ctx, w, name); err != nil {
		return done, err
	}
	for _, s := range w.removal(name) {
		what := s.Kind + " " + s.ID
		p.say("delete %s", what)
		if err := p.retryWhileBusy(ctx, func() error { return p.remove(ctx, s) }); err != nil {
			return done, fmt.Errorf("delete %s: %w", what, err)
		}
		if err := p.wait(ctx, func() (bool, error, error) {
			there, err := p.listed(ctx, w.vpc.ID, s)
			return !there && err == nil, fmt.Errorf("%s is still listed", what), err
		}); err != nil {
			return done, fmt.Errorf("delete %s: %w", what, err)
		}
		done = append(done, s)
	}
	return done, nil
}

func (p *Provisioner) remove(ctx context.Context, s Step) error {
	switch s.Kind {
	case KindVSwitch:
		return p.Cloud.DeleteVSwitch(ctx, s.ID)
	case KindGroup:
		return p.Cloud.DeleteSecurityGroup(ctx, s.ID)
	}
	return p.Cloud.DeleteVPC(ctx, s.ID)
}

func (p *Provisioner) listed(ctx context.Context, vpc string, s Step) (bool, error) {
	switch s.Kind {
	case KindVSwitch:
		all, err := p.Cloud.ListVSwitches(ctx, vpc)
		return slices.ContainsFunc(all, func(v cloud.VSwitch) bool { return v.ID == s.ID }), err
	case KindGroup:
		all, err := p.Cloud.ListSecurityGroups(ctx, vpc)
		return slices.ContainsFunc(all, func(g cloud.SecurityGroup) bool { return g.ID == s.ID }), err
	}
	all, err := p.Cloud.ListVPCs(ctx, cloud.VPCFilter{ID: s.ID})
	return slices.ContainsFunc(all, func(v cloud.VPC) bool { return v.ID == s.ID }), err
}
