package nodenetwork

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"terway.dev/terway/internal/cloud"
)

// errBlind means that the cloud could not be compared with the spec.
var errBlind = errors.New("the node's ENIs in the cloud are not known")

// compare makes the spec agree with the cloud, if a comparison is needed. evidence.go decides which
// differences are acted on, and when.
func (w *work) compare(ctx context.Context) (err error) {
	w.compareIfTaken()
	if !w.mem.needsCompare.Swap(false) {
		return nil
	}
	settled := false
	defer func() {
		if err != nil || !settled { // also after a panic below
			w.mem.needsCompare.Store(true)
		}
	}()
	settled, err = w.compareNow(ctx)
	return err
}

func (w *work) compareNow(ctx context.Context) (settled bool, err error) {
	if w.paused("list") {
		return false, errBlind
	}
	ours, at, err := w.ours(ctx)
	w.tried("list", err)
	if err != nil {
		return false, errors.Join(errBlind, err)
	}
	if err := w.untagged(ctx, ours); err != nil {
		return false, errors.Join(errBlind, err)
	}
	gateways, err := w.gateways(ctx, ours)
	if err != nil {
		return false, errors.Join(errBlind, err)
	}
	all := w.differences(ours, gateways, at)
	if again := contradicted(all); len(again) > 0 {
		if err := w.readAgain(ctx, again, ours); err != nil {
			return false, errors.Join(errBlind, err)
		}
		all = w.differences(ours, gateways, at)
	}

	settled, w.mem.adopting = true, false
	firstSeen := map[string]time.Time{}
	for _, d := range all {
		first, before := w.mem.firstSeen[d.key]
		if !before {
			first = at
		}
		if w.believes(d, at.Sub(first), at) {
			d.fix(w)
			w.metrics.differences.Inc()
			continue
		}
		firstSeen[d.key] = first
		settled = false
		w.mem.adopting = w.mem.adopting || d.kind == appeared && d.thing == d.eni
	}
	w.mem.firstSeen = firstSeen
	w.mem.forgetCalls(w.Now())
	w.count(ours, at)
	if w.mem.back {
		w.takeBack()
		w.mem.back = false
	}
	if !settled {
		w.again(max(w.Settle, w.Poll))
	}
	return settled, w.save(ctx)
}

// readAgain reads by id the ENIs for which a list differs from the spec.
func (w *work) readAgain(ctx context.Context, ids []string, ours map[string]cloud.ENI) error {
	v, err := w.list.ids(ctx, ids)
	if err != nil {
		return fmt.Errorf("describe ENIs %v: %w", ids, err)
	}
	for _, id := range ids {
		if c, ok := v.enis[id]; ok {
			ours[id] = c
		} else {
			delete(ours, id)
		}
	}
	return nil
}

// untagged adds ENIs of the spec that are missing in the list by tag: somebody may have removed the
// tags.
func (w *work) untagged(ctx context.Context, ours map[string]cloud.ENI) error {
	var missing []string
	for _, e := range w.nn.Spec.ENIs {
		if _, ok := ours[e.ID]; !ok && e.ID != "" {
			missing = append(missing, e.ID)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	v, err := w.list.ids(ctx, missing)
	if err != nil {
		return fmt.Errorf("describe ENIs %v: %w", missing, err)
	}
	for _, id := range missing {
		if c, ok := v.enis[id]; ok {
			ours[id] = c
		}
	}
	return nil
}

// segment is what the node must know of a vSwitch.
type segment struct{ cidrs, gateways []string }

// gateways returns the segments that are needed to adopt ENIs. Those of vSwitches in the spec are
// known from there.
func (w *work) gateways(ctx context.Context, enis map[string]cloud.ENI) (map[string]segment, error) {
	out := map[string]segment{}
	for _, e := range w.nn.Spec.ENIs {
		if len(e.CIDRs) > 0 {
			out[e.VSwitchID] = segment{e.CIDRs, e.Gateways}
		}
	}
	for _, c := range enis {
		if _, ok := out[c.VSwitchID]; ok {
			continue
		}
		cidrs, gateways, err := w.vswitches.ranges(ctx, w.facts.instance.VPCID, c.VSwitchID)
		if err != nil {
			return nil, err
		}
		out[c.VSwitchID] = segment{cidrs, gateways}
	}
	return out, nil
}

// count records what is in the cloud but not in the spec, which uses slots and addresses, and what
// is in the spec but not in the cloud, which serves no pod.
func (w *work) count(ours map[string]cloud.ENI, at time.Time) {
	w.mem.unknown, w.mem.lacking = map[string]int{}, map[string]bool{}
	for i := range w.nn.Spec.ENIs {
		e := &w.nn.Spec.ENIs[i]
		c, ok := ours[e.ID]
		if !ok || e.ID == "" {
			continue
		}
		for _, a := range c.Addresses {
			if !has(e, a) && !e.Exclusive && !takenAway(&w.nn.Spec, e.ID, a, at) {
				w.mem.unknown[e.Token]++
			}
		}
		for _, a := range e.Addresses {
			if !slices.Contains(c.Addresses, parse(a.Address)) && !w.mem.called(a.Address, at) {
				w.mem.lacking[a.Address] = true
			}
		}
	}
}
