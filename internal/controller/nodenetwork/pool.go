package nodenetwork

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/ipam"
)

// plan computes what the node should have and brings it closer. A vSwitch that turns out to be full
// is parked, and the others are tried at once.
func (w *work) plan(ctx context.Context) error {
	if w.mem.adopting {
		return nil // a new ENI would take the slot of an existing one
	}
	zone := w.facts.instance.Zone
	ids := w.cfg.VSwitches[zone]
	if len(ids) == 0 {
		w.problem = &cloud.Explanation{Class: cloud.Invalid, Reason: "NoVSwitchInZone",
			Cause:    fmt.Sprintf("the configuration names no Pod vSwitch in zone %s", zone),
			NextStep: "add one to vswitches in the ConfigMap eni-config"}
	}
	for {
		w.promise()
		state := w.state(w.vswitches.get(w.facts.instance.VPCID, ids))
		p := ipam.Compute(state)
		if w.facts.old != nil { // no reason to take anything from the node
			p.Release, p.Unassign, p.Detach = nil, nil, nil
		}
		var asking bool
		var unknown error // why the vSwitches' free addresses are unknown
		if p.Shortage == ipam.VSwitchFull && len(ids) > 0 {
			asking, unknown = w.vswitches.asking(w.facts.instance.VPCID)
		}
		w.mem.surplus, w.mem.exclusiveSurplus = p.Surplus, p.ExclusiveSurplus
		for _, s := range []ipam.Surplus{p.Surplus, p.ExclusiveSurplus} {
			if !s.Since.IsZero() {
				w.again(max(w.Patience-state.Now.Sub(s.Since), w.Poll))
			}
		}
		switch w.unsure = asking; {
		case asking:
			// The figures may be old, or not known yet: what they allow is done now, the rest when
			// new ones arrive. A reconcile does not wait for them.
			w.again(w.Poll)
		case unknown != nil:
			why := cloud.Explain(unknown)
			w.problem = &why
		case len(ids) > 0:
			w.shortage(&p, &state)
		}
		w.vswitches.wait(w.name, w.fullVSwitches(&p, &state))
		err := w.apply(ctx, &p)
		var stop *specError
		if cloud.ClassOf(err) != cloud.VSwitchFull || errors.As(err, &stop) || !isCloud(err) {
			return errors.Join(err, unknown)
		}
		// Each round parks at least one vSwitch, so the loop ends.
	}
}

// fullVSwitches returns the vSwitches of which an address would help a waiting pod: those of ENIs
// with room, and those in which a new ENI may be created.
func (w *work) fullVSwitches(p *ipam.Plan, s *ipam.State) (ids []string) {
	if s.Demand+s.ExclusiveDemand == 0 || p.Shortage != ipam.VSwitchFull && p.Shortage != ipam.NoENISlot {
		return nil
	}
	for _, e := range s.ENIs {
		if e.Phase == ipam.Ready && !e.Exclusive && len(e.Addresses)+e.Unknown < s.PerENI {
			ids = append(ids, e.VSwitch)
		}
	}
	if len(s.ENIs) < s.MaxENIs {
		for _, v := range s.VSwitches {
			ids = append(ids, v.ID)
		}
	}
	return ids
}

// promise records how many more addresses the node's shared ENIs can take from their vSwitches.
func (w *work) promise() {
	of := map[string]int{}
	for i := range w.nn.Spec.ENIs {
		e := &w.nn.Spec.ENIs[i]
		if n := w.nn.Spec.Limits.AddressesPerENI - len(e.Addresses); n > 0 && !e.Exclusive && e.Phase != v1alpha1.ENIDetaching {
			of[e.VSwitchID] += n
		}
	}
	w.vswitches.promise(w.name, of)
}

// state returns the node as the planner needs it.
func (w *work) state(vs []ipam.VSwitch) ipam.State {
	s, st := &w.nn.Spec, &w.nn.Status
	used, cooling, released := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, u := range st.Used {
		used[u.Address] = true
	}
	for _, a := range st.Cooling {
		cooling[a] = true
	}
	// A confirmation counts only if the node has seen the current spec: it may have been reverted
	// since an older one.
	if st.ObservedGeneration == w.nn.Generation {
		for _, a := range st.Released {
			released[a] = true
		}
	}
	seed := fnv.New64a()
	seed.Write([]byte(w.name))
	out := ipam.State{
		MaxENIs: w.maxENIs(), PerENI: s.Limits.AddressesPerENI,
		Min: s.Pool.Min, Max: s.Pool.Max, Demand: st.Demand,
		MaxExclusive: s.ExclusiveENIs, ExclusiveWarm: s.Pool.WarmENIs, ExclusiveDemand: st.ENIDemand,
		Now: w.Now(), Patience: w.Patience, Surplus: w.mem.surplus, ExclusiveSurplus: w.mem.exclusiveSurplus,
		VSwitches: vs, Policy: ipam.Policy(w.cfg.VSwitchSelectionPolicy), Seed: seed.Sum64(),
	}
	_, out.NoCreate = w.refused(createOperation)
	for i := range s.ENIs {
		e := &s.ENIs[i]
		pe := ipam.ENI{Token: e.Token, VSwitch: e.VSwitchID, Requested: e.RequestedAddresses, Unknown: w.mem.unknown[e.Token], Exclusive: e.Exclusive}
		_, pe.Blocked = w.refused(e.Token)
		switch {
		case e.Phase == v1alpha1.ENICreating:
			pe.Phase = ipam.Creating
		case e.Phase == v1alpha1.ENIAttaching && !w.stuck(e):
			pe.Phase = ipam.Attaching
		case e.Phase == v1alpha1.ENIReady:
			pe.Phase = ipam.Ready
		default: // uses a slot and serves no pod
			pe.Phase = ipam.Detaching
		}
		for _, a := range e.Addresses {
			pa := ipam.Address{Address: parse(a.Address), Primary: a.Address == e.PrimaryAddress, Releasing: a.Releasing, Going: a.Unassigning || w.mem.lacking[a.Address], Held: a.Held}
			switch {
			case used[a.Address]:
				pa.Use = ipam.Used
			case cooling[a.Address]:
				pa.Use = ipam.Cooling
			case a.Unassigning, a.Releasing && released[a.Address]:
				pa.Use = ipam.Released
			}
			pe.Addresses = append(pe.Addresses, pa)
		}
		out.ENIs = append(out.ENIs, pe)
	}
	return out
}

// shortage sets the reason why pods wait, or why the next one will. A pool below its minimum is not
// yet a problem on a node that is nearly full by its type.
func (w *work) shortage(p *ipam.Plan, s *ipam.State) {
	w.problem = nil
	l := w.nn.Spec.Limits
	for i := range w.nn.Spec.ENIs {
		if e := &w.nn.Spec.ENIs[i]; w.stuck(e) {
			w.problem = &cloud.Explanation{Class: cloud.Conflict, Reason: "ENIStuck",
				Cause:    fmt.Sprintf("ENI %s is still being attached after %s", e.ID, stuckAfter),
				NextStep: "look at the ENI in the ECS console; if it stays, detach it or restart the instance"}
		}
	}
	switch p.Shortage {
	case ipam.TypeLimit:
		if s.ExclusiveDemand == 0 && s.Demand == 0 && free(s) > 0 {
			return
		}
		cause := fmt.Sprintf("instance type %s allows %d ENIs with %d addresses each, %d pods with their own address, and all are in use",
			w.nn.Spec.InstanceType, l.ENIs, l.AddressesPerENI, l.MaxPods)
		if l := w.nn.Spec.ExclusiveENIs; l > 0 {
			cause += fmt.Sprintf("; %d of the ENIs are exclusive", l)
		}
		if n := heldOnly(s); n > 0 {
			cause += fmt.Sprintf("; load balancers still have %d of the addresses as backends, after their pods", n)
		}
		if n := w.mem.foreign; n > 0 {
			cause += fmt.Sprintf("; %d of the ENIs are not Terway's", n)
		}
		w.problem = &cloud.Explanation{Class: cloud.Quota, Reason: string(ipam.TypeLimit), Cause: cause,
			NextStep: "wait for a pod to end, or add a node or a larger instance type"}
	case ipam.VSwitchFull:
		zone, ids := w.nn.Spec.Zone, w.cfg.VSwitches[w.nn.Spec.Zone]
		cause := fmt.Sprintf("the Pod vSwitches of zone %s (%s) have no address left", zone, strings.Join(ids, ", "))
		if no := w.vswitches.useless(w.nn.Spec.VPCID, ids, zone); len(no) > 0 {
			cause += "; " + strings.Join(no, ", ")
		}
		w.problem = &cloud.Explanation{Class: cloud.VSwitchFull, Reason: string(ipam.VSwitchFull), Cause: cause,
			NextStep: "add a Pod vSwitch in this zone to vswitches in the ConfigMap eni-config (terwayctl vpc grow does)"}
	case ipam.NoENISlot:
		w.problem = w.noSlot()
	case ipam.Refused:
		if why, ok := w.refused(createOperation); ok {
			w.problem = &why
		}
		for _, e := range w.nn.Spec.ENIs {
			if why, ok := w.refused(e.Token); ok {
				w.problem = &why
			}
		}
	}
}

// noSlot explains the shortage of a node whose ENIs have room only in vSwitches that give no
// addresses, while other vSwitches have some.
func (w *work) noSlot() *cloud.Explanation {
	zone := w.nn.Spec.Zone
	var left, full []string
	for i := range w.nn.Spec.ENIs {
		e := &w.nn.Spec.ENIs[i]
		switch {
		case e.Exclusive || len(e.Addresses) >= w.nn.Spec.Limits.AddressesPerENI:
		case !slices.Contains(w.cfg.VSwitches[zone], e.VSwitchID):
			left = append(left, e.VSwitchID)
		default:
			full = append(full, e.VSwitchID)
		}
	}
	x := &cloud.Explanation{Class: cloud.Quota, Reason: string(ipam.NoENISlot), Cause: fmt.Sprintf("the node has all %d ENIs that it may have for pods", w.maxENIs())}
	names := func(ids []string) string {
		return strings.Join(slices.Compact(slices.Sorted(slices.Values(ids))), ", ")
	}
	if len(left) > 0 {
		x.Cause += fmt.Sprintf("; those with room are in vSwitches that vswitches in the ConfigMap eni-config no longer names (%s), and get no addresses there", names(left))
		x.NextStep = fmt.Sprintf("add %s there again, or drain the node, so that its ENIs go back and new ones are made in the vSwitches that are named", names(left))
	}
	if len(full) > 0 {
		x.Cause += fmt.Sprintf("; those with room are in vSwitches that have no address left (%s)", names(full))
		if x.NextStep == "" {
			x.NextStep = "drain the node, so that its ENIs go back and new ones are made in the vSwitches that have addresses, or free addresses of " + names(full)
		}
	}
	return x
}

// free counts the addresses that a pod could have at once.
func free(s *ipam.State) int {
	n := 0
	for _, e := range s.ENIs {
		for _, a := range e.Addresses {
			if e.Phase == ipam.Ready && a.Use == ipam.Free && !a.Releasing && !a.Held {
				n++
			}
		}
	}
	return n
}

// apply carries out a plan: first it writes the spec, then it calls the cloud, with the addresses
// that pods wait for first.
func (w *work) apply(ctx context.Context, p *ipam.Plan) error {
	if p.Empty() {
		return nil
	}
	s := &w.nn.Spec
	mark := func(addrs []netip.Addr, f func(*v1alpha1.Address)) {
		for i := range s.ENIs {
			for j := range s.ENIs[i].Addresses {
				if a := &s.ENIs[i].Addresses[j]; slices.Contains(addrs, parse(a.Address)) {
					f(a)
				}
			}
		}
	}
	mark(p.Keep, func(a *v1alpha1.Address) { a.Releasing = false })
	mark(p.Release, func(a *v1alpha1.Address) { a.Releasing = true })
	for _, u := range p.Unassign {
		e := w.spec(u.Token)
		for j := range e.Addresses {
			if a := &e.Addresses[j]; slices.Contains(u.Addresses, parse(a.Address)) {
				a.Unassigning = true
			}
		}
	}
	for _, token := range p.Detach {
		w.spec(token).Phase = v1alpha1.ENIDetaching
	}
	for _, c := range p.Create {
		s.ENIs = append(s.ENIs, v1alpha1.ENI{Token: w.NewToken(), Phase: v1alpha1.ENICreating, VSwitchID: c.VSwitch, RequestedAddresses: c.Addresses, Exclusive: c.Exclusive})
	}
	w.promise()
	if err := w.save(ctx); err != nil {
		return err
	}
	var errs []error
	var stop *specError
	for _, a := range p.Assign {
		err := w.assign(ctx, a.Token, assignCall{a.N, w.NewToken()})
		if errors.As(err, &stop) {
			return err
		}
		errs = append(errs, err)
	}
	if len(p.Create) > 0 {
		w.again(w.Poll)
		err := w.create(ctx)
		if errors.As(err, &stop) {
			return err
		}
		errs = append(errs, err)
	}
	for _, u := range p.Unassign {
		err := w.unassign(ctx, u)
		if errors.As(err, &stop) {
			return err
		}
		errs = append(errs, err)
	}
	if len(p.Detach) > 0 {
		w.again(w.Poll)
	}
	return errors.Join(errs...)
}

// repeatAssigns repeats the calls with an unknown outcome: with the same token they return the same
// addresses.
func (w *work) repeatAssigns(ctx context.Context) error {
	w.mem.forgetGone(w.nn.Spec.ENIs)
	var errs []error
	for _, e := range slices.Clone(w.nn.Spec.ENIs) {
		call, open := w.mem.assigns[e.Token]
		if !open || e.Phase != v1alpha1.ENIReady {
			continue
		}
		err := w.assign(ctx, e.Token, call)
		var stop *specError
		if errors.As(err, &stop) {
			return err
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (w *work) assign(ctx context.Context, token string, call assignCall) error {
	e := w.spec(token)
	operation := "assign " + token
	if w.paused(operation) {
		return nil
	}
	got, err := w.Cloud.AssignAddresses(w.wanted(ctx), e.ID, call.n, call.token)
	if w.did("assign", err) {
		return err
	}
	delete(w.mem.assigns, token)
	if err != nil {
		switch cloud.ClassOf(err) {
		case cloud.VSwitchFull:
			w.vswitches.full(e.VSwitchID)
		case cloud.Transient, cloud.Throttled:
			w.mem.assigns[token] = call
			w.tried(operation, err)
		case cloud.Conflict: // another operation on this ENI is running: retry soon
			w.tried(operation, err)
		default:
			w.rememberRefusal(token, err)
		}
		return fmt.Errorf("assign %d addresses to ENI %s: %w", call.n, e.ID, err)
	}
	w.tried(operation, nil)
	w.vswitches.take(e.VSwitchID, len(got))
	for _, a := range got {
		w.mem.made(w.Now(), a.String())
		delete(w.mem.lacking, a.String())
	}
	claim(&w.nn.Spec, e, got)
	return w.save(ctx)
}

func (w *work) unassign(ctx context.Context, u ipam.Unassign) error {
	e := w.spec(u.Token)
	operation := "unassign " + u.Token
	if w.paused(operation) {
		return nil
	}
	err := w.Cloud.UnassignAddresses(unwanted(ctx), e.ID, u.Addresses)
	w.did("unassign", err)
	w.tried(operation, err)
	if err != nil {
		return fmt.Errorf("unassign %v from ENI %s: %w", u.Addresses, e.ID, err)
	}
	w.vswitches.giveBack(e.VSwitchID, len(u.Addresses))
	w.takeAway(e.ID, u.Addresses)
	e.Addresses = slices.DeleteFunc(e.Addresses, func(a v1alpha1.Address) bool { return slices.Contains(u.Addresses, parse(a.Address)) })
	return w.save(ctx)
}
