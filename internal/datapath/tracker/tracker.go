// Package tracker records what this process did to a node's pods, by the name of the node's device.
// It resolves the races between a Sync, whose list of pods was made a moment ago, and AddPod and
// DelPod, which are newer:
//
//   - a pod that was deleted since is not wired again,
//   - a pod that was added since is not removed as a leftover.
//
// It also keeps the nftables elements of wired pods, so that a lost table can be written as a
// whole. It does not read the kernel.
package tracker

import (
	"sync"

	"terway.dev/terway/internal/datapath/nft"
)

// Tracker is for one node. Its zero value is empty.
type Tracker struct {
	mu   sync.Mutex
	pods map[string]*Pod
}

// Pod is the state of one pod; the caller holds its lock.
type Pod struct {
	// lock serialises calls for one pod. users counts who holds or waits for it; the entry is
	// removed when it has no users and is idle.
	lock  sync.Mutex
	users int

	phase phase
	// version grows with every AddPod and DelPod.
	version int
	// seen: a Sync had the pod in its list since it was added; missed counts the Syncs before that
	// had not.
	seen   bool
	missed int
	elems  nft.Elements
}

type phase int

const (
	idle    phase = iota // nothing is known of it
	wired                // AddPod or Sync wired it
	deleted              // DelPod removed it; a Sync's list may still have it
)

// Acquire locks the pod; the caller calls the returned function when done.
func (t *Tracker) Acquire(name string) (*Pod, func()) {
	t.mu.Lock()
	if t.pods == nil {
		t.pods = map[string]*Pod{}
	}
	p := t.pods[name]
	if p == nil {
		p = &Pod{}
		t.pods[name] = p
	}
	p.users++
	t.mu.Unlock()

	p.lock.Lock()
	return p, func() {
		p.lock.Unlock()
		t.mu.Lock()
		defer t.mu.Unlock()
		p.users--
		if p.users == 0 && p.phase == idle {
			delete(t.pods, name)
		}
	}
}

// SetWired records that AddPod wired the pod with these elements.
func (t *Tracker) SetWired(p *Pod, elems nft.Elements) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p.phase, p.elems = wired, elems
	p.version++
	p.seen, p.missed = false, 0
}

// SetDeleted records that DelPod is running, or done.
func (t *Tracker) SetDeleted(p *Pod) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p.phase, p.elems = deleted, nil
	p.version++
}

// Elements returns the elements of all wired pods.
func (t *Tracker) Elements() nft.Elements {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := nft.Elements{}
	for _, p := range t.pods {
		if p.phase != wired {
			continue
		}
		for k, mark := range p.elems {
			all[k] = mark
		}
	}
	return all
}

// Begin records that a Sync with these pods starts. It returns the version of each pod, by which
// the Sync later detects changes since.
func (t *Tracker) Begin(listed func(device string) bool) map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	versions := map[string]int{}
	for name, p := range t.pods {
		versions[name] = p.version
		want := listed(name)
		switch {
		case p.phase == deleted && !want && p.users == 0:
			delete(t.pods, name)
		case p.phase == deleted && !want:
			p.phase = idle
		case p.phase == wired && want:
			p.seen = true
		case p.phase == wired && !p.seen:
			p.missed++
		}
	}
	return versions
}

// MayRepair reports whether Sync may wire the pod: it was not deleted, and not changed since the
// Sync began.
func (t *Tracker) MayRepair(p *Pod, began int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return p.phase != deleted && p.version == began
}

// MayRemove reports whether Sync may remove a pod that is not in its list. A pod that this process
// wired and that no list had so far may be newer than the list: it is kept once.
func (t *Tracker) MayRemove(p *Pod, began int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return p.version == began && (p.phase != wired || p.seen || p.missed > 1)
}

// Repaired records what Sync wrote for a desired pod.
func (t *Tracker) Repaired(p *Pod, elems nft.Elements) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p.phase, p.elems, p.seen = wired, elems, true
}

// Removed forgets a leftover.
func (t *Tracker) Removed(p *Pod) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p.phase, p.elems = idle, nil
}
