//go:build vm

package netkit

import (
	"testing"

	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/shaping"
	"terway.dev/terway/internal/datapath/suite/limited"
	"terway.dev/terway/internal/datapath/suite/policed"
	"terway.dev/terway/internal/datapath/suite/prioritized"
	"terway.dev/terway/internal/datapath/suite/world"
)

// What limits of their bandwidth do to pods of this kind.
func TestLimits(t *testing.T) {
	limited.Run(t, kit, func(o world.Options, f node.Feature) (world.Subject, error) { return newSubject(o, f) })
}

// What their network priority does to pods of this kind.
func TestPriorities(t *testing.T) {
	prioritized.Run(t, kit, func(o world.Options, f node.Feature) (world.Subject, error) { return newSubject(o, f) })
}

// Policies and the queues of ENIs do not get in each other's way.
func TestPolicyOfPrioritizedPods(t *testing.T) {
	k := kit
	k.ENIMbit = 4000
	policed.Run(t, k, func(o world.Options) (world.Subject, policed.Enforcer, error) {
		return policedWith(o, shaping.NewPriorities())
	}, "packets have their pods' class")
}
