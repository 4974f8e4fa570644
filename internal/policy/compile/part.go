package compile

import (
	"fmt"

	"terway.dev/terway/internal/policy"
)

// NewDecision makes a Decision that was received from elsewhere.
func NewDecision(d policy.Decision) (*Decision, error) {
	if d.Action != policy.Allow && d.Action != policy.Deny {
		return nil, fmt.Errorf("decision %q: want allow or deny", d.Action)
	}
	if d.Reason > policy.Closed {
		return nil, fmt.Errorf("reason %d of a decision: want one up to %d", d.Reason, policy.Closed)
	}
	for _, r := range append([]policy.RuleID{d.Rule}, d.Logs...) {
		if r.Direction > policy.Egress {
			return nil, fmt.Errorf("direction %d of a rule: want 0 or 1", r.Direction)
		}
	}
	return newDecision(d), nil
}

// Name returns the hash of the Decision's content.
func (d *Decision) Name() Hash { return d.hash }

// NewTable makes a Table that was received from elsewhere, with the name that it has there.
func NewTable(name Hash, lines [classes]Line) (*Table, error) {
	t := &Table{Hash: name, Lines: lines}
	for c, l := range lines {
		if err := t.admit(l, true); err != nil {
			return nil, fmt.Errorf("table %s, class %d: %w", name, c, err)
		}
	}
	return t, nil
}

// admit validates a line and counts its spans.
func (t *Table) admit(l Line, sources bool) error {
	t.spans += len(l)
	for i, s := range l {
		switch {
		case i == 0 && s.From != 0:
			return fmt.Errorf("the first span begins at %d: want 0", s.From)
		case i > 0 && s.From <= l[i-1].From:
			return fmt.Errorf("a span begins at %d, the one before it at %d: want them in order", s.From, l[i-1].From)
		case s.Sources == nil:
			continue
		case s.Decision != nil || !sources:
			return fmt.Errorf("the span from %d has source ports beside or below others: want one of decision and source ports", s.From)
		}
		if len(*s.Sources) == 0 {
			return fmt.Errorf("the span from %d has no spans of source ports: want one or more", s.From)
		}
		if err := t.admit(*s.Sources, false); err != nil {
			return fmt.Errorf("source ports of the span from %d: %w", s.From, err)
		}
	}
	return nil
}

// Complete returns an error for the first name that the part refers to and does not contain.
// Without an error Maps can be called.
func (n *Node) Complete() error {
	for name, rs := range n.RuleSets {
		for _, t := range rs.Defaults {
			if n.Tables[t] == nil {
				return fmt.Errorf("default table %s of rule set %s is not there", t, name)
			}
		}
	}
	for p, t := range n.Peers {
		if _, ok := n.RuleSets[p.RuleSet]; !ok {
			return fmt.Errorf("rule set %s of a peer is not there", p.RuleSet)
		}
		if t != (Hash{}) && n.Tables[t] == nil {
			return fmt.Errorf("table %s of a peer is not there", t)
		}
	}
	for name, e := range n.Endpoints {
		for _, families := range e.RuleSets {
			for _, rs := range families {
				if _, ok := n.RuleSets[rs]; rs != (Hash{}) && !ok {
					return fmt.Errorf("rule set %s of endpoint %s is not there", rs, name)
				}
			}
		}
	}
	for f, ranges := range n.Ranges {
		if len(ranges) == 0 || ranges[0].From != allOf[f].Addr() {
			return fmt.Errorf("the ranges do not begin at %s", allOf[f].Addr())
		}
		for i, r := range ranges[1:] {
			if !ranges[i].From.Less(r.From) {
				return fmt.Errorf("range %s comes after %s: want them in order, each once", r.From, ranges[i].From)
			}
		}
	}
	return nil
}
