package provision

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"

	"terway.dev/terway/internal/atomicfile"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/plan"
)

// PlanFile is a plan on disk.
type PlanFile struct {
	Path string
	// Types is passed to plan.Check.
	Types plan.Catalog
}

// Load reads the plan and checks it.
func (f *PlanFile) Load() (*plan.Plan, error) {
	b, err := os.ReadFile(f.Path)
	if err != nil {
		return nil, fmt.Errorf("read the plan: %w", err)
	}
	p, err := plan.Read(b, f.Types)
	if err != nil {
		return nil, fmt.Errorf("%s:\n%w", f.Path, err)
	}
	return p, nil
}

func (f *PlanFile) check(p *plan.Plan) error {
	if ps := plan.Check(p, f.Types); len(ps) > 0 {
		return fmt.Errorf("%s:\n%w", f.Path, plan.Problems(ps))
	}
	return nil
}

// Save replaces the plan in one step.
func (f *PlanFile) Save(p *plan.Plan) error {
	b, err := p.Marshal()
	if err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if old, err := os.Stat(f.Path); err == nil {
		mode = old.Mode().Perm()
	}
	return atomicfile.Write(f.Path, b, mode)
}

// Cluster is a cluster that is to use what Grow adds.
type Cluster struct {
	// VSwitches are the vSwitches that it uses, Services its Service ranges.
	VSwitches []string
	Services  []netip.Prefix
	// Adopt makes it use one more.
	Adopt func(ctx context.Context, zone, id string) error
}

// Target is what a zone is to have: so many Pod vSwitches, or one with a range.
type Target struct {
	Zone string
	// VSwitches is how many Pod vSwitches the zone is to have, 0 if CIDR says which.
	VSwitches int
	// CIDR is the range of the vSwitch that the zone is to have.
	CIDR netip.Prefix
	// Bits is the mask of those that VSwitches lacks; 0: plan.GrowthBits.
	Bits int
}

// Grown is the result of Grow.
type Grown struct {
	Zone string
	// VSwitches are those that the target is about; Done is what was done for it.
	VSwitches []VSwitch
	Done      []Step
	// Plan is the plan with the vSwitches, Network what exists now.
	Plan    *plan.Plan
	Network *Network
}

// Grow adds what a zone lacks of Pod vSwitches to a plan whose VPC exists: first to the plan's file,
// then to the cloud, then to the cluster's configuration, if there is a cluster (nil: none). With a
// target that is reached it changes nothing, so that it may be repeated; the file is the only
// record. A Pod vSwitch of the plan that the VPC has and the file lacks is put into the file: another
// copy of it was grown.
func (p *Provisioner) Grow(ctx context.Context, f *PlanFile, t Target, cluster *Cluster) (*Grown, error) {
	i, err := p.intend(ctx, f, t, cluster)
	if err != nil {
		return nil, err
	}
	if len(i.recorded) > 0 {
		for _, s := range i.recorded {
			p.say("%s", s)
		}
		if err := f.Save(i.grown); err != nil {
			return nil, err
		}
	}
	n, done, err := p.Apply(ctx, i.grown)
	if err != nil {
		return nil, fmt.Errorf("%w\nrun the command again to continue", err)
	}
	g := &Grown{Zone: t.Zone, Done: append(i.recorded, done...), Plan: i.grown, Network: n}
	for _, v := range i.target {
		there := n.ByCIDR(v.CIDR)
		if there == nil {
			return nil, fmt.Errorf("the vSwitch %s was created but is no longer in the VPC", v.CIDR)
		}
		g.VSwitches = append(g.VSwitches, *there)
		if cluster == nil || slices.Contains(cluster.VSwitches, there.ID) {
			continue
		}
		if err := cluster.Adopt(ctx, t.Zone, there.ID); err != nil {
			return nil, fmt.Errorf("%w\nthe vSwitch %s exists; run the command again to continue", err, there.ID)
		}
		g.Done = append(g.Done, adopts(t.Zone, v, there.ID))
	}
	return g, nil
}

// PreviewGrow returns what Grow would do.
func (p *Provisioner) PreviewGrow(ctx context.Context, f *PlanFile, t Target, cluster *Cluster) ([]Step, error) {
	i, err := p.intend(ctx, f, t, cluster)
	if err != nil {
		return nil, err
	}
	steps, err := p.preview(ctx, i.grown, i.world)
	if err != nil {
		return nil, err
	}
	steps = append(i.recorded, steps...)
	for _, v := range i.target {
		id := ""
		for _, there := range i.world.vswitches {
			if there.CIDR == v.CIDR {
				id = there.ID
			}
		}
		if cluster != nil && (id == "" || !slices.Contains(cluster.VSwitches, id)) {
			steps = append(steps, adopts(t.Zone, v, id))
		}
	}
	return steps, nil
}

func adopts(zone string, v plan.VSwitch, id string) Step {
	return Step{Action: ActionAdopt, Kind: KindVSwitch, ID: id, Name: v.Name, CIDR: v.CIDR.String(), Zone: zone}
}

// intention is how a target is reached.
type intention struct {
	world *world
	// grown is the plan with what it lacks, which recorded lists.
	grown    *plan.Plan
	recorded []Step
	// target are the vSwitches that the target is about.
	target []plan.VSwitch
}

func (p *Provisioner) intend(ctx context.Context, f *PlanFile, t Target, cluster *Cluster) (*intention, error) {
	want, err := f.Load()
	if err != nil {
		return nil, err
	}
	w, err := p.observe(ctx, want.Name)
	if err != nil {
		return nil, err
	}
	if w.vpc == nil {
		return nil, fmt.Errorf("plan %q has no VPC yet: run \"terwayctl vpc apply %s\"", want.Name, f.Path)
	}
	grown := found(want, w, t.Zone)
	// A zone that the plan does not have is an error of plan.Grow.
	for len(targeted(grown, t)) < max(t.VSwitches, 1) {
		if grown, err = f.choose(grown, w, t, cluster); err != nil {
			return nil, err
		}
	}
	i := &intention{world: w, grown: grown, recorded: []Step{}, target: targeted(grown, t)}
	before := vswitches(want)
	for _, v := range vswitches(grown) {
		if !slices.Contains(before, v) {
			i.recorded = append(i.recorded, Step{Action: ActionRecord, Kind: KindVSwitch, Name: v.Name, CIDR: v.CIDR.String(), Zone: v.zone, Role: v.role})
		}
	}
	return i, f.check(grown)
}

// targeted returns the vSwitches of a plan that a target is about.
func targeted(p *plan.Plan, t Target) (list []plan.VSwitch) {
	for _, z := range p.Zones {
		for _, v := range z.Pods {
			if z.ID == t.Zone && (!t.CIDR.IsValid() || v.CIDR == t.CIDR) {
				list = append(list, v)
			}
		}
	}
	return list
}

// found returns the plan with the Pod vSwitches of a zone that are the plan's by their tags, and that
// it lacks.
func found(want *plan.Plan, w *world, zone string) *plan.Plan {
	grown := *want
	at := slices.IndexFunc(want.Zones, func(z plan.Zone) bool { return z.ID == zone })
	if at < 0 {
		return want
	}
	grown.Zones, grown.VPC.Secondary = slices.Clone(want.Zones), slices.Clone(want.VPC.Secondary)
	pods := slices.Clone(want.Zones[at].Pods)
	own := w.ownVSwitches(want.Name)
	// Names end in numbers, in the order in which they were added.
	slices.SortFunc(own, func(a, b cloud.VSwitch) int {
		return cmp.Or(cmp.Compare(len(a.Name), len(b.Name)), cmp.Compare(a.Name, b.Name))
	})
	for _, v := range own {
		known := slices.ContainsFunc(vswitches(&grown), func(o vswitch) bool { return o.CIDR.Overlaps(v.CIDR) || o.Name == v.Name })
		if v.Zone != zone || v.Tags[claims.TagRole] != RolePod || known {
			continue
		}
		pods = append(pods, plan.VSwitch{Name: v.Name, CIDR: v.CIDR})
		for _, c := range w.vpc.CIDRs[1:] {
			if c.Overlaps(v.CIDR) && !slices.Contains(grown.VPC.Secondary, c) {
				grown.VPC.Secondary = append(grown.VPC.Secondary, c)
			}
		}
	}
	grown.Zones[at].Pods = pods
	return &grown
}

// choose returns the plan with one more vSwitch.
func (f *PlanFile) choose(want *plan.Plan, w *world, t Target, cluster *Cluster) (*plan.Plan, error) {
	request := plan.Growth{Zone: t.Zone, CIDR: t.CIDR, Bits: t.Bits}
	planned := vswitches(want)
	for _, v := range w.vswitches {
		request.Taken = append(request.Taken, v.CIDR)
		if !slices.ContainsFunc(planned, func(o vswitch) bool { return o.CIDR == v.CIDR }) {
			request.VSwitches++
		}
	}
	for _, c := range w.vpc.CIDRs {
		known := c == want.VPC.CIDR || slices.Contains(want.VPC.Secondary, c)
		if !known {
			request.Ranges++
		}
		switch {
		case known:
		case request.CIDR.IsValid() && c.Overlaps(request.CIDR):
			return nil, fmt.Errorf("range %s: the VPC has the range %s, which the plan does not have; add it to vpc.secondary in %s first", request.CIDR, c, f.Path)
		default:
			request.Taken = append(request.Taken, c)
		}
	}
	if cluster != nil { // its Service range may differ from the plan's
		for _, c := range cluster.Services {
			if request.CIDR.IsValid() && c.Overlaps(request.CIDR) {
				return nil, fmt.Errorf("range %s overlaps the cluster's Service range %s: choose another range", request.CIDR, c)
			}
		}
		request.Taken = append(request.Taken, cluster.Services...)
	}
	grown, _, err := want.Grow(request)
	return grown, err
}
