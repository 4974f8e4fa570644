package nodenetwork

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/api/v1alpha1"
)

// ListsLag is how old the cloud's lists may be. The answer to a call that changes something is up
// to date; a list, also one by ids, may show the change this much later. Alibaba Cloud documents no
// bound; reported values are well below a minute.
const ListsLag = 2 * time.Minute

// kind is the kind of a difference; it determines when the difference is acted on.
type kind int

const (
	// appeared: the cloud has what the spec does not have. Acted on when it still exists after
	// Settle, because a call of this controller may be in progress. What the controller itself took
	// away a short while ago is no difference (takenAway).
	appeared kind = iota
	// absent: an address that no pod has is not in the cloud. Acted on when two reads showed it,
	// and this process has not assigned it a short while ago. If the address exists after all, no
	// harm is done: the node is asked to release it first.
	absent
	// detached: an ENI is not attached. Acted on at once in the case of lost, or after Settle:
	// attaching it again does no harm.
	detached
	// lost: an ENI, or an address that a pod has, is not in the cloud. Acted on when two reads
	// showed it and no call of this process is younger than a list may be old; at once if the node
	// also misses the ENI's device.
	lost
)

// believes reports whether to act on a difference that has lasted for so long, according to what
// the cloud returned at that time.
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

// contradicted returns the ENIs for which the spec has something that the cloud's list lacks.
func contradicted(all []difference) []string {
	var ids []string
	for _, d := range all {
		if d.kind != appeared && !slices.Contains(ids, d.eni) {
			ids = append(ids, d.eni)
		}
	}
	return ids
}

// made records calls that created ENIs (by id) or assigned addresses.
func (m *memory) made(at time.Time, things ...string) {
	for _, t := range things {
		m.calls[t] = at
	}
}

// called reports whether this process created something so shortly before that a list of that time
// may lack it.
func (m *memory) called(thing string, at time.Time) bool {
	t, ok := m.calls[thing]
	return ok && at.Sub(t) < ListsLag
}

// oldNews reports whether a list of that time must show the last change of something. Changes from
// before this process first saw the node are unknown.
func (m *memory) oldNews(thing string, at time.Time) bool {
	return !m.called(thing, at) && at.Sub(m.born) >= ListsLag
}

// forgetCalls drops calls that every list shows by now.
func (m *memory) forgetCalls(now time.Time) {
	for t, at := range m.calls {
		if now.Sub(at) >= 2*ListsLag {
			delete(m.calls, t)
		}
	}
}

// compareIfTaken requests a comparison when a pod has got an address that was found absent while it
// was free.
func (w *work) compareIfTaken() {
	for _, u := range w.nn.Status.Used {
		if w.mem.lacking[u.Address] && !w.unassigning(u.Address) {
			w.mem.needsCompare.Store(true)
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

// takeAway records in the spec, for a successor too, that an ENI or some of its addresses were
// taken away: an old list still has them.
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

// maxTakenAway is how many records the API server's schema allows in the spec; a node makes fewer
// calls in ListsLag.
const maxTakenAway = 256

// forgetTaken drops records that every list shows by now.
func (w *work) forgetTaken() {
	now := w.Now()
	w.nn.Spec.TakenAway = slices.DeleteFunc(w.nn.Spec.TakenAway, func(t v1alpha1.TakenAway) bool { return now.Sub(t.At.Time) >= 2*ListsLag })
}

// takenAway reports whether the controller took away an address of an ENI, or with the zero address
// the ENI, so shortly before that a list of that time may still have it.
func takenAway(s *v1alpha1.NodeNetworkSpec, eni string, a netip.Addr, at time.Time) bool {
	return slices.ContainsFunc(s.TakenAway, func(t v1alpha1.TakenAway) bool {
		return t.ENI == eni && at.Sub(t.At.Time) < ListsLag &&
			(len(t.Addresses) == 0 || a.IsValid() && slices.Contains(t.Addresses, a.String()))
	})
}

// reportGonePods names in a condition the pods whose address is on no ENI of the node: they have no
// network, which is not visible on the node.
func (w *work) reportGonePods() {
	if w.mem.needsCompare.Load() {
		return // not compared yet: the condition stays
	}
	var pods []string
	for _, u := range w.nn.Stranded() {
		pods = append(pods, u.Pod+" "+u.Address)
	}
	if len(pods) == 0 {
		w.removeCondition(v1alpha1.ConditionAddressesGone)
		return
	}
	slices.Sort(pods)
	message := "pods have addresses that are on no ENI of the node, so they have no network; delete them, so that they are recreated: "
	if n := len(pods) - gonePods; n > 0 {
		pods = append(pods[:gonePods], "…")
	}
	message += strings.Join(pods, ", ")
	was := w.findCondition(v1alpha1.ConditionAddressesGone)
	news := was == nil || was.Message != message
	w.setCondition(metav1.Condition{Type: v1alpha1.ConditionAddressesGone, Status: metav1.ConditionTrue, Reason: v1alpha1.ConditionAddressesGone, Message: message})
	if news {
		w.warnAll(v1alpha1.ConditionAddressesGone, "%s", message)
	}
}

// gonePods is how many pods a message lists.
const gonePods = 20
