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

// PlanFile is a plan on disk. A growth in progress has a record beside it, so that the next command
// completes what a killed one began.
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

// growing is the record of a growth in progress.
type growing struct {
	Zone    string       `json:"zone"`
	VSwitch plan.VSwitch `json:"vSwitch"`
	// Secondary is the range that the VPC gets for it, if any.
	Secondary netip.Prefix `json:"secondary,omitzero"`
}

func (f *PlanFile) record() string { return f.Path + ".growing" }

func (f *PlanFile) loadRecord() (*growing, error) {
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

// Forget removes the record of a growth: the VPC that it was for does not exist any more.
func (f *PlanFile) Forget() error {
	if err := os.Remove(f.record()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the record of an earlier grow: %w", err)
	}
	return nil
}

// Cluster is a cluster that is to use what Grow adds.
type Cluster struct {
	// VSwitches are the vSwitches that it uses, Services its Service ranges.
	VSwitches []string
	Services  []netip.Prefix
	// Adopt makes it use one more.
	Adopt func(ctx context.Context, zone, id string) error
}

// Grown is the result of Grow.
type Grown struct {
	Zone    string
	VSwitch VSwitch
	// Resumed: an earlier Grow was completed, or the cluster got a vSwitch that the plan already
	// had; no new one was added.
	Resumed bool
	// Plan is the plan with the vSwitch, Network what exists now.
	Plan    *plan.Plan
	Network *Network
}

// Grow adds a Pod vSwitch to a plan whose VPC exists: first to the plan's file, then to the cloud,
// then to the cluster's configuration, if there is a cluster (nil: none). A vSwitch of the plan
// that the cluster does not use yet is taken before a new one. Grow fills in what request lacks
// about the VPC.
func (p *Provisioner) Grow(ctx context.Context, f *PlanFile, request plan.Growth, cluster *Cluster) (*Grown, error) {
	want, err := f.Load()
	if err != nil {
		return nil, err
	}
	g, err := f.loadRecord()
	if err != nil {
		return nil, err
	}
	w, err := p.observe(ctx, want.Name)
	if err != nil {
		return nil, err
	}
	if w.vpc == nil { // an earlier grow may have been for a VPC that was deleted since
		return nil, fmt.Errorf("plan %q has no VPC yet: run \"terwayctl vpc apply %s\"", want.Name, f.Path)
	}
	resumed := g != nil
	switch {
	case resumed && (g.Zone != request.Zone || !meets(g.VSwitch, request)):
		return nil, fmt.Errorf("an earlier grow of zone %s with %s is not finished: run the command for that zone, and for no other range or mask, first, or abandon it: delete %s, and remove the vSwitch %s from the plan", g.Zone, g.VSwitch.CIDR, f.record(), g.VSwitch.Name)
	case resumed:
		p.say("completing an earlier grow: vSwitch %s (%s)", g.VSwitch.Name, g.VSwitch.CIDR)
	default:
		if g = p.unused(want, w, request, cluster); g != nil {
			resumed = true
			p.say("the cluster does not use vSwitch %s (%s) of the plan yet: it gets this one, and no new one is created", g.VSwitch.Name, g.VSwitch.CIDR)
		} else if g, err = f.choose(want, w, request, cluster); err != nil {
			return nil, err
		}
		// VPC and cluster may have it before this command returns: the next run must not take it
		// for the answer to another request.
		if err = f.note(g); err != nil {
			return nil, err
		}
	}
	if want, err = f.addToPlan(want, g); err != nil {
		return nil, err
	}
	n, _, err := p.Apply(ctx, want)
	if err != nil {
		return nil, fmt.Errorf("%w\nrun the command again to continue", err)
	}
	there := n.ByCIDR(g.VSwitch.CIDR)
	if there == nil {
		return nil, fmt.Errorf("the vSwitch %s was created but is no longer in the VPC", g.VSwitch.CIDR)
	}
	if cluster != nil {
		if err := cluster.Adopt(ctx, g.Zone, there.ID); err != nil {
			return nil, fmt.Errorf("%w\nthe vSwitch %s exists; run the command again to continue", err, there.ID)
		}
	}
	if err := f.Forget(); err != nil {
		return nil, err
	}
	return &Grown{Zone: g.Zone, VSwitch: *there, Resumed: resumed, Plan: want, Network: n}, nil
}

// meets reports whether a vSwitch meets a request.
func meets(v plan.VSwitch, request plan.Growth) bool {
	if request.CIDR.IsValid() {
		return v.CIDR == request.CIDR
	}
	return request.Bits == 0 || v.CIDR.Bits() == request.Bits
}

// unused returns the zone's first Pod vSwitch of the plan that the cluster does not use: an earlier
// Grow had no cluster, or somebody added it to the plan. It skips full ones, and those with another
// range or mask than requested.
func (p *Provisioner) unused(want *plan.Plan, w *world, request plan.Growth, cluster *Cluster) *growing {
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
			case z.ID != request.Zone || used(v):
			case meets(v, request):
				return &growing{Zone: z.ID, VSwitch: v}
			default:
				requested := fmt.Sprintf("a /%d", request.Bits)
				if request.CIDR.IsValid() {
					requested = request.CIDR.String()
				}
				p.say("vSwitch %s (%s) of the plan, which the cluster does not use, is skipped: the request is for %s", v.Name, v.CIDR, requested)
			}
		}
	}
	return nil
}

// choose chooses a range.
func (f *PlanFile) choose(want *plan.Plan, w *world, request plan.Growth, cluster *Cluster) (*growing, error) {
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
	grown, v, err := want.Grow(request)
	if err != nil {
		return nil, err
	}
	if err := f.check(grown); err != nil {
		return nil, err
	}
	g := &growing{Zone: request.Zone, VSwitch: v}
	if n := len(want.VPC.Secondary); len(grown.VPC.Secondary) > n {
		g.Secondary = grown.VPC.Secondary[n]
	}
	return g, nil
}

// note writes the record.
func (f *PlanFile) note(g *growing) error {
	b, err := json.Marshal(g)
	if err != nil {
		return fmt.Errorf("record the grow: %w", err)
	}
	return atomicfile.Write(f.record(), append(b, '\n'), 0o644)
}

// addToPlan adds what is recorded to the plan's file.
func (f *PlanFile) addToPlan(want *plan.Plan, g *growing) (*plan.Plan, error) {
	grown := *want
	if g.Secondary.IsValid() && !slices.Contains(want.VPC.Secondary, g.Secondary) {
		grown.VPC.Secondary = append(slices.Clone(want.VPC.Secondary), g.Secondary)
	}
	at := slices.IndexFunc(want.Zones, func(z plan.Zone) bool { return z.ID == g.Zone })
	if at < 0 {
		return nil, fmt.Errorf("%s: the plan no longer has zone %s, for which %s records a vSwitch", f.Path, g.Zone, f.record())
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
