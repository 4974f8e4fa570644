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

// A term is one condition that rules have on the other end's address. It is live while a rule
// set uses it. Only live terms divide addresses into atoms.
type term struct {
	key   string // terms with equal keys are shared
	about about
	refs  int // number of clauses that use it
	live  bool

	pods    *podSelector
	sets    *policy.NetworkSetSelector
	nodes   *selector.Selector
	service policy.NamespacedName // for aboutService, aboutServicePort
	name    string                // for aboutPortName

	// nets has the networks of aboutNets, or of the sets that aboutSets selects now.
	nets *netipx.IPSet
	// wide: the networks cover all addresses of the family.
	wide [families]bool

	traits map[portKey]*trait
	atoms  map[*atom]struct{} // with a trait of the term; only bases if it is ranged
	users  map[*ruleSet]struct{}
	// groups of rule sets that use the term, if it is ranged.
	groups map[*networkGroup]struct{}
	at     map[string]int // number of a node's rule sets that use it

	// mark is equal to Compiler.query while the term holds for the atom that is looked at.
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

// ranged reports whether the term is about networks, so that it can hold for addresses that no
// object has.
func (t *term) ranged() bool { return t.about == aboutNets || t.about == aboutSets }

// holdsForAll reports whether the term holds for every address of a kind and family, whatever
// is in the cluster. Such terms are part of the default table.
func (t *term) holdsForAll(k kind, f family) bool {
	return t.about == aboutNets && t.wide[f] || k == pods && t.allPods()
}

func (t *term) allPods() bool { return t.about == aboutPods && t.pods.all }

// portKey is a port and its protocol (IP number). It is zero for terms without ports.
type portKey struct {
	protocol uint8
	port     uint16
}

// A trait says that a live term holds for an address. For a named port or a Service's port it
// has the port number.
type trait struct {
	term *term
	portKey
	hash Hash
}

// has returns the trait of the term with this port.
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

// Keys. The first word separates things of different types with equal names.

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

// ipSet returns the union of networks that check has accepted.
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

// intern returns the term with a key, and makes it if there is none.
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

// termsOf returns the terms of a set of addresses. One of them must hold.
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

// release drops a clause's reference to a term.
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
