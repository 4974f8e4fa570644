package nodenetwork

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/api/v1alpha1"
)

// ListsLag is how old the cloud's lists may be. The answer to a call that changes
// something is true at once; a list shows it up to so much later, one by ids too. Alibaba
// Cloud documents no bound; what has been reported is well below a minute.
const ListsLag = 2 * time.Minute

// kind is what a difference is, which says when it is believed.
type kind int

const (
	// appeared: the cloud has what the spec has not. Believed when it is still there
	// Settle later; a call of ours may be under way. What the controller took away itself
	// a short while ago is no difference (takenAway).
	appeared kind = iota
	// absent: an address that no pod has is not in the cloud. Believed when it was looked at
	// twice, and this process has not assigned it a short while ago: should it be there
	// after all, the node is asked before anything is done.
	absent
	// detached: an ENI is not attached. Believed at once like lost, or Settle later:
	// attaching it again does no harm.
	detached
	// lost: an ENI, or an address that a pod has, is not in the cloud. Believed when it was
	// looked at twice and no call of ours is younger than a list may be old; at once if the
	// node misses the ENI's device too.
	lost
)

// believes reports whether a difference is to be acted on that has lasted for so long
// in what the cloud said at that time.
func (w *work) believes(d difference, lasted time.Duration, at time.Time) bool {
	switch d.kind {
	case absent:
		return !w.mem.called(d.thing, at)
	case detached:
		return w.deviceMissing(d.eni) || w.mem.oldNews(d.thing, at) || lasted >= w.Settle
	case lost:
		return w.deviceMissing(d.eni) && d.thing == d.eni || w.mem.oldNews(d.thing, at)
	}
	return lasted >= w.Settle
}

// contradicted are the ENIs of which the spec has what the cloud's list has not.
func contradicted(all []difference) []string {
	var ids []string
	for _, d := range all {
		if d.kind != appeared && !slices.Contains(ids, d.eni) {
			ids = append(ids, d.eni)
		}
	}
	return ids
}

// made notes calls that put ENIs (by id) or addresses there.
func (m *memory) made(at time.Time, things ...string) {
	for _, t := range things {
		m.calls[t] = at
	}
}

// called reports whether this process put something there so shortly before that a list
// of that time may not have it.
func (m *memory) called(thing string, at time.Time) bool {
	t, ok := m.calls[thing]
	return ok && at.Sub(t) < ListsLag
}

// oldNews reports whether a list of that time must have what was done to something. What
// was done before this process first saw the node it does not know.
func (m *memory) oldNews(thing string, at time.Time) bool {
	return !m.called(thing, at) && at.Sub(m.born) >= ListsLag
}

// forgetCalls drops what every list has by now.
func (m *memory) forgetCalls(now time.Time) {
	for t, at := range m.calls {
		if now.Sub(at) >= 2*ListsLag {
			delete(m.calls, t)
		}
	}
}

// lookAgain has the cloud compared when a pod has an address that was found to be absent
// while nobody had it.
func (w *work) lookAgain() {
	for _, u := range w.nn.Status.Used {
		if w.mem.lacking[u.Address] && !w.unassigning(u.Address) {
			w.mem.doubt.Store(true)
			return
		}
	}
}

func (w *work) unassigning(address string) bool {
	for _, e := range w.nn.Spec.ENIs {
		for _, a := range e.Addresses {
			if a.Address == address {
				return a.Unassigning
			}
		}
	}
	return false
}

// takeAway notes in the spec, where a successor finds it, that an ENI or addresses of it
// were taken away: an old list still has them.
func (w *work) takeAway(eni string, addresses []netip.Addr) {
	t := v1alpha1.TakenAway{ENI: eni, At: metav1.NewTime(w.Now().Truncate(time.Second))}
	for _, a := range addresses {
		t.Addresses = append(t.Addresses, a.String())
	}
	s := &w.nn.Spec
	s.TakenAway = append(s.TakenAway, t)
	if n := len(s.TakenAway) - maxTakenAway; n > 0 {
		s.TakenAway = slices.Delete(s.TakenAway, 0, n)
	}
}

// maxTakenAway is how many calls the API server's schema lets the spec remember; a node makes
// fewer in ListsLag.
const maxTakenAway = 256

// forgetTaken drops what every list knows by now.
func (w *work) forgetTaken() {
	now := w.Now()
	w.nn.Spec.TakenAway = slices.DeleteFunc(w.nn.Spec.TakenAway, func(t v1alpha1.TakenAway) bool { return now.Sub(t.At.Time) >= 2*ListsLag })
}

// takenAway reports whether the controller took away an address of an ENI, or with the
// zero address the ENI, so shortly before that a list of that time may still have it.
func takenAway(s *v1alpha1.NodeNetworkSpec, eni string, a netip.Addr, at time.Time) bool {
	return slices.ContainsFunc(s.TakenAway, func(t v1alpha1.TakenAway) bool {
		return t.ENI == eni && at.Sub(t.At.Time) < ListsLag &&
			(len(t.Addresses) == 0 || a.IsValid() && slices.Contains(t.Addresses, a.String()))
	})
}

// tellGone names in a condition the pods whose address is on no ENI of the node: they have
// no network, though they look well from the node.
func (w *work) tellGone() {
	if w.mem.doubt.Load() {
		return // not compared yet: as it was
	}
	var pods []string
	for _, u := range w.nn.Stranded() {
		pods = append(pods, u.Pod+" "+u.Address)
	}
	if len(pods) == 0 {
		w.unsay(v1alpha1.ConditionAddressesGone)
		return
	}
	slices.Sort(pods)
	message := "pods have addresses that are on no ENI of the node, so they have no network; delete them, so that they are made anew: "
	if n := len(pods) - gonePods; n > 0 {
		pods = append(pods[:gonePods], "…")
	}
	message += strings.Join(pods, ", ")
	was := w.said(v1alpha1.ConditionAddressesGone)
	news := was == nil || was.Message != message
	w.condition(metav1.Condition{Type: v1alpha1.ConditionAddressesGone, Status: metav1.ConditionTrue, Reason: v1alpha1.ConditionAddressesGone, Message: message})
	if news {
		w.warnAll(v1alpha1.ConditionAddressesGone, "%s", message)
	}
}

// gonePods is how many pods a message names.
const gonePods = 20
