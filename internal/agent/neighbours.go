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

// The agent and other programs of the node: what they remove is repaired at once; what breaks the
// pods' traffic and is not Terway's to change is named in the status.

// newMonitor watches the network namespace in which the agent runs.
func (a *Agent) newMonitor() *monitor.Monitor {
	return monitor.New(monitor.Options{
		NetNS: netns.None(), Log: a.Log,
		ENI: a.wantsDevice, Pod: a.hasPodDevice, Repair: a.RequestRepair,
	})
}

// Watch repairs at once what another program changes in the kernel, until ctx is done.
func (a *Agent) Watch(ctx context.Context) { a.monitor.Run(ctx) }

// wantsDevice reports whether a device with this MAC is one of the node's ENIs for pods, according
// to the desired state. An ENI that a call is moving into its pod or back does not count: the
// node's state does not depend on it, and a repair compares all pods.
func (a *Agent) wantsDevice(mac net.HardwareAddr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.ContainsFunc(a.desired.ENIs, func(e DesiredENI) bool { return bytes.Equal(e.MAC, mac) }) {
		return false
	}
	owner := a.ownerLocked(mac.String())
	return owner == nil || owner.State == journal.Ready
}

// hasPodDevice reports whether this is the node's device of a pod that is wired and not being
// released.
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

// setObstaclesLocked stores the obstacles that the last repair found.
func (a *Agent) setObstaclesLocked(found []string) {
	if what := a.monitor.Contended(); what != "" {
		found = append(found, "another program on this node keeps changing what Terway made, so repairs are delayed: "+what+
			". Its log or `nft monitor` may show which program it is; keep it away from Terway's devices, rules and tables")
	}
	if len(found) > 0 && !slices.Equal(found, a.obstacles) {
		a.Log.Warn("other programs of this node may break pods' traffic", "what", strings.Join(found, "; "))
	}
	a.obstacles = found
}
