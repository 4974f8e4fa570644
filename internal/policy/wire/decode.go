package wire

import (
	"fmt"
	"net/netip"

	"google.golang.org/protobuf/proto"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
)

// content is a decoded resource. Only the field of its kind is set.
type content struct {
	open      []string
	addresses map[netip.Addr]compile.Place
	family    int
	ranges    []compile.Range
	table     *compile.Table
	peers     map[compile.Peer]compile.Hash
	name      compile.Hash // for ruleSet
	ruleSet   *compile.RuleSet
	pod       policy.NamespacedName // for endpoint
	endpoint  *compile.Endpoint
}

// decode decodes a resource. The content of a kind that this version does not know is empty.
func decode(r *Resource) (c content, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w", r.Kind, err)
		}
	}()
	switch r.Kind {
	case Kind_KIND_NAMESPACES:
		var m Namespaces
		err = proto.Unmarshal(r.Body, &m)
		c.open = m.Open
	case Kind_KIND_ADDRESSES:
		var m Addresses
		if err = proto.Unmarshal(r.Body, &m); err == nil {
			c.addresses, err = decodeAddresses(&m)
		}
	case Kind_KIND_RANGES:
		var m Ranges
		if err = proto.Unmarshal(r.Body, &m); err == nil {
			err = c.decodeRanges(&m)
		}
	case Kind_KIND_TABLE:
		var m Table
		if err = proto.Unmarshal(r.Body, &m); err == nil {
			c.table, err = decodeTable(&m)
		}
	case Kind_KIND_PEERS:
		var m Peers
		if err = proto.Unmarshal(r.Body, &m); err == nil {
			c.peers, err = decodePeers(&m)
		}
	case Kind_KIND_RULE_SET:
		var m RuleSet
		if err = proto.Unmarshal(r.Body, &m); err == nil {
			err = c.decodeRuleSet(&m)
		}
	case Kind_KIND_ENDPOINT:
		var m Endpoint
		if err = proto.Unmarshal(r.Body, &m); err == nil {
			err = c.decodeEndpoint(&m)
		}
	}
	return c, err
}

func decodeAddresses(m *Addresses) (map[netip.Addr]compile.Place, error) {
	out := map[netip.Addr]compile.Place{}
	for _, p := range m.Places {
		place := compile.Place{Pod: p.Pod}
		if err := decodeHash("atom", p.Atom, &place.Atom); err != nil {
			return nil, err
		}
		if err := decodeHash("base", p.Base, &place.Base); err != nil {
			return nil, err
		}
		for _, b := range p.Addresses {
			a, err := Address(b)
			if err != nil {
				return nil, err
			}
			if _, twice := out[a]; twice {
				return nil, fmt.Errorf("address %s is there twice", a)
			}
			out[a] = place
		}
	}
	return out, nil
}

func (c *content) decodeRanges(m *Ranges) error {
	for i, r := range m.Ranges {
		from, err := Address(r.From)
		if err != nil {
			return err
		}
		family := 0
		if from.Is6() {
			family = 1
		}
		if i > 0 && family != c.family {
			return fmt.Errorf("range %s is of another family than those before it", from)
		}
		c.family = family
		out := compile.Range{From: from}
		if err := decodeHash("atom", r.Atom, &out.Atom); err != nil {
			return err
		}
		c.ranges = append(c.ranges, out)
	}
	return nil
}

func decodeTable(m *Table) (*compile.Table, error) {
	var name compile.Hash
	if err := needHash("name", m.Name, &name); err != nil {
		return nil, err
	}
	decisions := make([]*compile.Decision, len(m.Decisions))
	for i, d := range m.Decisions {
		var err error
		if decisions[i], err = decodeDecision(d); err != nil {
			return nil, fmt.Errorf("table %s: %w", name, err)
		}
	}
	var line func([]*Span, bool) (compile.Line, error)
	line = func(spans []*Span, sources bool) (out compile.Line, err error) {
		for _, s := range spans {
			if s.From > 0xffff || s.Level > 0xffff || int(s.Decision) > len(decisions) {
				return nil, fmt.Errorf("a span from %d at level %d with decision %d of %d: want at most 65535, 65535 and %[4]d", s.From, s.Level, s.Decision, len(decisions))
			}
			o := compile.Span{From: uint16(s.From), Level: uint16(s.Level)}
			if s.Decision > 0 {
				o.Decision = decisions[s.Decision-1]
			}
			if len(s.Sources) > 0 {
				if !sources {
					return nil, fmt.Errorf("the span from %d has source ports in source ports", s.From)
				}
				l, err := line(s.Sources, false)
				if err != nil {
					return nil, err
				}
				o.Sources = &l
			}
			out = append(out, o)
		}
		return out, nil
	}
	var t compile.Table
	for _, l := range m.Lines {
		if int(l.Class) >= len(t.Lines) {
			return nil, fmt.Errorf("table %s has class %d: want one up to %d", name, l.Class, len(t.Lines)-1)
		}
		if t.Lines[l.Class] != nil {
			return nil, fmt.Errorf("table %s has class %d twice", name, l.Class)
		}
		var err error
		if t.Lines[l.Class], err = line(l.Spans, true); err != nil {
			return nil, fmt.Errorf("table %s, class %d: %w", name, l.Class, err)
		}
	}
	return compile.NewTable(name, t.Lines)
}

func decodeDecision(m *Decision) (*compile.Decision, error) {
	rule := func(r *Rule) policy.RuleID {
		return policy.RuleID{
			Policy:    policy.Ref{Kind: r.GetKind(), Namespace: r.GetNamespace(), Name: r.GetName()},
			Direction: policy.Direction(min(r.GetDirection(), 0xff)), Number: int(r.GetNumber()),
		}
	}
	d := policy.Decision{Action: policy.Action(min(m.Action, 0xff)), Reason: policy.Reason(min(m.Reason, 0xff)), Tier: m.Tier, Rule: rule(m.Rule)}
	for _, l := range m.Logs {
		d.Logs = append(d.Logs, rule(l))
	}
	return compile.NewDecision(d)
}

func decodePeers(m *Peers) (map[compile.Peer]compile.Hash, error) {
	out := map[compile.Peer]compile.Hash{}
	var of compile.Peer
	if err := needHash("rule set", m.RuleSet, &of.RuleSet); err != nil {
		return nil, err
	}
	for _, p := range m.Peers {
		var table compile.Hash
		if err := decodeHash("atom", p.Atom, &of.Atom); err != nil {
			return nil, err
		}
		if err := decodeHash("table", p.Table, &table); err != nil {
			return nil, err
		}
		if _, twice := out[of]; twice {
			return nil, fmt.Errorf("atom %s is there twice", of.Atom)
		}
		out[of] = table
	}
	return out, nil
}

func (c *content) decodeRuleSet(m *RuleSet) error {
	rs := &compile.RuleSet{Selected: m.Selected, Closed: m.Closed}
	if len(m.Defaults) != len(rs.Defaults) {
		return fmt.Errorf("%d default tables: want %d", len(m.Defaults), len(rs.Defaults))
	}
	for i, d := range m.Defaults {
		if err := needHash("default table", d, &rs.Defaults[i]); err != nil {
			return err
		}
	}
	c.ruleSet = rs
	return needHash("name", m.Name, &c.name)
}

func (c *content) decodeEndpoint(m *Endpoint) error {
	e := &compile.Endpoint{}
	if m.Namespace == "" || m.Pod == "" {
		return fmt.Errorf("endpoint %q of namespace %q: want both names", m.Pod, m.Namespace)
	}
	c.pod = policy.NamespacedName{Namespace: m.Namespace, Name: m.Pod}
	for _, b := range m.Addresses {
		a, err := Address(b)
		if err != nil {
			return fmt.Errorf("endpoint %s: %w", c.pod, err)
		}
		e.Addresses = append(e.Addresses, a)
	}
	if len(m.RuleSets) != 4 {
		return fmt.Errorf("endpoint %s has %d rule sets: want 4", c.pod, len(m.RuleSets))
	}
	for i, b := range m.RuleSets {
		if err := decodeHash("rule set", b, &e.RuleSets[i/2][i%2]); err != nil {
			return fmt.Errorf("endpoint %s: %w", c.pod, err)
		}
	}
	c.endpoint = e
	return nil
}

// Address reads 4 or 16 bytes. An IPv4 address in 16 bytes is an error.
func Address(b []byte) (netip.Addr, error) {
	a, ok := netip.AddrFromSlice(b)
	if !ok || a.Is4In6() {
		return netip.Addr{}, fmt.Errorf("address %x: want 4 bytes of IPv4, or 16 of IPv6", b)
	}
	return a, nil
}

func decodeHash(what string, b []byte, h *compile.Hash) error {
	*h = compile.Hash{}
	if len(b) == 0 {
		return nil
	}
	return needHash(what, b, h)
}

func needHash(what string, b []byte, h *compile.Hash) error {
	if len(b) != len(*h) {
		return fmt.Errorf("%s %x has %d bytes: want %d", what, b, len(b), len(*h))
	}
	*h = compile.Hash(b)
	return nil
}
