package nodenetwork

import (
	"slices"
	"strings"
	"time"
)

// missing records the devices that the node's agent last reported as missing.
type missing struct {
	enis string
	// looked counts the comparisons because of it, next is when another one is due.
	looked int
	next   time.Time
}

// longestLook is the longest pause between two comparisons because of missing devices.
const longestLook = time.Minute

// deviceMissing reports whether the node's agent reports an ENI's device as missing. A report for
// an older spec says nothing about what was attached since.
func (w *work) deviceMissing(eni string) bool {
	st := &w.nn.Status
	return st.ObservedGeneration == w.nn.Generation && slices.Contains(st.MissingENIs, eni)
}

// compareIfMissing requests a comparison with the cloud when a device disappears: somebody may have
// detached the ENI. A list may not show that yet, so the comparison is repeated with growing pauses
// while the device is missing.
func (w *work) compareIfMissing() {
	m := &w.mem.missing
	switch {
	case len(w.nn.Status.MissingENIs) == 0:
		*m = missing{}
		return
	case w.nn.Status.ObservedGeneration != w.nn.Generation:
		return // the agent reports again under this spec
	}
	now := w.Now()
	if enis := strings.Join(w.nn.Status.MissingENIs, " "); enis != m.enis {
		w.Log.Info("the devices of ENIs are not on the node", "node", w.name, "enis", enis)
		*m = missing{enis: enis}
	}
	if !now.Before(m.next) {
		w.mem.needsCompare.Store(true)
		m.next = now.Add(min(w.Poll<<min(m.looked, 10), longestLook))
		m.looked++
	}
	w.again(m.next.Sub(now))
}
