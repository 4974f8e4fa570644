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
	// arrival is how long the device of an ENI that the controller calls attached may take to
	// appear on the node before it counts as missing. Hot-plugging takes a second or two.
	arrival = 10 * time.Second
	// strandedAfter is how long a pod's address must be on no ENI before the pod is told: a
	// NodeNetwork that is made anew has no ENIs until the controller has found them again,
	// which takes it as long as the cloud's lists lag, and a look or two.
	strandedAfter = time.Minute
)

// devicesSeen is what has been seen of the devices of ENIs, by MAC.
type devicesSeen struct {
	there  map[string]bool
	absent map[string]time.Time
}

// lookForLocked notes which devices there are. One that was there and is not any more was
// taken off the node; one that was not there yet may be on its way. An ENI that a pod has, or
// is being given, is there unless the last Sync found it nowhere. One that none has may just
// have come back from a pod: the list of devices may be of before.
func (a *Agent) lookForLocked(devices map[string]Device) {
	seen := devicesSeen{map[string]bool{}, map[string]time.Time{}}
	for _, e := range a.want.ENIs {
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

// loseLocked takes a Sync's trouble with single pods: which of their exclusive ENIs it found nowhere.
func (a *Agent) loseLocked(troubled []trouble) {
	a.lost = map[string]bool{}
	for _, t := range troubled {
		if e := a.entries[t.key]; e != nil && errors.Is(t.err, datapath.ErrNoDevice) {
			a.lost[e.ENI] = true
		}
	}
}

// missingLocked are the ENIs whose device should be on the node, or in its pod, and is not.
func (a *Agent) missingLocked() (ids []string) {
	for _, e := range a.want.ENIs {
		mac := e.MAC.String()
		since, absent := a.devices.absent[mac]
		if absent && (a.devices.there[mac] || a.Now().Sub(since) >= arrival) {
			ids = append(ids, e.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// strandedPods are the pods whose address has been on no ENI of the node for a while.
// Whatever the cause, they have no network, and nobody but their owner can help them.
func (a *Agent) strandedPods() (list []trouble) {
	a.mu.Lock()
	defer a.mu.Unlock()
	there := map[netip.Addr]bool{}
	for _, e := range a.want.ENIs {
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
			list = append(list, trouble{key, fmt.Errorf("no ENI of the node has the pod's address %s any more (it was taken away in the cloud): the pod has no network; delete it, so that it is made anew", e.Addresses[i])})
		}
	}
	a.stranded = since
	return list
}
