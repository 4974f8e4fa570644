package ebpf

import (
	"testing"

	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/shaping"
	"terway.dev/terway/internal/datapath/suite/limited"
	"terway.dev/terway/internal/datapath/suite/policed"
	"terway.dev/terway/internal/datapath/suite/prioritized"
	"terway.dev/terway/internal/datapath/suite/world"
)

// What limits of their bandwidth do to pods of this kind.
func TestLimits(t *testing.T) {
	limited.Run(t, kit, func(o world.Options, f node.Feature) (world.Subject, error) { return newSubject(o, 4096, f) })
}

// What their network priority does to pods of this kind.
func TestPriorities(t *testing.T) {
	prioritized.Run(t, kit, func(o world.Options, f node.Feature) (world.Subject, error) { return newSubject(o, 4096, f) })
}

// Policies do to pods with limits what they do to others: packets on the fast path take another way
// into such a pod. Nor does it matter to them that ENIs have queues by priorities, which policies use for packets that
// they deny. The scenarios share a world.
func TestPolicyOfLimitedPods(t *testing.T) {
	k := kit
	k.Limits, k.ENIMbit = &bandwidth.Limits{Ingress: 4e9, Egress: 4e9}, 4000
	policed.Run(t, k, func(o world.Options) (world.Subject, policed.Enforcer, error) {
		k := New(4096)
		p := k.Policy()
		s, err := subjectOf(k, o, p, shaping.New(), shaping.NewPriorities())
		return s, p, err
	}, "each path is judged", "a running connection is cut", "ICMP errors", "packets have their pods' class")
}
