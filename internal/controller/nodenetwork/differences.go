package nodenetwork

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/datapath/claims"
)

// difference is one difference between spec and cloud. It holds ids and values and no pointer into
// the spec: fixing another difference moves the spec's records.
type difference struct {
	// key identifies it: the same each time it is seen.
	key  string
	kind kind
	// eni is the id of the ENI that it concerns; thing is the ENI's id or the address.
	eni, thing string
	// fix makes the spec agree.
	fix func(*work)
}

// differences lists the differences between spec and cloud, in a stable order. at is when the cloud
// was queried.
func (w *work) differences(ours map[string]cloud.ENI, gateways map[string]segment, at time.Time) []difference {
	s := &w.nn.Spec
	used := map[string]bool{}
	for _, u := range w.nn.Status.Used {
		used[u.Address] = true
	}
	var out []difference
	ids := map[string]string{} // by token
	for _, e := range s.ENIs {
		ids[e.Token] = e.ID
		if e.ID == "" || e.Phase == v1alpha1.ENIDetaching {
			continue // repeated with its token, or being removed
		}
		c, there := ours[e.ID]
		if !there {
			out = append(out, difference{"gone " + e.ID, lost, e.ID, e.ID, goneENI(e.Token)})
			continue
		}
		if e.Phase == v1alpha1.ENIReady && (c.Status != cloud.ENIInUse || c.InstanceID != s.InstanceID) {
			out = append(out, difference{"detached " + e.ID, detached, e.ID, e.ID, detachedENI(e.Token, c.Status)})
		}
		out = append(out, addressDifferences(s, &e, &c, used, at)...)
	}
	for id, c := range ours {
		token := c.Tags[claims.TagToken]
		first, known := ids[token]
		switch {
		case token == "" || c.Status == cloud.ENIDeleting || first == id:
		case slices.ContainsFunc(s.ENIs, func(e v1alpha1.ENI) bool { return e.ID == id }):
		case known && first == "": // the intent is repeated with its token and finds the ENI
		case c.InstanceID != "" && c.InstanceID != s.InstanceID: // the sweep reports it
		case takenAway(s, id, netip.Addr{}, at):
		case known:
			out = append(out, difference{"second " + id, appeared, id, id, secondENI(c, gateways[c.VSwitchID])})
		default:
			out = append(out, difference{"new " + id, appeared, id, id, adoptENI(c, token, gateways[c.VSwitchID], at)})
		}
	}
	slices.SortFunc(out, func(a, b difference) int { return cmp.Compare(a.key, b.key) })
	return out
}

// adoptENI takes an ENI with the node's tags into the spec.
func adoptENI(c cloud.ENI, token string, seg segment, at time.Time) func(*work) {
	return func(w *work) {
		if w.spec(token) != nil {
			token = c.ID // two ENIs with the tag of one token: each has a record
		}
		w.Log.Info("adopting an ENI that is not in the spec", "node", w.name, "eni", c.ID)
		c.Addresses = slices.DeleteFunc(slices.Clone(c.Addresses), func(a netip.Addr) bool { return takenAway(&w.nn.Spec, c.ID, a, at) })
		e := v1alpha1.ENI{Token: token, Phase: v1alpha1.ENIAttaching, Exclusive: isExclusive(&c)}
		fill(&w.nn.Spec, &e, &c, seg)
		w.nn.Spec.ENIs = append(w.nn.Spec.ENIs, e)
	}
}

// secondENI is for an ENI whose token belongs to the record of another one: the cloud had forgotten
// the token when the call was repeated, and created a second one. It is given back; no node knows
// its addresses. One that is attached is adopted, because it is unknown why it was attached.
func secondENI(c cloud.ENI, seg segment) func(*work) {
	return func(w *work) {
		e := v1alpha1.ENI{Token: c.ID, Phase: v1alpha1.ENIDetaching, Exclusive: isExclusive(&c)}
		if c.Status != cloud.ENIAvailable {
			e.Phase = v1alpha1.ENIAttaching
		}
		w.Log.Info("an ENI was made twice with one token", "node", w.name, "eni", c.ID, "token", c.Tags[claims.TagToken], "phase", e.Phase)
		fill(&w.nn.Spec, &e, &c, seg)
		w.nn.Spec.ENIs = append(w.nn.Spec.ENIs, e)
	}
}

// isExclusive reports whether an ENI was made for one pod.
func isExclusive(c *cloud.ENI) bool {
	return c.Tags[claims.TagExclusive] == "true" || c.Tags[claims.TagExclusiveFormer] == "true"
}

// detachedENI attaches an ENI again that somebody detached.
func detachedENI(token string, status cloud.ENIStatus) func(*work) {
	return func(w *work) {
		e := w.spec(token)
		if e == nil {
			return
		}
		w.warnAll("ENIDetached", "ENI %s is %s in the cloud, not attached to %s; it is attached again", e.ID, status, w.nn.Spec.InstanceID)
		e.Phase = v1alpha1.ENIAttaching
	}
}

// goneENI drops an ENI that is no longer in the cloud. Pods with its addresses have no network;
// only their owner can recreate them.
func goneENI(token string) func(*work) {
	return func(w *work) {
		e := w.spec(token)
		if e == nil {
			return
		}
		w.warnAll("ENIGone", "ENI %s is no longer in the cloud; pods with its addresses must be recreated", e.ID)
		w.takeAway(e.ID, nil)
		w.nn.Spec.ENIs = slices.DeleteFunc(w.nn.Spec.ENIs, func(e v1alpha1.ENI) bool { return e.Token == token })
	}
}

func addressDifferences(s *v1alpha1.NodeNetworkSpec, e *v1alpha1.ENI, c *cloud.ENI, used map[string]bool, at time.Time) []difference {
	var out []difference
	id, token := e.ID, e.Token
	for _, a := range c.Addresses {
		if has(e, a) || e.Exclusive || takenAway(s, id, a, at) {
			continue // whoever added it to a pod's exclusive ENI must remove it
		}
		out = append(out, difference{"new " + id + " " + a.String(), appeared, id, a.String(), func(w *work) {
			if e := w.spec(token); e != nil {
				w.Log.Info("adopting an address that is not in the spec", "node", w.name, "eni", id, "address", a)
				claim(&w.nn.Spec, e, []netip.Addr{a})
			}
		}})
	}
	for _, a := range e.Addresses {
		switch {
		case slices.Contains(c.Addresses, parse(a.Address)) || a.Unassigning:
		case used[a.Address]:
			out = append(out, difference{"gone " + id + " " + a.Address, lost, id, a.Address, goneUsed(token, a.Address)})
		case !a.Releasing:
			out = append(out, difference{"gone " + id + " " + a.Address, absent, id, a.Address, goneFree(token, a.Address)})
		}
	}
	return out
}

// goneUsed is for an address that a pod has and the cloud does not. It stays in the spec while the
// pod has it, and never serves another pod: unassigning cannot be undone.
func goneUsed(token, address string) func(*work) {
	return func(w *work) {
		if a := w.address(token, address); a != nil {
			a.Releasing, a.Unassigning = true, true
			w.warnAll("AddressGone", "address %s is no longer on ENI %s in the cloud; the pod that has it must be recreated", address, w.spec(token).ID)
		}
	}
}

// goneFree takes an address out of service that the cloud does not have: the node is asked to
// release it, like any other. A pod may have got it since the node last reported.
func goneFree(token, address string) func(*work) {
	return func(w *work) {
		if a := w.address(token, address); a != nil {
			w.Log.Warn("a free address is no longer in the cloud", "node", w.name, "address", address, "eni", w.spec(token).ID)
			a.Releasing = true
		}
	}
}
