package nodepolicy

import (
	"maps"
	"net/netip"
	"slices"
	"sync"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
)

// pods are those that are wired here, or about to be, and what was written of them. Its lock is held for
// nothing else.
type pods struct {
	mu sync.Mutex
	// here has who has an address; a pod may have several.
	here map[netip.Addr]policy.NamespacedName
	// started are the addresses of pods that do not wait for the hub any more.
	started map[netip.Addr]struct{}
	// said and written have who has an address by the last part, and in the maps; writing: in the maps when they have been
	// written, nil if they are not being.
	said, written, writing map[netip.Addr]policy.NamespacedName
	// free has who has an address that the last part does not know, and no rules there.
	free map[netip.Addr]policy.NamespacedName
}

// enter notes that a pod has addresses from now on. behind: what was written of them is of another pod, or what
// was said of this one is not written.
func (p *pods) enter(pod policy.NamespacedName, addresses []netip.Addr) (behind bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.here == nil {
		p.here, p.started = map[netip.Addr]policy.NamespacedName{}, map[netip.Addr]struct{}{}
	}
	for _, a := range addresses {
		p.here[a] = pod
		delete(p.started, a)
		behind = behind || p.behind(a)
	}
	return behind
}

// start notes that a pod that has addresses here starts, or runs.
func (p *pods) start(pod policy.NamespacedName, addresses []netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range addresses {
		if p.here[a] == pod {
			p.started[a] = struct{}{}
		}
	}
}

// other returns who has one of the addresses by the last part, if that is another pod.
func (p *pods) other(pod policy.NamespacedName, addresses []netip.Addr) (has policy.NamespacedName, is bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range addresses {
		if has, is := p.said[a]; is && has != pod {
			return has, true
		}
	}
	return has, false
}

// leave notes that it has them no more.
func (p *pods) leave(pod policy.NamespacedName, addresses []netip.Addr) (behind bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range addresses {
		if p.here[a] == pod {
			delete(p.here, a)
			delete(p.started, a)
		}
		behind = behind || p.behind(a)
	}
	return behind
}

// behind says whether the maps have of an address what they should not, or are about to.
func (p *pods) behind(a netip.Addr) bool {
	none := policy.NamespacedName{}
	want := none
	if here := p.here[a]; here != none && (here == p.said[a] || here == p.free[a]) {
		want = here
	}
	return p.written[a] != want || p.writing != nil && p.writing[a] != want
}

// keep makes of a part what is to be written: its endpoints of pods that are here, and endpoints without rules for those that have started
// in an open namespace, at an address that the part does not know. wrote comes next.
func (p *pods) keep(part *compile.Node, open func(namespace string) bool) *compile.Node {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.said, p.writing = map[netip.Addr]policy.NamespacedName{}, map[netip.Addr]policy.NamespacedName{}
	out := make(map[policy.NamespacedName]compile.Endpoint, len(part.Endpoints))
	for name, e := range part.Endpoints {
		for _, a := range e.Addresses {
			p.said[a] = name
		}
		e.Addresses = slices.DeleteFunc(slices.Clone(e.Addresses), func(a netip.Addr) bool { return p.here[a] != name })
		for _, a := range e.Addresses {
			p.writing[a] = name
		}
		if len(e.Addresses) > 0 {
			out[name] = e
		}
	}
	here := *part
	here.Endpoints = out
	p.free = map[netip.Addr]policy.NamespacedName{}
	for a := range p.started {
		if _, said := p.said[a]; !said && open(p.here[a].Namespace) {
			p.free[a], p.writing[a] = p.here[a], p.here[a]
		}
	}
	addFree(&here, p.free)
	return &here
}

// addFree adds addresses of pods without rules to a part, whose endpoints the caller may change. A pod that has an endpoint at another
// address, which is that of a former sandbox, has both then: its namespace is open, so its rules deny nothing.
func addFree(part *compile.Node, addresses map[netip.Addr]policy.NamespacedName) {
	if len(addresses) == 0 {
		return
	}
	endpoint, its := compile.Unselected()
	part.RuleSets, part.Tables = maps.Clone(part.RuleSets), maps.Clone(part.Tables)
	maps.Copy(part.RuleSets, its.RuleSets)
	maps.Copy(part.Tables, its.Tables)
	for _, a := range slices.SortedFunc(maps.Keys(addresses), netip.Addr.Compare) {
		e := part.Endpoints[addresses[a]]
		e.Addresses = append(e.Addresses, a)
		for d := range e.RuleSets {
			for f, h := range e.RuleSets[d] {
				if h == (compile.Hash{}) {
					e.RuleSets[d][f] = endpoint.RuleSets[d][f]
				}
			}
		}
		part.Endpoints[addresses[a]] = e
	}
}

// wrote notes what is in the maps. all: all that keep left; else what was there before and is among it. behind: pods came
// or went meanwhile, and the maps have of their addresses what they should not.
func (p *pods) wrote(all bool) (behind bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.written
	p.written, p.writing = p.writing, nil
	if !all {
		maps.DeleteFunc(p.written, func(a netip.Addr, name policy.NamespacedName) bool { return was[a] != name })
		return false // all of it is tried again
	}
	for _, of := range []map[netip.Addr]policy.NamespacedName{p.said, p.written} {
		for a := range of {
			if p.behind(a) {
				return true
			}
		}
	}
	return false
}

// closed says whether nothing passes at the addresses but what was said of the pod.
func (p *pods) closed(pod policy.NamespacedName, addresses []netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !slices.ContainsFunc(addresses, func(a netip.Addr) bool {
		has, ok := p.written[a]
		return ok && has != pod
	})
}

// at returns who has an address.
func (p *pods) at(a netip.Addr) (policy.NamespacedName, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pod, ok := p.here[a]
	return pod, ok
}
