package nodenetwork

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
)

// errBlind says that the cloud could not be compared with the spec.
var errBlind = errors.New("the node's ENIs in the cloud are not known")

// difference is one thing in which spec and cloud disagree.
type difference struct {
	// key names it, the same each time it is seen.
	key string
	// fix makes the spec agree.
	fix func(*work)
}

// compare makes the spec agree with the cloud, if there is doubt. A difference
// must be seen twice, Settle apart: a list may be older than our last call.
func (w *work) compare(ctx context.Context) error {
	if !w.mem.doubt.Swap(false) {
		return nil
	}
	settled, err := w.compareNow(ctx)
	if err != nil || !settled {
		w.mem.doubt.Store(true)
	}
	return err
}

func (w *work) compareNow(ctx context.Context) (settled bool, err error) {
	v, err := w.list.cluster(ctx, w.mem.changed)
	if err != nil {
		return false, errors.Join(errBlind, fmt.Errorf("list the cluster's ENIs: %w", err))
	}
	ours := map[string]cloud.ENI{}
	for id, c := range v.enis {
		if c.Tags[TagNode] == w.name {
			ours[id] = c
		}
	}
	if err := w.untagged(ctx, ours); err != nil {
		return false, errors.Join(errBlind, err)
	}
	gateways, err := w.gateways(ctx, ours)
	if err != nil {
		return false, errors.Join(errBlind, err)
	}
	used := map[string]bool{}
	for _, u := range w.nn.Status.Used {
		used[u.Address] = true
	}

	settled = true
	suspects := map[string]time.Time{}
	for _, d := range differences(&w.nn.Spec, ours, used, gateways) {
		if w.mem.settled(d.key, v.at, w.Settle) {
			d.fix(w)
			w.metrics.differences.Inc()
			continue
		}
		suspects[d.key] = w.mem.suspects[d.key]
		settled = false
	}
	w.mem.suspects = suspects
	w.count(ours)
	if !settled {
		w.again(max(w.Settle, w.Poll))
	}
	return settled, w.save(ctx)
}

// untagged adds ENIs of the spec that the list by tag does not have: somebody may
// have taken the tags off.
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

func (w *work) gateways(ctx context.Context, enis map[string]cloud.ENI) (map[string]segment, error) {
	out := map[string]segment{}
	for _, c := range enis {
		if _, ok := out[c.VSwitchID]; ok {
			continue
		}
		cidrs, gateways, err := w.vswitches.ranges(ctx, c.VSwitchID)
		if err != nil {
			return nil, err
		}
		out[c.VSwitchID] = segment{cidrs, gateways}
	}
	return out, nil
}

// count notes what is in the cloud and not in the spec: it takes room.
func (w *work) count(ours map[string]cloud.ENI) {
	w.mem.unknown = map[string]int{}
	for i := range w.nn.Spec.ENIs {
		e := &w.nn.Spec.ENIs[i]
		if c, ok := ours[e.ID]; ok && e.ID != "" {
			for _, a := range c.Addresses {
				if !has(e, a) && !e.Own {
					w.mem.unknown[e.Token]++
				}
			}
		}
	}
}

func has(e *v1alpha1.ENI, a netip.Addr) bool {
	return slices.ContainsFunc(e.Addresses, func(x v1alpha1.Address) bool { return parse(x.Address) == a })
}

// differences lists in what spec and cloud disagree, in a stable order.
func differences(s *v1alpha1.NodeNetworkSpec, ours map[string]cloud.ENI, used map[string]bool, gateways map[string]segment) []difference {
	var out []difference
	known := map[string]bool{}
	tokens := map[string]bool{}
	for i := range s.ENIs {
		e := &s.ENIs[i]
		known[e.ID] = true
		tokens[e.Token] = true
		if e.ID == "" || e.Phase == v1alpha1.ENIDetaching {
			continue // repeated with its token; on its way out
		}
		c, there := ours[e.ID]
		if !there {
			out = append(out, difference{"gone " + e.ID, goneENI(e.Token)})
			continue
		}
		if e.Phase == v1alpha1.ENIReady && (c.Status != cloud.ENIInUse || c.InstanceID != s.InstanceID) {
			out = append(out, difference{"detached " + e.ID, func(w *work) {
				w.warnAll("ENIDetached", "ENI %s is %s in the cloud, not attached to %s; it is attached again", e.ID, c.Status, s.InstanceID)
				w.spec(e.Token).Phase = v1alpha1.ENIAttaching
			}})
		}
		out = append(out, addressDifferences(e, &c, used)...)
	}
	for id, c := range ours {
		if known[id] || c.Status == cloud.ENIDeleting || c.Tags[TagToken] == "" || tokens[c.Tags[TagToken]] {
			continue // an intent is repeated with its token and finds it
		}
		if c.InstanceID != "" && c.InstanceID != s.InstanceID {
			continue // the sweep reports it
		}
		seg := gateways[c.VSwitchID]
		out = append(out, difference{"new " + id, func(w *work) {
			w.Log.Info("adopting an ENI that the spec does not know", "node", w.name, "eni", id)
			e := v1alpha1.ENI{Token: c.Tags[TagToken], Phase: v1alpha1.ENIAttaching, Own: c.Tags[TagOwn] == "true"}
			fill(&w.nn.Spec, &e, &c, seg)
			w.nn.Spec.ENIs = append(w.nn.Spec.ENIs, e)
		}})
	}
	slices.SortFunc(out, func(a, b difference) int { return cmp.Compare(a.key, b.key) })
	return out
}

// goneENI drops an ENI that is not in the cloud any more. Pods that have its
// addresses have no network; only their owner can help them.
func goneENI(token string) func(*work) {
	return func(w *work) {
		e := w.spec(token)
		w.warnAll("ENIGone", "ENI %s is not in the cloud any more; pods with its addresses must be made anew", e.ID)
		w.nn.Spec.ENIs = slices.DeleteFunc(w.nn.Spec.ENIs, func(e v1alpha1.ENI) bool { return e.Token == token })
	}
}

func addressDifferences(e *v1alpha1.ENI, c *cloud.ENI, used map[string]bool) []difference {
	var out []difference
	for _, a := range c.Addresses {
		if has(e, a) || e.Own {
			continue // whoever added it to a pod's own ENI takes it off again
		}
		out = append(out, difference{"new " + e.ID + " " + a.String(), func(w *work) {
			w.Log.Info("adopting an address that the spec does not know", "node", w.name, "eni", e.ID, "address", a)
			claim(&w.nn.Spec, w.spec(e.Token), []netip.Addr{a})
		}})
	}
	for _, a := range e.Addresses {
		if slices.Contains(c.Addresses, parse(a.Address)) {
			continue
		}
		out = append(out, difference{"gone " + e.ID + " " + a.Address, func(w *work) {
			message := fmt.Sprintf("address %s is not on ENI %s in the cloud any more", a.Address, e.ID)
			if used[a.Address] {
				// It stays in the spec while the pod believes to have it. It never
				// serves another: there is no way back from unassigning.
				for j := range w.spec(e.Token).Addresses {
					if x := &w.spec(e.Token).Addresses[j]; x.Address == a.Address {
						x.Releasing, x.Unassigning = true, true
					}
				}
				w.once("AddressGone", message, func(m string) {
					w.warnAll("AddressGone", "%s; the pod that has it must be made anew", m)
				})
				return
			}
			if !a.Releasing {
				w.Log.Warn(message, "node", w.name)
			}
			x := w.spec(e.Token)
			x.Addresses = slices.DeleteFunc(x.Addresses, func(b v1alpha1.Address) bool { return b.Address == a.Address })
		}})
	}
	return out
}

// fill writes what the cloud says of an ENI into its record.
func fill(s *v1alpha1.NodeNetworkSpec, e *v1alpha1.ENI, c *cloud.ENI, seg segment) {
	e.ID, e.MAC, e.VSwitchID, e.CIDRs, e.Gateways = c.ID, c.MAC, c.VSwitchID, seg.cidrs, seg.gateways
	e.PrimaryAddress = c.Primary.String()
	claim(s, e, c.Addresses)
}

// claim adds addresses that the cloud has put on an ENI. The cloud gives an
// address again as soon as it is free, so that another ENI's record may still
// have it, when the process was killed before it dropped it there: that is over.
func claim(s *v1alpha1.NodeNetworkSpec, e *v1alpha1.ENI, addrs []netip.Addr) {
	for i := range s.ENIs {
		if o := &s.ENIs[i]; o.Token != e.Token {
			o.Addresses = slices.DeleteFunc(o.Addresses, func(x v1alpha1.Address) bool { return slices.Contains(addrs, parse(x.Address)) })
		}
	}
	for _, a := range addrs {
		if !has(e, a) {
			e.Addresses = append(e.Addresses, v1alpha1.Address{Address: a.String()})
		}
	}
}
