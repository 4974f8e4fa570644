package policymap

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
)

// stage makes the rows those of a part. What is there already keeps its rows; with anew, tables get new ones, so that
// there are no gaps between them.
func (w *Writer) stage(n *compile.Node, anew bool) {
	for h, t := range w.tableOf {
		if anew || n.Tables[h] == nil {
			w.drop(t)
			delete(w.tableOf, h)
		}
	}
	if anew {
		w.forget()
	}
	for h, t := range n.Tables {
		if w.tableOf[h] == nil {
			w.tableOf[h] = w.place(t)
		}
	}
	w.forget()
	w.spans.trim(w.spanBlocks.rows())

	w.ruleSets.begin()
	w.atoms.begin()
	addresses := make(map[[16]byte]addressRow, len(n.Addresses)+len(n.Endpoints))
	for a, p := range n.Addresses {
		addresses[a.As16()] = addressRow{AddressRow: p.Row(w.atom)}
	}
	w.each(n, func(_ policy.NamespacedName, e compile.Endpoint, number uint32) {
		for _, a := range e.Addresses {
			row, known := addresses[a.As16()]
			if !known {
				row.Kind = inRanges
			}
			row.Endpoint = number
			addresses[a.As16()] = row
		}
	})
	w.addresses.become(addresses)
	peers := make(map[compile.PeerKey]uint32, len(n.Peers))
	for p, table := range n.Peers {
		if _, ok := n.RuleSets[p.RuleSet]; ok {
			key := compile.PeerKey{RuleSet: w.ruleSets.number(p.RuleSet), Atom: w.atom(p.Atom)}
			peers[key] = w.firstRow(table)
			// Nothing leads to a row with a new number yet; another one may be read as soon as it is written.
			if _, was := w.peers.rows[key]; !was && !w.ruleSets.isNew(p.RuleSet) && !w.atoms.isNew(p.Atom) {
				w.peers.replaced = true
			}
		}
	}
	w.peers.become(peers)
	rows := 0
	for _, ranges := range n.Ranges {
		for _, r := range ranges {
			w.ranges.set(uint32(rows), r.Row(w.atom))
			rows++
		}
	}
	w.ipv4 = uint32(len(n.Ranges[0]))
	w.ranges.trim(uint32(rows))

	none := func(uint32) {}
	w.ruleSets.finish(none)
	w.atoms.finish(none)
}

// stageEndpoints is stage for a part that is as the one that holds but for its endpoints.
func (w *Writer) stageEndpoints(n *compile.Node) {
	moved := map[netip.Addr]uint32{}
	for name, was := range w.node.Endpoints {
		if !slices.Equal(was.Addresses, n.Endpoints[name].Addresses) {
			for _, a := range was.Addresses {
				moved[a] = 0
			}
		}
	}
	w.each(n, func(name policy.NamespacedName, e compile.Endpoint, number uint32) {
		if !slices.Equal(w.node.Endpoints[name].Addresses, e.Addresses) {
			for _, a := range e.Addresses {
				moved[a] = number
			}
		}
	})
	for a, number := range moved {
		row := addressRow{compile.AddressRow{Kind: inRanges}, number}
		place, known := n.Addresses[a]
		if known {
			row.AddressRow = place.Row(w.atom)
		}
		if known || number != 0 {
			w.addresses.set(a.As16(), row)
		} else {
			w.addresses.remove(a.As16())
		}
	}
}

// each makes the rows of a part's endpoints, and calls f with each one's number.
func (w *Writer) each(n *compile.Node, f func(name policy.NamespacedName, e compile.Endpoint, number uint32)) {
	w.podNumbers.begin()
	if w.written { // the first Write of this process is over
		for number := range w.spare {
			w.podNumbers.give(number, 1)
		}
		w.former, w.spare = nil, nil
	}
	for name, e := range n.Endpoints {
		number := w.podNumber(name, e)
		if w.endpoints.set(number, n.EndpointRow(name, w.ruleSets.number, w.firstRow)) && !w.podNumbers.isNew(name) {
			w.endpoints.replaced = true
		}
		f(name, e, number)
	}
	w.podNumbers.finish(func(number uint32) { w.endpoints.set(number, compile.EndpointRow{}) })
	w.endpoints.trim(w.podNumbers.rows())
}

// firstRow is that of a table, 0 if it has none.
func (w *Writer) firstRow(h compile.Hash) uint32 {
	if t := w.tableOf[h]; t != nil {
		return t.rows.first
	}
	return 0
}

// podNumber is the number of a pod's endpoint: the one that it has, or that its address had before this process.
func (w *Writer) podNumber(name policy.NamespacedName, e compile.Endpoint) uint32 {
	if w.podNumbers.of[name] == nil {
		for _, a := range e.Addresses {
			number := w.former[a.As16()]
			if _, ok := w.spare[number]; ok {
				delete(w.spare, number)
				w.podNumbers.assign(name, number)
				break
			}
		}
	}
	return w.podNumbers.number(name)
}

// atom is an atom's number; that of nothing is 0.
func (w *Writer) atom(h compile.Hash) uint32 {
	if h == (compile.Hash{}) {
		return 0
	}
	return w.atoms.number(h)
}

// place gives a table its rows.
func (w *Writer) place(t *compile.Table) *table {
	count := uint32(t.Size())
	p := &table{rows: block{w.spanBlocks.take(count), count}}
	for i, row := range t.Rows(p.rows.first, func(d *compile.Decision, level uint16) uint32 {
		v := w.verdict(d, level)
		p.verdicts = append(p.verdicts, v)
		return v.number
	}) {
		w.spans.set(p.rows.first+uint32(i), row)
	}
	return p
}

// drop gives them back.
func (w *Writer) drop(t *table) {
	w.spans.replaced = true
	w.spanBlocks.give(t.rows.first, t.rows.count)
	for _, v := range t.verdicts {
		if v.uses--; v.uses == 0 {
			w.unused[v] = struct{}{}
		}
	}
}

// verdict is that of a decision at a level, used once more.
func (w *Writer) verdict(d *compile.Decision, level uint16) *verdict {
	key := verdictKey{action: d.Action, level: level, rule: w.rules.take(ruleName{compile.RuleRow{Reason: d.Reason, Tier: d.Tier, Rule: d.Rule}, d.Action})}
	logged := d.Logged()
	var list []byte
	for _, l := range logged {
		list = binary.NativeEndian.AppendUint32(list, w.rules.take(ruleName{compile.RuleRow{Reason: policy.ByRule, Rule: l}, policy.Log}))
	}
	key.log = w.logs.take(string(list))
	v := w.verdictOf[key]
	if v == nil {
		v = &verdict{verdictKey: key, number: w.verdictBlocks.take(1), logs: list}
		w.verdictOf[key] = v
		w.verdicts.set(v.number, compile.VerdictRow{
			Action: uint8(d.Action), Count: uint8(len(logged)), Level: level, Rule: key.rule, Log: key.log,
		})
	} else {
		w.unname(v) // it has its names already
	}
	v.uses++
	return v
}

// unname uses a verdict's names once less.
func (w *Writer) unname(v *verdict) {
	for b := v.logs; len(b) > 0; b = b[4:] {
		w.rules.release(binary.NativeEndian.Uint32(b))
	}
	w.logs.release(v.log)
	w.rules.release(v.rule)
}

// forget lets verdicts go that no table has any more. Until then those of a table that came for another are the same.
func (w *Writer) forget() {
	for v := range w.unused {
		if v.uses == 0 {
			w.unname(v)
			w.verdictBlocks.give(v.number, 1)
			delete(w.verdictOf, v.verdictKey)
		}
	}
	clear(w.unused)
	w.verdicts.trim(w.verdictBlocks.rows())
}
