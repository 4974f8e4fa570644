package agent

import "time"

// waiter is what waits for an address: a pod's interface. It is not tied to a sandbox: after a
// failed ADD the runtime removes the sandbox, with a DEL, and the kubelet tries again with a new
// one.
type waiter struct{ pod, ifName string }

// demand is what a waiter needs.
type demand struct {
	// exclusive: an exclusive ENI, not an address of a shared one.
	exclusive bool
	// adds is the number of ADDs that wait now. When it is 0, the demand expires at until.
	adds  int
	until time.Time
}

// demandTTL is how long a pod's demand outlives an ADD that failed because no address was free. The
// kubelet pauses 10 s or more between two attempts (it syncs a failed pod after its backOffPeriod,
// 10 s with jitter, when a worker is free). If the demand ended with the attempt, the controller
// would give back what it has made for the pod just before the next attempt.
const demandTTL = time.Minute

// beginWaitLocked records that an ADD waits and reports whether the demand has changed.
func (a *Agent) beginWaitLocked(c waiter, exclusive bool) (news bool) {
	w := a.waiting[c]
	if w == nil {
		w = &demand{}
		a.waiting[c] = w
		news = true
	}
	news = news || w.exclusive != exclusive
	w.exclusive = exclusive
	w.adds++
	return news
}

// endWaitLocked records that an ADD no longer waits.
func (a *Agent) endWaitLocked(c waiter) {
	if w := a.waiting[c]; w != nil && w.adds > 0 {
		w.adds--
		w.until = a.Now().Add(demandTTL)
	}
}

// demandLocked returns how many pods wait for an address, and how many for an exclusive ENI. It
// forgets expired demand.
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
