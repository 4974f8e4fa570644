package compile

import (
	"maps"
	"slices"
	"strings"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/selector"
)

// Selectors of pods are asked once for each class of pods: those of a namespace and service
// account that have the same of the labels which any selector mentions. So a pod like others is
// asked nothing, however many policies there are; and a class that is new is asked only by
// selectors that an index finds for it, by its namespace and its labels.

// A podSelector is a selector of pods of one or many policies.
type podSelector struct {
	key  string
	refs int
	policy.PodSelector
	all bool // it selects every pod

	// subjects are the policies whose subject it is; term is that it is asked of peers.
	subjects map[*object]struct{}
	term     *term

	// asked: classes has the classes that it selects.
	asked   bool
	classes map[*class]struct{}
}

// A class is pods that no selector tells apart.
type class struct {
	key    string
	like   *policy.Pod // has what the class has in common
	places []place     // where the index has it
	// pods are its members.
	pods      map[*pod]struct{}
	selectors map[*podSelector]struct{}

	// objects are the policies that select it, in order; nil: not known yet.
	objects *[2][]*object
	// ruleSets are those of pods whose policies ask nothing of the pod itself.
	ruleSets [2][families]*ruleSet
}

// podSelector is the selector with this content.
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

// mention makes labels part of what classes are told apart by. They stay so: that a label is no
// longer mentioned changes no answer, and policies come back.
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
		c.askAll(cl)
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

// An index finds by places: a place is a namespace and one thing in it ("": anywhere, anything).
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

// index notes where a class is, in its namespace and anywhere.
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

// manyPlaces is from how many values on a selector is not indexed by a label.
const manyPlaces = 16

// placesFor are the places one of which every class has that a selector selects.
func placesFor(s *podSelector) (places []place) {
	in := func(what string) { places = append(places, place{s.Namespace, what}) }
	// labels are the fewest values one of which a label must have.
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

// made says whether a label may be made on the spot: the index knows only labels that
// somebody wrote.
func made(key string) bool {
	switch key {
	case policy.LabelName, policy.LabelNamespace, policy.LabelOrchestrator, policy.LabelServiceAccount:
		return true
	}
	return strings.HasPrefix(key, policy.PrefixNamespace) || strings.HasPrefix(key, policy.PrefixServiceAccount)
}

// ask begins to keep which classes a selector selects, and calls changed for each.
func (c *Compiler) ask(s *podSelector, changed func(*class)) {
	if !s.asked {
		s.asked = true
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

// rest ends it, if nobody needs the selector's answers.
func (c *Compiler) rest(s *podSelector) {
	if !s.asked || len(s.subjects) > 0 || s.term != nil && s.term.live {
		return
	}
	s.asked = false
	for _, p := range placesFor(s) {
		c.selectorIndex.remove(p, s)
	}
	for cl := range s.classes {
		delete(cl.selectors, s)
	}
	clear(s.classes)
}

// askAll asks all selectors that could select a class, and says whether an answer changed.
func (c *Compiler) askAll(cl *class) (changed bool) {
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

// objectsOf are the policies that select the class, in order of evaluation.
func (c *Compiler) objectsOf(cl *class) *[2][]*object {
	if cl.objects == nil {
		cl.objects = &[2][]*object{}
		for s := range cl.selectors {
			for o := range s.subjects {
				for d, has := range o.Directions {
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
