package agent

import (
	"slices"
	"time"
)

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
	// sandbox is the one with which the pod began to wait.
	sandbox string
}

// demandTTL is how long a pod's demand outlives an ADD that failed because no address was free. The
// kubelet pauses 10 s or more between two attempts (it syncs a failed pod after its backOffPeriod,
// 10 s with jitter, when a worker is free). If the demand ended with the attempt, the controller
// would give back what it has made for the pod just before the next attempt.
const demandTTL = time.Minute

// beginWaitLocked records that an ADD waits and reports whether the demand has changed.
func (a *Agent) beginWaitLocked(c waiter, sandbox string, exclusive bool) (news bool) {
	w := a.waiting[c]
	if w == nil {
		w = &demand{sandbox: sandbox}
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

// maxWaitingSandboxes bounds the report (NodeNetworkStatus.WaitingSandboxes).
const maxWaitingSandboxes = 32

// waitingSandboxesLocked returns the sandboxes with which pods began to wait. Those of further attempts are not
// reported: each would be a write to the API server.
func (a *Agent) waitingSandboxesLocked() []string {
	var out []string
	for _, w := range a.waiting {
		out = append(out, w.sandbox)
	}
	slices.Sort(out) // the order must not change the report
	return out[:min(len(out), maxWaitingSandboxes)]
}
