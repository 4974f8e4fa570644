package nodenetwork

import (
	"slices"
	"strings"
	"time"
)

// missing is what a node's agent last said of devices that are not there.
type missing struct {
	enis string
	// looked is how often the cloud was asked because of it, next when it is due again.
	looked int
	next   time.Time
}

// longestLook is the longest pause between two looks at ENIs whose device is missing.
const longestLook = time.Minute

// deviceMissing reports whether the node's agent says that an ENI's device is not there. A
// report that was made for an older spec says nothing of what was attached since.
func (w *work) deviceMissing(eni string) bool {
	st := &w.nn.Status
	return st.ObservedGeneration == w.nn.Generation && slices.Contains(st.MissingENIs, eni)
}

// heedMissing has the node compared with the cloud at once when a device goes away: somebody
// may have detached the ENI. A list that lags may not say so yet: it is asked again, ever less
// often while the device stays away.
func (w *work) heedMissing() {
	m := &w.mem.missing
	switch {
	case len(w.nn.Status.MissingENIs) == 0:
		*m = missing{}
		return
	case w.nn.Status.ObservedGeneration != w.nn.Generation:
		return // it will say again what is so under this spec
	}
	now := w.Now()
	if enis := strings.Join(w.nn.Status.MissingENIs, " "); enis != m.enis {
		w.Log.Info("the devices of ENIs are not on the node", "node", w.name, "enis", enis)
		*m = missing{enis: enis}
	}
	if !now.Before(m.next) {
		w.mem.doubt.Store(true)
		m.next = now.Add(min(w.Poll<<min(m.looked, 10), longestLook))
		m.looked++
	}
	w.again(m.next.Sub(now))
}
