package hub

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
)

// pods holds the pods of the cluster as the API server has them, and the addresses that nodes
// claim for their pods before the API server has them.
//
// A claimed address belongs to the pod, in place of what the API server has of a former sandbox, until the pod
// ends, or until the API server gets another address for it. If the API server still has the address at another
// pod of the node, which is about to be deleted, that pod loses it.
type pods struct {
	told    map[policy.NamespacedName]*policy.Pod
	claims  map[policy.NamespacedName]claim
	claimed map[netip.Addr]policy.NamespacedName
	// owners are the running pods that have an address in the API server, in order; usually one.
	owners map[netip.Addr][]policy.NamespacedName
}

// A claim is what a node reported of a pod, and the nodes whose part changed because of it,
// with the revision.
type claim struct {
	addresses []netip.Addr
	nodes     []string
	revision  uint64
}

// knownTo reports whether the API server has one of the addresses for the pod.
func (c claim) knownTo(p *policy.Pod) bool {
	return slices.ContainsFunc(c.addresses, func(a netip.Addr) bool { return slices.Contains(p.Addresses, a) })
}

func newPods() pods {
	return pods{
		map[policy.NamespacedName]*policy.Pod{}, map[policy.NamespacedName]claim{},
		map[netip.Addr]policy.NamespacedName{}, map[netip.Addr][]policy.NamespacedName{},
	}
}

// running reports whether policies use the pod's addresses.
func running(p *policy.Pod) bool { return p != nil && !p.HostNetwork && !p.Ended }

// tell stores the pods of a Delta, and changes them in the Delta to include the claims.
func (p *pods) tell(d *compile.Delta) (undo func()) {
	touched := map[policy.NamespacedName]struct{}{}
	var undos []func()
	for name, now := range d.Pods {
		touched[name] = struct{}{}
		was := p.told[name]
		undos = append(undos, p.put(name, now))
		has, ok := p.claims[name]
		if !ok || running(now) && was != nil && now.Node == was.Node && (len(now.Addresses) == 0 || slices.Equal(now.Addresses, was.Addresses) || has.knownTo(now)) {
			continue
		}
		undos = append(undos, p.setClaim(name, claim{}, touched))
	}
	if len(touched) > 0 {
		d.Pods = maps.Clone(d.Pods)
		for name := range touched {
			d.Pods[name] = p.effective(name)
		}
	}
	return func() {
		for _, u := range slices.Backward(undos) {
			u()
		}
	}
}

// put stores a pod as the API server has it.
func (p *pods) put(name policy.NamespacedName, now *policy.Pod) (undo func()) {
	was := p.told[name]
	if running(was) {
		for _, a := range was.Addresses {
			others := slices.DeleteFunc(slices.Clone(p.owners[a]), func(o policy.NamespacedName) bool { return o == name })
			if p.owners[a] = others; len(others) == 0 {
				delete(p.owners, a)
			}
		}
	}
	if now == nil {
		delete(p.told, name)
	} else {
		p.told[name] = now
	}
	if running(now) {
		for _, a := range now.Addresses {
			all := append(slices.Clone(p.owners[a]), name)
			slices.SortFunc(all, func(a, b policy.NamespacedName) int {
				return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
			})
			p.owners[a] = slices.Compact(all)
		}
	}
	return func() { p.put(name, was) }
}

// setClaim sets the addresses that are claimed for a pod. It adds to touched all pods whose
// addresses may change.
func (p *pods) setClaim(name policy.NamespacedName, now claim, touched map[policy.NamespacedName]struct{}) (undo func()) {
	was := p.claims[name]
	for _, a := range was.addresses {
		delete(p.claimed, a)
	}
	delete(p.claims, name)
	if len(now.addresses) > 0 {
		p.claims[name] = now
	}
	for _, a := range now.addresses {
		p.claimed[a] = name
	}
	touched[name] = struct{}{}
	for _, a := range slices.Concat(was.addresses, now.addresses) {
		for _, o := range p.owners[a] {
			touched[o] = struct{}{}
		}
	}
	return func() { p.setClaim(name, was, touched) }
}

// effective returns a pod including the claims.
func (p *pods) effective(name policy.NamespacedName) *policy.Pod {
	t := p.told[name]
	if !running(t) {
		return t
	}
	addresses := t.Addresses
	if claim := p.claims[name]; len(claim.addresses) > 0 && !claim.knownTo(t) {
		addresses = claim.addresses
	}
	others := func(a netip.Addr) bool {
		by, ok := p.claimed[a]
		return ok && by != name
	}
	if slices.ContainsFunc(addresses, others) {
		addresses = slices.DeleteFunc(slices.Clone(addresses), others)
	}
	if slices.Equal(addresses, t.Addresses) {
		return t
	}
	with := *t
	with.Addresses = addresses
	return &with
}

// errNotThere: the pod is not in the cluster as far as the hub knows.
type errNotThere policy.NamespacedName

func (e errNotThere) Error() string {
	return fmt.Sprintf("pod %s is not known: the hub has not seen it in the API server yet", policy.NamespacedName(e))
}

// claim returns the Delta that gives addresses to a pod of a node. No addresses: the pod has
// none any more.
func (p *pods) claim(name policy.NamespacedName, node string, addresses []netip.Addr) (d compile.Delta, undo func(), err error) {
	t := p.told[name]
	switch {
	case t == nil:
		return d, nil, errNotThere(name)
	case t.Node != node:
		// The error does not say which node the pod is on: the caller has no right to know.
		return d, nil, fmt.Errorf("pod %s is not one of node %s", name, node)
	case !running(t):
		return d, nil, fmt.Errorf("pod %s has ended, or is in the host network", name)
	}
	touched := map[policy.NamespacedName]struct{}{}
	var undos []func()
	undo = func() {
		for _, u := range slices.Backward(undos) {
			u()
		}
	}
	for _, a := range addresses {
		others := slices.Clone(p.owners[a])
		if by, ok := p.claimed[a]; ok {
			others = append(others, by)
		}
		for _, o := range others {
			if p.told[o].Node != node {
				return d, nil, fmt.Errorf("address %s of pod %s belongs to another pod", a, name)
			}
		}
	}
	for _, a := range addresses {
		if by, ok := p.claimed[a]; ok && by != name {
			undos = append(undos, p.setClaim(by, claim{}, touched))
		}
	}
	undos = append(undos, p.setClaim(name, claim{addresses: addresses}, touched))
	d.Pods = map[policy.NamespacedName]*policy.Pod{}
	for n := range touched {
		d.Pods[n] = p.effective(n)
	}
	return d, undo, nil
}
