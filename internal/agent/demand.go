package agent

import "time"

// claim is what waits for an address: a pod's interface. It is not the sandbox's: when an
// ADD has failed the runtime takes the sandbox down, DEL included, and the kubelet tries
// again with another one.
type claim struct{ pod, ifName string }

// wish is what a claim waits for.
type wish struct {
	// exclusive: an ENI of its own, not an address of a shared one.
	exclusive bool
	// adds are the ADDs that wait now. When there are none, the wish lasts until.
	adds  int
	until time.Time
}

// patient is how long a pod's wish outlives an ADD that failed for want of an address. The
// kubelet pauses between two attempts, 10 s and more (it syncs a failed pod after its
// backOffPeriod, 10 s, with jitter, when a worker is free): if the wish ended with the
// attempt, what is made for the pod would be given back meanwhile, just before it comes.
const patient = time.Minute

// waitLocked notes that an ADD waits and reports whether that is news.
func (a *Agent) waitLocked(c claim, exclusive bool) (news bool) {
	w := a.waiting[c]
	if w == nil {
		w = &wish{}
		a.waiting[c] = w
		news = true
	}
	news = news || w.exclusive != exclusive
	w.exclusive = exclusive
	w.adds++
	return news
}

// waitedLocked notes that an ADD waits no longer.
func (a *Agent) waitedLocked(c claim) {
	if w := a.waiting[c]; w != nil && w.adds > 0 {
		w.adds--
		w.until = a.Now().Add(patient)
	}
}

// demandLocked is how many pods wait for an address, and how many for an ENI. It forgets
// those that have not come again.
func (a *Agent) demandLocked() (addresses, enis int) {
	now := a.Now()
	for c, w := range a.waiting {
		switch {
		case w.adds == 0 && !now.Before(w.until):
			delete(a.waiting, c)
		case w.exclusive:
			enis++
		default:
			addresses++
		}
	}
	return addresses, enis
}
