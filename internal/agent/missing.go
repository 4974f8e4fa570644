package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"terway.dev/terway/internal/agent/journal"
	"terway.dev/terway/internal/datapath"
)

const (
	// arrival is how long the device of an attached ENI may take to appear on the node before it
	// counts as missing. Hot-plugging takes a second or two.
	arrival = 10 * time.Second
	// strandedAfter is how long a pod's address must be on no ENI before the pod gets an event: a
	// NodeNetwork that is created again has no ENIs until the controller has found them, which
	// takes as long as the cloud's lists lag, and a reconcile or two.
	strandedAfter = time.Minute
)

// devicesSeen records when devices of ENIs were seen, by MAC.
type devicesSeen struct {
	there  map[string]bool
	absent map[string]time.Time
}

// recordDevicesLocked records which devices exist. A device that was seen and is gone was detached;
// one that was never seen may still be on its way. An ENI that a pod has, or is being given, counts
// as present unless the last Sync did not find it. The ENI of no pod may just have come back from
// one: the list of devices may be older than that.
func (a *Agent) recordDevicesLocked(devices map[string]Device) {
	seen := devicesSeen{map[string]bool{}, map[string]time.Time{}}
	for _, e := range a.desired.ENIs {
		mac := e.MAC.String()
		_, there := devices[mac]
		holder := a.ownerLocked(mac)
		there = there || holder != nil && !a.lost[mac]
		switch {
		case there:
			seen.there[mac] = true
		case e.Ready:
			seen.there[mac] = a.devices.there[mac] && (!e.Exclusive || holder != nil)
			if seen.absent[mac] = a.devices.absent[mac]; seen.absent[mac].IsZero() {
				seen.absent[mac] = a.Now()
			}
		}
	}
	a.devices = seen
}

// recordLostLocked records which exclusive ENIs the last Sync did not find, from its errors of
// single pods.
func (a *Agent) recordLostLocked(found []podProblem) {
	a.lost = map[string]bool{}
	for _, t := range found {
		if e := a.entries[t.key]; e != nil && errors.Is(t.err, datapath.ErrNoDevice) {
			a.lost[e.ENI] = true
		}
	}
}

// missingLocked returns the ENIs whose device should be on the node, or in its pod, and is not.
func (a *Agent) missingLocked() (ids []string) {
	for _, e := range a.desired.ENIs {
		mac := e.MAC.String()
		since, absent := a.devices.absent[mac]
		if absent && (a.devices.there[mac] || a.Now().Sub(since) >= arrival) {
			ids = append(ids, e.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// strandedPods returns the pods whose address has been on no ENI of the node for a while. Whatever
// the cause, they have no network, and only their owner can recreate them.
func (a *Agent) strandedPods() (list []podProblem) {
	a.mu.Lock()
	defer a.mu.Unlock()
	there := map[netip.Addr]bool{}
	for _, e := range a.desired.ENIs {
		for _, addr := range e.Addresses {
			there[addr.Address] = !addr.Gone
		}
	}
	since := map[journal.Key]time.Time{}
	for key, e := range a.entries {
		i := slices.IndexFunc(e.Addresses, func(addr netip.Addr) bool { return !there[addr] })
		if e.State != journal.Ready || i < 0 {
			continue
		}
		if since[key] = a.stranded[key]; since[key].IsZero() {
			since[key] = a.Now()
		}
		if a.Now().Sub(since[key]) >= strandedAfter {
			list = append(list, podProblem{key, fmt.Errorf("the pod's address %s is no longer on any ENI of the node (it was removed in the cloud): the pod has no network; delete it, so that it is recreated", e.Addresses[i])})
		}
	}
	a.stranded = since
	return list
}
