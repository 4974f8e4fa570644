package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/selector"
)

// A term is one thing that rules ask of the other end's address. It is live while a rule set
// asks it; only then are addresses told apart by it.
type term struct {
	key   string // terms with equal keys are one
	about about
	refs  int // clauses of policies that have it
	live  bool

	pods    *podSelector
	sets    *policy.NetworkSetSelector
	nodes   *selector.Selector
	service policy.NamespacedName // aboutService, aboutServicePort
	name    string                // aboutPortName

	// nets are the networks of aboutNets, and of the sets that aboutSets selects now.
	nets *netipx.IPSet
	// wide: the networks are all addresses of a family.
	wide [families]bool

	traits map[portKey]*trait
	atoms  map[*atom]struct{} // that have a trait of it; of a ranged term, only bases
	users  map[*ruleSet]struct{}
	// horizons are of rule sets that ask the term, if it is ranged.
	horizons map[*horizon]struct{}
	at       map[string]int // how many rule sets that ask it a node has

	// mark is the number of the question in which the term holds. See Compiler.ask.
	mark uint64
}

type about uint8

const (
	aboutPods about = iota
	aboutSets
	aboutNodes
	aboutService
	aboutNets
	aboutPortName
	aboutServicePort
)

// ranged says that the term is about networks: it holds for addresses that nobody has.
func (t *term) ranged() bool { return t.about == aboutNets || t.about == aboutSets }

// holdsForAll says that the term holds for every address of a kind and family, whatever is in
// the cluster. It is what a default table starts from.
func (t *term) holdsForAll(k kind, f family) bool {
	return t.about == aboutNets && t.wide[f] || k == pods && t.allPods()
}

func (t *term) allPods() bool { return t.about == aboutPods && t.pods.all }

// portKey is a port of a protocol (IP number). Zero for terms without.
type portKey struct {
	protocol uint8
	port     uint16
}

// A trait is what an address has of a live term: that it holds, and for the name of a port or
// the ports of a Service, with which number.
type trait struct {
	term *term
	portKey
	hash Hash
}

// has is the trait of the term with this number.
func (t *term) has(k portKey) *trait {
	tr := t.traits[k]
	if tr == nil {
		var d digest
		d.str(t.key)
		d.num(int(k.protocol), int(k.port))
		tr = &trait{t, k, d.sum()}
		if t.traits == nil {
			t.traits = map[portKey]*trait{}
		}
		t.traits[k] = tr
	}
	return tr
}

// Keys. The first word keeps different things of equal names apart.

func podsKey(s policy.PodSelector) string {
	names := "any"
	if s.ServiceAccountNames != nil {
		list := slices.Clone(s.ServiceAccountNames)
		slices.Sort(list)
		names = fmt.Sprintf("%q", slices.Compact(list))
	}
	return fmt.Sprintf("pods %q|%s|%s|%s|%s", s.Namespace, s.Namespaces, s.Pods, names, s.ServiceAccounts)
}

func setsKey(s policy.NetworkSetSelector) string {
	return fmt.Sprintf("sets %q|%s|%t|%t|%s", s.Namespace, s.Namespaces, s.Global, s.Namespaced, s.Sets)
}

func netsKey(nets *netipx.IPSet) string {
	var b strings.Builder
	b.WriteString("nets")
	for _, p := range nets.Prefixes() {
		b.WriteByte(' ')
		b.WriteString(p.String())
	}
	return b.String()
}

func portNameKey(name string) string { return "port " + name }

func serviceKey(n policy.NamespacedName) string { return "service " + n.String() }

func servicePortKey(n policy.NamespacedName) string { return "service port " + n.String() }

// ipSet is the union of networks, which check has seen.
func ipSet(nets ...netip.Prefix) *netipx.IPSet {
	var b netipx.IPSetBuilder
	for _, n := range nets {
		b.AddPrefix(n)
	}
	set, err := b.IPSet()
	if err != nil {
		panic(fmt.Sprintf("networks %v: %v", nets, err))
	}
	return set
}

var allOf = [families]netip.Prefix{v4: netip.MustParsePrefix("0.0.0.0/0"), v6: netip.MustParsePrefix("::/0")}

// intern is the term with a key, new if need be.
func (c *Compiler) intern(key string, make func() *term) *term {
	t := c.terms[key]
	if t == nil {
		t = make()
		t.key = key
		c.terms[key] = t
	}
	t.refs++
	return t
}

// termsOf are the terms of a set of addresses, of which one must hold.
func (c *Compiler) termsOf(s policy.AddrSet) (terms []*term) {
	if s.Pods != nil {
		key := podsKey(*s.Pods)
		terms = append(terms, c.intern(key, func() *term {
			t := &term{about: aboutPods, pods: c.podSelector(*s.Pods)}
			t.pods.term = t
			return t
		}))
	}
	if s.NetworkSets != nil {
		terms = append(terms, c.intern(setsKey(*s.NetworkSets), func() *term { return &term{about: aboutSets, sets: s.NetworkSets} }))
	}
	if s.Nodes != nil {
		terms = append(terms, c.intern("nodes "+s.Nodes.String(), func() *term { return &term{about: aboutNodes, nodes: s.Nodes} }))
	}
	if s.Service != nil {
		n := policy.NamespacedName(*s.Service)
		terms = append(terms, c.intern(serviceKey(n), func() *term { return &term{about: aboutService, service: n} }))
	}
	if len(s.Nets) > 0 {
		nets := ipSet(s.Nets...)
		terms = append(terms, c.intern(netsKey(nets), func() *term {
			t := &term{about: aboutNets, nets: nets}
			for f, all := range allOf {
				t.wide[f] = nets.ContainsPrefix(all)
			}
			return t
		}))
	}
	return terms
}

// release gives a term back that a clause had.
func (c *Compiler) release(t *term) {
	if t.refs--; t.refs > 0 {
		return
	}
	delete(c.terms, t.key)
	if t.about == aboutPods {
		t.pods.term = nil
		c.releaseSelector(t.pods)
	}
}
