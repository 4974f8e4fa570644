package node

import (
	"testing"

	"terway.dev/terway/internal/datapath/suite/world"
)

// kit is of the kind on which all others build. The suite's table runs with each kind, in its
// package.
var kit = world.Kit{
	Kind: "plain",
	New: func(o world.Options) (world.Subject, error) {
		return New(Options{NetNS: o.NetNS, Log: o.Log, Kinds: []Kind{Plain{"plain"}}})
	},
}

func newWorld(t testing.TB, nodes, enis int) *world.World {
	t.Helper()
	return kit.NewWorld(t, nodes, enis)
}

// own returns the node as this package's type.
func own(n *world.Node) *Node { return n.DP.(*Node) }
