package nodenetwork

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/ipam"
)

// plan computes what the node should have and brings it a step nearer.
func (w *work) plan(ctx context.Context, f *facts) error {
	ids := w.Config.VSwitches[f.instance.Zone]
	if len(ids) == 0 {
		w.trouble = &cloud.Explanation{Class: cloud.Invalid, Reason: "NoVSwitchInZone",
			Cause:    fmt.Sprintf("the configuration names no Pod vSwitch in zone %s", f.instance.Zone),
			NextStep: "add one to vswitches in the ConfigMap eni-config"}
		return nil
	}
	vs, err := w.vswitches.get(ctx, ids)
	if err != nil {
		return err
	}
	state := w.state(vs)
	p := ipam.Compute(state)
	w.shortage(&p, state)
	return w.apply(ctx, &p)
}

// state is the node as the planner sees it.
func (w *work) state(vs []ipam.VSwitch) ipam.State {
	s, st := &w.nn.Spec, &w.nn.Status
	used, cooling, released := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, u := range st.Used {
		used[u.Address] = true
	}
	for _, a := range st.Cooling {
		cooling[a] = true
	}
	// A confirmation counts only if the node has seen the spec as it is now: an
	// older one may have been taken back since.
	if st.ObservedGeneration == w.nn.Generation {
		for _, a := range st.Released {
			released[a] = true
		}
	}
	out := ipam.State{
		MaxENIs: max(0, s.Limits.ENIs-1), PerENI: s.Limits.AddressesPerENI,
		Min: s.Pool.Min, Max: s.Pool.Max, Demand: st.Demand,
		VSwitches: vs, Policy: ipam.Policy(w.Config.VSwitchSelectionPolicy),
	}
	for _, e := range s.ENIs {
		pe := ipam.ENI{Token: e.Token, VSwitch: e.VSwitchID, Requested: e.RequestedAddresses}
		switch e.Phase {
		case v1alpha1.ENICreating:
			pe.Phase = ipam.Creating
		case v1alpha1.ENIAttaching:
			pe.Phase = ipam.Attaching
		case v1alpha1.ENIReady:
			pe.Phase = ipam.Ready
		case v1alpha1.ENIDetaching:
			pe.Phase = ipam.Detaching
		}
		for _, a := range e.Addresses {
			pa := ipam.Address{Address: parse(a.Address), Primary: a.Address == e.PrimaryAddress, Releasing: a.Releasing}
			switch {
			case used[a.Address]:
				pa.Use = ipam.Used
			case cooling[a.Address]:
				pa.Use = ipam.Cooling
			case a.Releasing && released[a.Address]:
				pa.Use = ipam.Released
			}
			pe.Addresses = append(pe.Addresses, pa)
		}
		out.ENIs = append(out.ENIs, pe)
	}
	return out
}

// shortage says why pods wait. A pool below its minimum with nobody waiting is no trouble yet.
func (w *work) shortage(p *ipam.Plan, s ipam.State) {
	if p.Shortage == ipam.None || s.Demand == 0 && p.Shortage == ipam.TypeLimit {
		return
	}
	l := w.nn.Spec.Limits
	switch p.Shortage {
	case ipam.TypeLimit:
		w.trouble = &cloud.Explanation{Class: cloud.Quota, Reason: string(ipam.TypeLimit),
			Cause: fmt.Sprintf("instance type %s allows %d ENIs with %d addresses each, %d pods with an address of their own, and all are in use",
				w.nn.Spec.InstanceType, l.ENIs, l.AddressesPerENI, l.MaxPods),
			NextStep: "wait for a pod to end, or add a node or a larger instance type"}
	case ipam.VSwitchFull:
		w.trouble = &cloud.Explanation{Class: cloud.VSwitchFull, Reason: string(ipam.VSwitchFull),
			Cause:    fmt.Sprintf("the Pod vSwitches of zone %s (%v) have no address left, %d more are needed", w.nn.Spec.Zone, w.Config.VSwitches[w.nn.Spec.Zone], p.Missing),
			NextStep: "add a Pod vSwitch in this zone to vswitches in the ConfigMap eni-config"}
	}
}

// apply carries a plan out: first what is written down, then what the cloud is asked.
func (w *work) apply(ctx context.Context, p *ipam.Plan) error {
	if p.Empty() {
		return nil
	}
	s := &w.nn.Spec
	set := func(addrs []netip.Addr, releasing bool) {
		for i := range s.ENIs {
			for j := range s.ENIs[i].Addresses {
				if a := &s.ENIs[i].Addresses[j]; slices.Contains(addrs, parse(a.Address)) {
					a.Releasing = releasing
				}
			}
		}
	}
	set(p.Keep, false)
	set(p.Release, true)
	ids := map[string]string{} // token → ENI id
	for i := range s.ENIs {
		e := &s.ENIs[i]
		ids[e.Token] = e.ID
		if slices.Contains(p.Detach, e.Token) {
			e.Phase = v1alpha1.ENIDetaching
		}
		for _, u := range p.Unassign {
			if u.Token == e.Token {
				e.Addresses = slices.DeleteFunc(e.Addresses, func(a v1alpha1.Address) bool { return slices.Contains(u.Addresses, parse(a.Address)) })
			}
		}
	}
	for _, c := range p.Create {
		s.ENIs = append(s.ENIs, v1alpha1.ENI{Token: w.NewToken(), Phase: v1alpha1.ENICreating, VSwitchID: c.VSwitch, RequestedAddresses: c.Addresses})
	}
	if err := w.save(ctx); err != nil {
		return err
	}
	if len(p.Create)+len(p.Detach) > 0 {
		w.again = w.Poll
	}
	var errs []error
	for _, a := range p.Assign {
		errs = append(errs, w.assign(ctx, a, ids[a.Token]))
	}
	for _, u := range p.Unassign {
		if err := w.Cloud.UnassignAddresses(ctx, ids[u.Token], u.Addresses); err != nil {
			errs = append(errs, fmt.Errorf("unassign %v from ENI %s: %w", u.Addresses, ids[u.Token], err))
		}
	}
	errs = append(errs, w.save(ctx))
	if len(p.Create) > 0 {
		errs = append(errs, w.advance(ctx))
	}
	return errors.Join(errs...)
}

func (w *work) assign(ctx context.Context, a ipam.Assign, id string) error {
	i := slices.IndexFunc(w.nn.Spec.ENIs, func(e v1alpha1.ENI) bool { return e.Token == a.Token })
	e := &w.nn.Spec.ENIs[i]
	got, err := w.Cloud.AssignAddresses(ctx, id, a.N, w.NewToken())
	if err != nil {
		if cloud.ClassOf(err) == cloud.VSwitchFull {
			w.vswitches.full(e.VSwitchID)
		}
		return fmt.Errorf("assign %d addresses to ENI %s: %w", a.N, id, err)
	}
	w.vswitches.take(e.VSwitchID, len(got))
	for _, g := range got {
		e.Addresses = append(e.Addresses, v1alpha1.Address{Address: g.String()})
	}
	return nil
}
