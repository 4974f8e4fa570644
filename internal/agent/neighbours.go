package agent

import (
	"bytes"
	"context"
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netns"

	"terway.dev/terway/internal/agent/journal"
	"terway.dev/terway/internal/datapath/monitor"
)

// The agent beside other programs of the node: what they take away is repaired at once,
// what is in the pods' way and not ours to change is named in the status.

// newMonitor watches the network namespace that the agent runs in.
func (a *Agent) newMonitor() *monitor.Monitor {
	return monitor.New(monitor.Options{
		NetNS: netns.None(), Log: a.Log,
		ENI: a.wantsDevice, Pod: a.hasPodDevice, Repair: a.Poke,
	})
}

// Watch lets changes that somebody makes in the kernel be repaired at once, until ctx is done.
func (a *Agent) Watch(ctx context.Context) { a.monitor.Run(ctx) }

// wantsDevice reports whether a device with this MAC is one of the node's ENIs for pods,
// as the controller says, and none that a call brings into its pod or back just now: that
// changes nothing of the node, and a repair looks at all pods.
func (a *Agent) wantsDevice(mac net.HardwareAddr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.ContainsFunc(a.want.ENIs, func(e WantENI) bool { return bytes.Equal(e.MAC, mac) }) {
		return false
	}
	owner := a.ownerLocked(mac.String())
	return owner == nil || owner.State == journal.Ready
}

// hasPodDevice reports whether a pod that is wired, and not about to go, has this device on the node.
func (a *Agent) hasPodDevice(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.entries {
		if e.State == journal.Ready && e.HostIfName == name {
			return true
		}
	}
	return false
}

// obstructLocked takes what the last look found in the pods' way.
func (a *Agent) obstructLocked(found []string) {
	if what := a.monitor.Contended(); what != "" {
		found = append(found, "something on this node changes again and again what Terway made, and it is repaired more slowly for that: "+what+
			". Which program it is, its log or `nft monitor` may say; keep it off Terway's devices, rules and tables")
	}
	if len(found) > 0 && !slices.Equal(found, a.obstacles) {
		a.Log.Warn("other programs of this node are in the pods' way", "what", strings.Join(found, "; "))
	}
	a.obstacles = found
}
