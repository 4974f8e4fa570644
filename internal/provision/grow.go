package provision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"

	"terway.dev/terway/internal/atomicfile"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/plan"
)

// PlanFile is a plan on disk. A growth that is under way has a record beside it, so
// that a command which was killed is finished by the next one.
type PlanFile struct {
	Path string
	// Types is for plan.Check.
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

// Save replaces the plan at once.
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

// growing is the record of a growth under way.
type growing struct {
	Zone    string       `json:"zone"`
	VSwitch plan.VSwitch `json:"vSwitch"`
	// Secondary is the range that the VPC gets for it, if it gets one.
	Secondary netip.Prefix `json:"secondary,omitzero"`
}

func (f *PlanFile) record() string { return f.Path + ".growing" }

func (f *PlanFile) underWay() (*growing, error) {
	b, err := os.ReadFile(f.record())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the record of an earlier grow: %w", err)
	}
	var g growing
	if err := json.Unmarshal(b, &g); err != nil {
		return nil, fmt.Errorf("read the record of an earlier grow in %s: %w", f.record(), err)
	}
	return &g, nil
}

// Forget gives a growth under way up, for good: there is no VPC any more that it was for.
func (f *PlanFile) Forget() error {
	if err := os.Remove(f.record()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the record of an earlier grow: %w", err)
	}
	return nil
}

// Cluster is one that is to use what Grow adds.
type Cluster struct {
	// VSwitches are those that it uses, Services its Service ranges.
	VSwitches []string
	Services  []netip.Prefix
	// Adopt makes it use one more.
	Adopt func(ctx context.Context, zone, id string) error
}

// Grown is what Grow did.
type Grown struct {
	Zone    string
	VSwitch VSwitch
	// Resumed: an earlier Grow was finished, or the cluster got a vSwitch that the plan
	// had already; no other was added.
	Resumed bool
	// Plan is the plan with the vSwitch, Network what exists now.
	Plan    *plan.Plan
	Network *Network
}

// Grow adds a Pod vSwitch to a plan whose VPC exists: in the plan's file first, then
// in the cloud, and last it tells the cluster, if there is one (nil: none). A vSwitch
// that the plan has and the cluster does not use comes before a new one. What ask says
// of the VPC is filled in here.
func (p *Provisioner) Grow(ctx context.Context, f *PlanFile, ask plan.Growth, cluster *Cluster) (*Grown, error) {
	want, err := f.Load()
	if err != nil {
		return nil, err
	}
	g, err := f.underWay()
	if err != nil {
		return nil, err
	}
	w, err := p.observe(ctx, want.Name)
	if err != nil {
		return nil, err
	}
	if w.vpc == nil { // an earlier grow may have been for one that was deleted since
		return nil, fmt.Errorf("plan %q has no VPC yet: run \"terwayctl vpc apply %s\"", want.Name, f.Path)
	}
	resumed := g != nil
	switch {
	case resumed && (g.Zone != ask.Zone || !meets(g.VSwitch, ask)):
		return nil, fmt.Errorf("an earlier grow of zone %s with %s is not finished: run the command for that zone, and for no other range or mask, first, or give it up: delete %s, and take the vSwitch %s out of the plan", g.Zone, g.VSwitch.CIDR, f.record(), g.VSwitch.Name)
	case resumed:
		p.say("an earlier grow is finished: vSwitch %s (%s)", g.VSwitch.Name, g.VSwitch.CIDR)
	default:
		if g = p.unused(want, w, ask, cluster); g != nil {
			resumed = true
			p.say("the cluster does not use vSwitch %s (%s) of the plan yet: it gets this one, and no other is made", g.VSwitch.Name, g.VSwitch.CIDR)
		} else if g, err = f.choose(want, w, ask, cluster); err != nil {
			return nil, err
		}
		// VPC and cluster may have it before this command knows: the next run must not
		// take that for the answer to another wish.
		if err = f.note(g); err != nil {
			return nil, err
		}
	}
	if want, err = f.enter(want, g); err != nil {
		return nil, err
	}
	n, _, err := p.Apply(ctx, want)
	if err != nil {
		return nil, fmt.Errorf("%w\nrun the command again to go on", err)
	}
	there := n.ByCIDR(g.VSwitch.CIDR)
	if there == nil {
		return nil, fmt.Errorf("the vSwitch %s was made and is not in the VPC any more", g.VSwitch.CIDR)
	}
	if cluster != nil {
		if err := cluster.Adopt(ctx, g.Zone, there.ID); err != nil {
			return nil, fmt.Errorf("%w\nthe vSwitch %s exists; run the command again to go on", err, there.ID)
		}
	}
	if err := f.Forget(); err != nil {
		return nil, err
	}
	return &Grown{Zone: g.Zone, VSwitch: *there, Resumed: resumed, Plan: want, Network: n}, nil
}

// meets reports whether a vSwitch is such as is asked for.
func meets(v plan.VSwitch, ask plan.Growth) bool {
	if ask.CIDR.IsValid() {
		return v.CIDR == ask.CIDR
	}
	return ask.Bits == 0 || v.CIDR.Bits() == ask.Bits
}

// unused is the zone's first Pod vSwitch of the plan that the cluster does not use: an
// earlier Grow was not told of the cluster, or somebody has written it into the plan.
// One that is full would help nobody, and one of another range or mask than is asked for
// is not what the user wants now.
func (p *Provisioner) unused(want *plan.Plan, w *world, ask plan.Growth, cluster *Cluster) *growing {
	if cluster == nil {
		return nil
	}
	used := func(v plan.VSwitch) bool {
		return slices.ContainsFunc(w.vswitches, func(there cloud.VSwitch) bool {
			return there.CIDR == v.CIDR && (slices.Contains(cluster.VSwitches, there.ID) || there.Available == 0)
		})
	}
	for _, z := range want.Zones {
		for _, v := range z.Pods {
			switch {
			case z.ID != ask.Zone || used(v):
			case meets(v, ask):
				return &growing{Zone: z.ID, VSwitch: v}
			default:
				wish := fmt.Sprintf("a /%d", ask.Bits)
				if ask.CIDR.IsValid() {
					wish = ask.CIDR.String()
				}
				p.say("vSwitch %s (%s) of the plan, which the cluster does not use, is passed over: %s is asked for", v.Name, v.CIDR, wish)
			}
		}
	}
	return nil
}

// choose finds a range.
func (f *PlanFile) choose(want *plan.Plan, w *world, ask plan.Growth, cluster *Cluster) (*growing, error) {
	planned := vswitches(want)
	for _, v := range w.vswitches {
		ask.Taken = append(ask.Taken, v.CIDR)
		if !slices.ContainsFunc(planned, func(o vswitch) bool { return o.CIDR == v.CIDR }) {
			ask.VSwitches++
		}
	}
	for _, c := range w.vpc.CIDRs {
		known := c == want.VPC.CIDR || slices.Contains(want.VPC.Secondary, c)
		if !known {
			ask.Ranges++
		}
		switch {
		case known:
		case ask.CIDR.IsValid() && c.Overlaps(ask.CIDR):
			return nil, fmt.Errorf("range %s: the VPC has the range %s, which the plan does not have; put it under vpc.secondary in %s first", ask.CIDR, c, f.Path)
		default:
			ask.Taken = append(ask.Taken, c)
		}
	}
	if cluster != nil { // whose Service range may be another than the plan's
		for _, c := range cluster.Services {
			if ask.CIDR.IsValid() && c.Overlaps(ask.CIDR) {
				return nil, fmt.Errorf("range %s overlaps the cluster's Service range %s: choose another range", ask.CIDR, c)
			}
		}
		ask.Taken = append(ask.Taken, cluster.Services...)
	}
	grown, v, err := want.Grow(ask)
	if err != nil {
		return nil, err
	}
	if err := f.check(grown); err != nil {
		return nil, err
	}
	g := &growing{Zone: ask.Zone, VSwitch: v}
	if n := len(want.VPC.Secondary); len(grown.VPC.Secondary) > n {
		g.Secondary = grown.VPC.Secondary[n]
	}
	return g, nil
}

// note records what is under way.
func (f *PlanFile) note(g *growing) error {
	b, err := json.Marshal(g)
	if err != nil {
		return fmt.Errorf("record the grow: %w", err)
	}
	return atomicfile.Write(f.record(), append(b, '\n'), 0o644)
}

// enter puts what is recorded into the plan's file.
func (f *PlanFile) enter(want *plan.Plan, g *growing) (*plan.Plan, error) {
	grown := *want
	if g.Secondary.IsValid() && !slices.Contains(want.VPC.Secondary, g.Secondary) {
		grown.VPC.Secondary = append(slices.Clone(want.VPC.Secondary), g.Secondary)
	}
	at := slices.IndexFunc(want.Zones, func(z plan.Zone) bool { return z.ID == g.Zone })
	if at < 0 {
		return nil, fmt.Errorf("%s: the plan has no zone %s any more, for which %s says that a vSwitch is being made", f.Path, g.Zone, f.record())
	}
	if slices.Contains(want.Zones[at].Pods, g.VSwitch) {
		return want, nil
	}
	grown.Zones = slices.Clone(want.Zones)
	grown.Zones[at].Pods = append(slices.Clone(want.Zones[at].Pods), g.VSwitch)
	if err := f.check(&grown); err != nil {
		return nil, err
	}
	return &grown, f.Save(&grown)
}
