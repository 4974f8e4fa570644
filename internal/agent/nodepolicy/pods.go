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
	// said and written have who has an address by the last part, and in the maps; writing: in the maps when they have been
	// written, nil if they are not being.
	said, written, writing map[netip.Addr]policy.NamespacedName
}

// enter notes that a pod has addresses from now on. behind: what was written of them is of another pod, or what
// was said of this one is not written.
func (p *pods) enter(pod policy.NamespacedName, addresses []netip.Addr) (behind bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.here == nil {
		p.here = map[netip.Addr]policy.NamespacedName{}
	}
	for _, a := range addresses {
		p.here[a] = pod
		behind = behind || p.behind(a)
	}
	return behind
}

// leave notes that it has them no more.
func (p *pods) leave(pod policy.NamespacedName, addresses []netip.Addr) (behind bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range addresses {
		if p.here[a] == pod {
			delete(p.here, a)
		}
		behind = behind || p.behind(a)
	}
	return behind
}

// behind says whether the maps have of an address what they should not, or are about to.
func (p *pods) behind(a netip.Addr) bool {
	none := policy.NamespacedName{}
	want := none
	if said := p.said[a]; said != none && said == p.here[a] {
		want = said
	}
	return p.written[a] != want || p.writing != nil && p.writing[a] != want
}

// keep leaves of a part's endpoints those of pods that are here. They are about to be written: wrote comes next.
func (p *pods) keep(endpoints map[policy.NamespacedName]compile.Endpoint) map[policy.NamespacedName]compile.Endpoint {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.said, p.writing = map[netip.Addr]policy.NamespacedName{}, map[netip.Addr]policy.NamespacedName{}
	out := make(map[policy.NamespacedName]compile.Endpoint, len(endpoints))
	for name, e := range endpoints {
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
	return out
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
