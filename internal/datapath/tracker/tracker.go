// Package tracker remembers what this process did to a node's pods, by the name of the node's
// device. It settles the races between a Sync, whose list of pods was made a moment ago, and
// AddPod and DelPod, which know better:
//   - a pod deleted since is not repaired back to life,
//   - a pod added since is not removed as a leftover.
//
// It also keeps the nftables elements of wired pods, so that a lost table can be written again
// as a whole. It asks no kernel.
package tracker

import (
	"sync"

	"terway.dev/terway/internal/datapath/nft"
)

// Tracker is of one node. Its zero value knows nothing.
type Tracker struct {
	mu   sync.Mutex
	pods map[string]*Pod
}

// Pod is what is known of one, while its turn is held.
type Pod struct {
	// lock makes calls for one pod wait for each other. users counts who holds or
	// waits for it; without users, and idle, the entry goes.
	lock  sync.Mutex
	users int

	phase phase
	// version grows with every AddPod and DelPod.
	version int
	// seen says that a Sync had the pod in its list since it was added; missed
	// counts the Syncs that had not, before the first that had.
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

// Acquire waits for the pod's turn; the caller calls the function it returns
// when done.
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

// SetWired notes that AddPod wired the pod with these elements.
func (t *Tracker) SetWired(p *Pod, elems nft.Elements) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p.phase, p.elems = wired, elems
	p.version++
	p.seen, p.missed = false, 0
}

// SetDeleted notes that DelPod is at work, or done.
func (t *Tracker) SetDeleted(p *Pod) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p.phase, p.elems = deleted, nil
	p.version++
}

// Elements are those of all wired pods.
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

// Begin notes that a Sync with these pods starts. It returns the version of each
// pod, by which the Sync later sees that the pod was changed meanwhile.
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

// MayRepair says whether Sync may wire the pod: it was not deleted, and nobody
// changed it since the Sync began.
func (t *Tracker) MayRepair(p *Pod, began int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return p.phase != deleted && p.version == began
}

// MayRemove says whether Sync may remove a pod that is not in its list. One that
// this process wired and that no list had so far may be too new for the list: it
// gets a second chance.
func (t *Tracker) MayRemove(p *Pod, began int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return p.version == began && (p.phase != wired || p.seen || p.missed > 1)
}

// Repaired notes what Sync wrote for a desired pod.
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
