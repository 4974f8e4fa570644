package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"terway.dev/terway/internal/policy"
)

// A Node is a node's part of the tables: what the rules of its own pods tell apart, and nothing
// else. All parts except endpoints and addresses are named by a hash of their content. A name
// never changes its meaning, so a node knows by the names which parts it already has.
type Node struct {
	Endpoints map[policy.NamespacedName]Endpoint
	RuleSets  map[Hash]RuleSet
	// Addresses are single addresses. They take precedence over Ranges.
	Addresses map[netip.Addr]Place
	// Ranges cover all addresses of a family in order. Index: 0 IPv4, 1 IPv6.
	Ranges [2][]Range
	// Peers has the table of a rule set for an atom, beside the default table. Zero: there is
	// none, even if the atom's base has one.
	Peers  map[Peer]Hash
	Tables map[Hash]*Table
}

// An Endpoint is a pod of the node whose connections are judged.
type Endpoint struct {
	Addresses []netip.Addr
	// RuleSets by direction, for IPv4 and IPv6. Zero: the pod has no address of the family, and
	// nothing passes.
	RuleSets [2][2]Hash
}

// A RuleSet holds all rules of one direction and family of a pod.
type RuleSet struct {
	// Defaults are the default tables for addresses that are no pod's, and for pods.
	Defaults [2]Hash
	// Selected: a policy selects the pod. Otherwise all is allowed.
	Selected bool
	// Closed: the rule set is beyond the budget, and no new connection passes.
	Closed bool
}

// A Place is the position of an address in the tables.
type Place struct {
	Atom Hash
	// Base is used by rule sets without a Peers entry for Atom. It may be equal to Atom.
	Base Hash
	Pod  bool // selects the default table
}

// A Range starts at From and ends before the next one. The zero Atom means that no rule
// mentions the addresses.
type Range struct {
	From netip.Addr
	Atom Hash
}

// A Peer is a pair of a rule set and an atom.
type Peer struct{ RuleSet, Atom Hash }

// closedName is the name of the rule set of endpoints that fail closed.
var closedName = func() Hash {
	d := digest("closed")
	return d.sum()
}()

// ForNode returns a node's part. Its cost grows with the part, plus one pass over the ranges.
func (c *Compiler) ForNode(name string) *Node { return c.pieces(name).node() }

// A BudgetError says that pods fail closed because their rules are beyond the budget.
type BudgetError struct {
	// Policy is the one with the most rules among the pods' policies.
	Policy    policy.Ref
	Direction policy.Direction
	IPv6      bool
	Rules     int // of all policies of the pods
	Budget    Budget
	Pods      []policy.NamespacedName
}

func (e *BudgetError) Error() string {
	family := "IPv4"
	if e.IPv6 {
		family = "IPv6"
	}
	return fmt.Sprintf("%s: with the other policies of its pods its %s rules for %s (%d of them) make more than %d tables or %d intervals, "+
		"so that nothing new passes at %d pods, %s among them: use fewer rules, or wider selectors and networks, or select fewer of the pods",
		e.Policy, e.Direction, family, e.Rules, e.Budget.Atoms, e.Budget.Spans, len(e.Pods), e.Pods[0])
}

// Closing returns the policies with rules in a rule set beyond the budget: pods that they select may fail closed.
func (c *Compiler) Closing() map[policy.Ref]struct{} {
	refs := map[policy.Ref]struct{}{}
	for _, of := range c.closed {
		for _, ref := range of {
			refs[ref] = struct{}{}
		}
	}
	return refs
}

// Errors returns an error for each policy whose pods fail closed.
func (c *Compiler) Errors() []*BudgetError {
	var out []*BudgetError
	for rs := range c.closed {
		e := &BudgetError{Direction: rs.direction, IPv6: rs.family == v6, Budget: c.budget}
		rules := map[policy.Ref]int{}
		for i, cl := range rs.clauses {
			if int(cl.rule) == i {
				rules[cl.of.ref]++
				e.Rules++
			}
		}
		for ref, n := range rules {
			if was := rules[e.Policy]; n > was || n == was && ref.String() < e.Policy.String() {
				e.Policy = ref
			}
		}
		for node := range rs.nodes {
			for p := range c.byNode[node] {
				if p.ruleSets[rs.direction][rs.family] == rs {
					e.Pods = append(e.Pods, p.NamespacedName)
				}
			}
		}
		slices.SortFunc(e.Pods, func(a, b policy.NamespacedName) int { return strings.Compare(a.String(), b.String()) })
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b *BudgetError) int { return strings.Compare(a.Error(), b.Error()) })
	return out
}
