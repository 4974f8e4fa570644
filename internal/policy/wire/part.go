package wire

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
)

// A Part is what a node has: the resources, and the tables that they contain. It is not safe
// for concurrent use.
type Part struct {
	node      *compile.Node
	open      map[string]struct{}
	resources map[Name]*Resource
	ranges    map[Name]content
	digest    Digest
}

// Keys are the entries of a Part that may have changed or are gone. Ranges is set if a family's
// ranges may have changed, Open if the open namespaces may have.
type Keys struct {
	Endpoints map[policy.NamespacedName]struct{}
	RuleSets  map[compile.Hash]struct{}
	Addresses map[netip.Addr]struct{}
	Peers     map[compile.Peer]struct{}
	Tables    map[compile.Hash]struct{}
	Ranges    [2]bool
	Open      bool
}

func newKeys() *Keys {
	return &Keys{
		Endpoints: map[policy.NamespacedName]struct{}{}, RuleSets: map[compile.Hash]struct{}{}, Addresses: map[netip.Addr]struct{}{},
		Peers: map[compile.Peer]struct{}{}, Tables: map[compile.Hash]struct{}{},
	}
}

// Empty reports whether nothing has changed.
func (k *Keys) Empty() bool {
	return len(k.Endpoints) == 0 && !k.Rules() && !k.Open
}

// Rules reports whether something has changed beside endpoints and open namespaces.
func (k *Keys) Rules() bool {
	return len(k.RuleSets)+len(k.Addresses)+len(k.Peers)+len(k.Tables) > 0 || k.Ranges != [2]bool{}
}

// NewPart returns an empty Part. It is not Complete.
func NewPart() *Part {
	return &Part{
		node: &compile.Node{
			Endpoints: map[policy.NamespacedName]compile.Endpoint{},
			RuleSets:  map[compile.Hash]compile.RuleSet{},
			Addresses: map[netip.Addr]compile.Place{},
			Peers:     map[compile.Peer]compile.Hash{},
			Tables:    map[compile.Hash]*compile.Table{},
		},
		open:      map[string]struct{}{},
		resources: map[Name]*Resource{},
		ranges:    map[Name]content{},
	}
}

// Node returns the tables. They change with the Part.
func (p *Part) Node() *compile.Node { return p.node }

// Open reports whether no policy can deny any connection of a pod of the namespace.
func (p *Part) Open(namespace string) bool {
	_, open := p.open[namespace]
	return open
}

// Resources returns all resources of the part. The caller must not change them.
func (p *Part) Resources() map[Name]*Resource { return p.resources }

// Change removes and adds resources. The result must have the given digest. After an error the
// Part is unchanged. No name may be in both lists; names in remove that the part does not have,
// and names in put that it has, are ignored.
func (p *Part) Change(put map[Name]*Resource, remove map[Name]struct{}, digest Digest) (*Keys, error) {
	ch := change{keys: newKeys()}
	want := p.digest
	for name := range remove {
		r := p.resources[name]
		if r == nil {
			continue
		}
		c, err := decode(r)
		if err != nil {
			return nil, err
		}
		ch.was = append(ch.was, item{name, r, c})
		want.Add(name)
	}
	for name, r := range put {
		if p.resources[name] != nil {
			continue
		}
		c, err := decode(r)
		if err != nil {
			return nil, fmt.Errorf("resource %s: %w", name, err)
		}
		ch.now = append(ch.now, item{name, r, c})
		want.Add(name)
	}
	if want != digest {
		return nil, fmt.Errorf("the resources have the digest %x: want %x", want, digest)
	}
	err := p.apply(ch)
	if err == nil && (len(ch.keys.Endpoints)+len(ch.keys.RuleSets)+len(ch.keys.Peers)+len(ch.keys.Tables) > 0 || ch.keys.Ranges != [2]bool{}) {
		err = p.node.Complete()
	}
	if err == nil {
		for _, i := range ch.was { // most entries of a resource have not changed
			asBefore(i.addresses, p.node.Addresses, ch.keys.Addresses)
			asBefore(i.peers, p.node.Peers, ch.keys.Peers)
		}
		return ch.keys, nil
	}
	was := NewPart()
	back := change{keys: newKeys()}
	for _, i := range ch.now {
		delete(p.resources, i.name)
	}
	for _, i := range ch.was {
		p.resources[i.name] = i.Resource
	}
	for name, r := range p.resources {
		c, bad := decode(r)
		if bad != nil {
			return nil, bad // the old content is valid
		}
		back.now = append(back.now, item{name, r, c})
	}
	if bad := was.apply(back); bad != nil {
		return nil, bad // as above
	}
	*p = *was
	return nil, err
}

type item struct {
	name Name
	*Resource
	content
}

type change struct {
	was, now []item
	keys     *Keys
}

// apply changes the part. After an error the part is in between.
func (p *Part) apply(ch change) error {
	n, k := p.node, ch.keys
	for _, i := range ch.was {
		delete(p.resources, i.name)
		p.digest.Add(i.name)
		for _, ns := range i.open {
			delete(p.open, ns)
			k.Open = true
		}
		takeOut(n.Addresses, i.addresses, k.Addresses)
		takeOut(n.Peers, i.peers, k.Peers)
		switch {
		case i.ranges != nil:
			delete(p.ranges, i.name)
			k.Ranges[i.family] = true
		case i.table != nil:
			takeOut(n.Tables, map[compile.Hash]*compile.Table{i.table.Hash: nil}, k.Tables)
		case i.ruleSet != nil:
			takeOut(n.RuleSets, map[compile.Hash]compile.RuleSet{i.content.name: {}}, k.RuleSets)
		case i.endpoint != nil:
			takeOut(n.Endpoints, map[policy.NamespacedName]compile.Endpoint{i.pod: {}}, k.Endpoints)
		}
	}
	for _, i := range ch.now {
		p.resources[i.name] = i.Resource
		p.digest.Add(i.name)
		for _, ns := range i.open {
			p.open[ns] = struct{}{}
			k.Open = true
		}
		err := putIn(n.Addresses, i.addresses, k.Addresses)
		if err == nil {
			err = putIn(n.Peers, i.peers, k.Peers)
		}
		switch {
		case err != nil:
		case i.ranges != nil:
			p.ranges[i.name] = i.content
			k.Ranges[i.family] = true
		case i.table != nil:
			err = putIn(n.Tables, map[compile.Hash]*compile.Table{i.table.Hash: i.table}, k.Tables)
		case i.ruleSet != nil:
			err = putIn(n.RuleSets, map[compile.Hash]compile.RuleSet{i.content.name: *i.ruleSet}, k.RuleSets)
		case i.endpoint != nil:
			err = putIn(n.Endpoints, map[policy.NamespacedName]compile.Endpoint{i.pod: *i.endpoint}, k.Endpoints)
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", i.Kind, i.name, err)
		}
	}
	for f := range n.Ranges {
		if k.Ranges[f] {
			n.Ranges[f] = p.join(f)
		}
	}
	return nil
}

// join returns a family's ranges in order.
func (p *Part) join(family int) (out []compile.Range) {
	lists := slices.Collect(maps.Values(p.ranges))
	slices.SortFunc(lists, func(a, b content) int { return a.ranges[0].From.Compare(b.ranges[0].From) })
	for _, l := range lists {
		if l.family == family {
			out = append(out, l.ranges...)
		}
	}
	return out
}

func takeOut[K comparable, V any](m, these map[K]V, keys map[K]struct{}) {
	for k := range these {
		delete(m, k)
		keys[k] = struct{}{}
	}
}

func putIn[K comparable, V any](m, these map[K]V, keys map[K]struct{}) error {
	for k, v := range these {
		if _, twice := m[k]; twice {
			return fmt.Errorf("%v is in two resources", k)
		}
		m[k] = v
		keys[k] = struct{}{}
	}
	return nil
}

func asBefore[K, V comparable](was, now map[K]V, keys map[K]struct{}) {
	for k, v := range was {
		if o, ok := now[k]; ok && o == v {
			delete(keys, k)
		}
	}
}
