package feed

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"terway.dev/terway/internal/policy"
)

// pods are those that were told. Of running pods with the same address the youngest has it, as
// translate.Cluster has it.
type pods struct {
	all map[policy.NamespacedName]pod
	// owners are the running pods that are told to have an address.
	owners map[netip.Addr][]policy.NamespacedName
	dirty  map[policy.NamespacedName]struct{}
}

type pod struct {
	*policy.Pod
	created time.Time
}

func newPods() pods {
	return pods{map[policy.NamespacedName]pod{}, map[netip.Addr][]policy.NamespacedName{}, map[policy.NamespacedName]struct{}{}}
}

func (p pod) running() bool { return p.Pod != nil && !p.HostNetwork && !p.Ended }

func (ps *pods) set(name policy.NamespacedName, now pod, there bool) {
	was := ps.all[name]
	// Most of what a kubelet says of a pod is nothing to policies.
	if there && was.Pod != nil && was.created.Equal(now.created) && reflect.DeepEqual(was.Pod, now.Pod) {
		return
	}
	if !there {
		now = pod{}
	}
	if was.running() {
		for _, a := range was.Addresses {
			others := slices.DeleteFunc(ps.owners[a], func(n policy.NamespacedName) bool { return n == name })
			if ps.owners[a] = others; len(others) == 0 {
				delete(ps.owners, a)
			}
			ps.mark(others)
		}
	}
	if now.Pod != nil {
		ps.all[name] = now
	} else {
		delete(ps.all, name)
	}
	if now.running() {
		for _, a := range now.Addresses {
			ps.mark(ps.owners[a])
			ps.owners[a] = append(ps.owners[a], name)
		}
	}
	ps.dirty[name] = struct{}{}
}

func (ps *pods) mark(names []policy.NamespacedName) {
	for _, n := range names {
		ps.dirty[n] = struct{}{}
	}
}

// has says whether the address is the pod's.
func (ps *pods) has(p pod, a netip.Addr) bool {
	for _, other := range ps.owners[a] {
		o := ps.all[other]
		switch c := o.created.Compare(p.created); {
		case other == p.NamespacedName:
		case c > 0:
			return false
		case c == 0 && compareNames(other, p.NamespacedName) < 0:
			return false
		}
	}
	return true
}

func (ps *pods) changes() (out map[policy.NamespacedName]*policy.Pod) {
	for name := range ps.dirty {
		p := ps.all[name]
		now := p.Pod
		if others := func(a netip.Addr) bool { return !ps.has(p, a) }; p.running() && slices.ContainsFunc(p.Addresses, others) {
			without := *p.Pod
			without.Addresses = slices.DeleteFunc(slices.Clone(p.Addresses), others)
			now = &without
		}
		put(&out, name, now, true)
	}
	clear(ps.dirty)
	return out
}

// oneOfEachFamily is what the API server lets a pod have.
func oneOfEachFamily(list []netip.Addr) (out []netip.Addr) {
	for _, a := range list {
		if !slices.ContainsFunc(out, func(o netip.Addr) bool { return o.Is4() == a.Is4() }) {
			out = append(out, a)
		}
	}
	return out
}

func compareNames(a, b policy.NamespacedName) int {
	if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}
