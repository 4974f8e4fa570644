package compile

import (
	"maps"
	"slices"
	"strings"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/selector"
)

// Pods are grouped into classes: pods of one namespace and service account with equal values of
// all labels that a selector mentions. A selector is evaluated once for each class. A pod of a
// known class costs no evaluation, and a new class is evaluated only by the selectors that an
// index finds by its namespace and labels.

// A podSelector is a selector that one or more policies use.
type podSelector struct {
	key  string
	refs int
	policy.PodSelector
	all bool // it selects every pod

	// subjects are the policies whose subject it is. term is its term, if rules select peers by
	// it.
	subjects map[*object]struct{}
	term     *term

	// tracked: classes is kept up to date with the classes that it selects.
	tracked bool
	classes map[*class]struct{}
}

// A class is a set of pods that no selector tells apart.
type class struct {
	key    string
	like   *policy.Pod // a pod with what all of the class have in common
	places []place     // its keys in the index
	// pods are its members.
	pods      map[*pod]struct{}
	selectors map[*podSelector]struct{}

	// objects are the policies that select the class, in order; nil: not computed yet.
	objects *[2][]*object
	// ruleSets are the rule sets of the class's pods, if the policies have no condition on the
	// pod itself.
	ruleSets [2][families]*ruleSet
}

// podSelector returns the selector with this content, and makes it if there is none.
func (c *Compiler) podSelector(s policy.PodSelector) *podSelector {
	key := podsKey(s)
	p := c.selectors[key]
	if p == nil {
		p = &podSelector{
			key: key, PodSelector: s, subjects: map[*object]struct{}{}, classes: map[*class]struct{}{},
			all: s.Namespace == "" && s.Namespaces.Always() && s.Pods.Always() && s.ServiceAccountNames == nil && s.ServiceAccounts.Always(),
		}
		c.selectors[key] = p
		c.mention(s.Pods.Keys())
	}
	p.refs++
	return p
}

func (c *Compiler) releaseSelector(p *podSelector) {
	if p.refs--; p.refs == 0 {
		delete(c.selectors, p.key)
	}
}

// mention adds label keys that divide pods into classes. They are never removed: an unused key
// changes no result, and policies often come back.
func (c *Compiler) mention(keys []string) {
	var fresh []string
	for _, k := range keys {
		if _, ok := c.mentioned[k]; !ok {
			c.mentioned[k] = struct{}{}
			fresh = append(fresh, k)
		}
	}
	if len(fresh) == 0 {
		return
	}
	for _, p := range c.pods {
		if p.class != nil && slices.ContainsFunc(fresh, func(k string) bool { _, ok := p.Labels[k]; return ok }) {
			c.classify(p)
		}
	}
}

// classify puts a pod into its class.
func (c *Compiler) classify(p *pod) {
	c.declassify(p)
	keep := map[string]string{}
	for k, v := range p.Labels {
		if _, ok := c.mentioned[k]; ok {
			keep[k] = v
		}
	}
	var d digest
	d.str(p.Namespace, p.ServiceAccount)
	for _, k := range slices.Sorted(maps.Keys(keep)) {
		d.str(k, keep[k])
	}
	key := string(d)
	cl := c.classes[key]
	if cl == nil {
		cl = &class{key: key, pods: map[*pod]struct{}{}, selectors: map[*podSelector]struct{}{}}
		cl.like = &policy.Pod{Labels: keep, ServiceAccount: p.ServiceAccount}
		cl.like.Namespace = p.Namespace
		c.classes[key] = cl
		c.index(cl)
		c.evaluate(cl)
	}
	p.class = cl
	cl.pods[p] = struct{}{}
}

func (c *Compiler) declassify(p *pod) {
	cl := p.class
	if cl == nil {
		return
	}
	p.class = nil
	if delete(cl.pods, p); len(cl.pods) > 0 {
		return
	}
	delete(c.classes, cl.key)
	for _, place := range cl.places {
		c.classIndex.remove(place, cl)
	}
	for s := range cl.selectors {
		delete(s.classes, cl)
	}
}

// An index finds objects by place. A place is a namespace and a label in it; "" stands for any
// namespace or any label.
type index[T comparable] map[place]map[T]struct{}

type place struct{ namespace, what string }

func (x index[T]) add(p place, v T) {
	if x[p] == nil {
		x[p] = map[T]struct{}{}
	}
	x[p][v] = struct{}{}
}

func (x index[T]) remove(p place, v T) {
	if delete(x[p], v); len(x[p]) == 0 {
		delete(x, p)
	}
}

func labelPlace(key, value string) string { return "label " + key + "=" + value }

func accountPlace(name string) string { return "account " + name }

func namespacePlace(key, value string) string { return "namespace " + key + "=" + value }

// index adds a class at its places, for its namespace and for any namespace.
func (c *Compiler) index(cl *class) {
	for _, p := range cl.places {
		c.classIndex.remove(p, cl)
	}
	cl.places = nil
	for _, ns := range []string{"", cl.like.Namespace} {
		in := func(what string) { cl.places = append(cl.places, place{ns, what}) }
		in("")
		in(accountPlace(cl.like.ServiceAccount))
		for k, v := range cl.like.Labels {
			in(labelPlace(k, v))
		}
		for k, v := range c.facts.Namespaces[cl.like.Namespace] {
			in(namespacePlace(k, v))
		}
	}
	for _, p := range cl.places {
		c.classIndex.add(p, cl)
	}
}

// A label with manyPlaces values or more is not used to index a selector.
const manyPlaces = 16

// placesFor returns places for a selector such that each class it selects has at least one of
// them.
func placesFor(s *podSelector) (places []place) {
	in := func(what string) { places = append(places, place{s.Namespace, what}) }
	// labels returns the shortest list of values of which a label must have one.
	labels := func(s *selector.Selector, place func(key, value string) string) bool {
		var best selector.Requirement
		for _, r := range s.Requires() {
			if r.Values != nil && len(r.Values) <= manyPlaces && !made(r.Key) && (best.Values == nil || len(r.Values) < len(best.Values)) {
				best = r
			}
		}
		for _, v := range best.Values {
			in(place(best.Key, v))
		}
		return best.Values != nil
	}
	switch {
	case labels(s.Pods, labelPlace):
	case len(s.ServiceAccountNames) > 0 && len(s.ServiceAccountNames) <= manyPlaces:
		for _, n := range s.ServiceAccountNames {
			in(accountPlace(n))
		}
	case labels(s.Namespaces, namespacePlace):
	default:
		in("")
	}
	return places
}

// made reports whether a label can be a generated one. The index has only labels of the API
// objects.
func made(key string) bool {
	switch key {
	case policy.LabelName, policy.LabelNamespace, policy.LabelOrchestrator, policy.LabelServiceAccount:
		return true
	}
	return strings.HasPrefix(key, policy.PrefixNamespace) || strings.HasPrefix(key, policy.PrefixServiceAccount)
}

// track starts to track which classes a selector selects, and calls changed for each of them.
func (c *Compiler) track(s *podSelector, changed func(*class)) {
	if !s.tracked {
		s.tracked = true
		for _, p := range placesFor(s) {
			c.selectorIndex.add(p, s)
			for cl := range c.classIndex[p] {
				if c.selects(s, cl) {
					cl.selectors[s] = struct{}{}
					s.classes[cl] = struct{}{}
				}
			}
		}
	}
	for cl := range s.classes {
		changed(cl)
	}
}

// untrack stops tracking if nothing uses the selector's results.
func (c *Compiler) untrack(s *podSelector) {
	if !s.tracked || len(s.subjects) > 0 || s.term != nil && s.term.live {
		return
	}
	s.tracked = false
	for _, p := range placesFor(s) {
		c.selectorIndex.remove(p, s)
	}
	for cl := range s.classes {
		delete(cl.selectors, s)
	}
	clear(s.classes)
}

// evaluate evaluates all selectors that may select a class, and reports whether a result changed.
func (c *Compiler) evaluate(cl *class) (changed bool) {
	now := map[*podSelector]struct{}{}
	for _, p := range cl.places {
		for s := range c.selectorIndex[p] {
			if c.selects(s, cl) {
				now[s] = struct{}{}
			}
		}
	}
	for s := range cl.selectors {
		if _, ok := now[s]; !ok {
			delete(s.classes, cl)
			changed = true
		}
	}
	for s := range now {
		if _, ok := s.classes[cl]; !ok {
			s.classes[cl] = struct{}{}
			changed = true
		}
	}
	cl.selectors = now
	return changed
}

func (c *Compiler) selects(s *podSelector, cl *class) bool {
	return c.facts.selects(s.PodSelector, cl.like)
}

func matchesNode(s *selector.Selector, n *policy.Node) bool { return s.Matches(selector.Map(n.Labels)) }

// objectsOf returns the policies that select the class, in order of evaluation.
func (c *Compiler) objectsOf(cl *class) *[2][]*object {
	if cl.objects == nil {
		cl.objects = &[2][]*object{}
		for s := range cl.selectors {
			for o := range s.subjects {
				for d, has := range o.directions {
					if has {
						cl.objects[d] = append(cl.objects[d], o)
					}
				}
			}
		}
		for d := range cl.objects {
			slices.SortFunc(cl.objects[d], (*object).compare)
		}
	}
	return cl.objects
}
