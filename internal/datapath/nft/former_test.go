package nft

import (
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
)

// WriteFormer writes what earlier versions had for a node, with the existing elements.
func WriteFormer(n *Tables, node datapath.Node, oldest bool) error {
	rs, err := former(node, oldest)
	if err != nil {
		return err
	}
	return writeFormer(n, rs)
}

// former is the table as earlier versions wrote it: NAT in family inet too, and no rules for IPVS.
// The oldest had chain source after conntrack's defragmentation, the bit of a connection inside the
// mask of slots, and no chain by-eni.
func former(node datapath.Node, oldest bool) (Ruleset, error) {
	rs, err := NewRuleset(node)
	if err != nil {
		return rs, err
	}
	byName := map[string]*nftables.Chain{}
	rs.chains = slices.DeleteFunc(rs.chains, func(c *nftables.Chain) bool {
		gone := c.Name == chainToNode || oldest && c.Name == chainENI || c.Table.Family == nftables.TableFamilyIPv6
		if !gone {
			byName[c.Name] = c
		}
		return gone
	})
	masquerade := byName[chainMasquerade]
	masquerade.Name, masquerade.Table, rs.nat = "masquerade", rs.table, nil
	byName[masquerade.Name] = masquerade
	if oldest {
		byName[chainSource].Priority = nftables.ChainPriorityRaw
	}
	exit := byName[chainExit]
	var old []rule
	if oldest {
		old = append(old,
			rule{exit, "only its port was changed: on by its ENI",
				join(ctDirection(ctOriginal), ctStatus(ctSNAT), ctMarkIs(claims.ConnMarkByENIOld, claims.ConnMarkByENIOld), verdict(expr.VerdictAccept))},
			rule{exit, "first packet that leaves by its ENI: note it",
				join(ctDirection(ctOriginal), ctStatusNot(ctConfirmed), setCtMark(claims.ConnMarkByENIOld))})
	}
	var rules []rule
	for _, r := range rs.rules {
		if i := slices.IndexFunc(old, func(o rule) bool { return o.chain == r.chain && o.purpose == r.purpose }); i >= 0 {
			r = old[i]
		}
		leads := slices.ContainsFunc(r.exprs, func(e expr.Any) bool {
			v, ok := e.(*expr.Verdict)
			return ok && v.Chain == chainENI
		})
		if byName[r.chain.Name] == r.chain && !(oldest && leads) && !strings.Contains(r.purpose, "IPVS") {
			rules = append(rules, r)
		}
	}
	rs.rules = rules
	return rs, nil
}

// writeFormer writes the result of former, with the flag that earlier versions gave to the maps.
func writeFormer(n *Tables, rs Ruleset) error {
	return n.Do(func(c *nftables.Conn) error {
		elems, err := readElements(c)
		if err != nil {
			return err
		}
		have, err := ownTables(c)
		if err != nil {
			return err
		}
		for _, t := range have {
			c.DelTable(t)
		}
		c.AddTable(rs.table)
		c.AddObj(spoofedCounter(&expr.Counter{}))
		for _, name := range []string{mapPods4, mapPods6} {
			set := podsMap(rs.table, name)
			set.Concatenation = true
			if err := c.AddSet(set, nil); err != nil {
				return err
			}
		}
		for name, ranges := range rs.inside {
			if err := c.AddSet(insideSet(rs.table, name), intervals(ranges)); err != nil {
				return err
			}
		}
		if err := eachSet(elems, c.SetAddElements); err != nil {
			return err
		}
		for _, chain := range rs.chains {
			c.AddChain(chain)
		}
		for _, r := range rs.rules {
			rule, err := r.nftRule()
			if err != nil {
				return err
			}
			c.AddRule(rule)
		}
		return c.Flush()
	})
}
