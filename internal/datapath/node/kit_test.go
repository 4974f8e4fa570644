package node

import (
	"testing"

	"terway.dev/terway/internal/datapath/suite"
)

// kit is of the kind that all others build on. The suite's table runs with each kind, in its
// package.
var kit = suite.Kit{
	Kind: "plain",
	New: func(o suite.Options) (suite.Subject, error) {
		return New(Options{NetNS: o.NetNS, Log: o.Log, Kinds: []Kind{Plain{"plain"}}})
	},
}

func newWorld(t testing.TB, nodes, enis int) *suite.World {
	t.Helper()
	return kit.NewWorld(t, nodes, enis)
}

// own is the node as this package knows it.
func own(n *suite.Node) *Node { return n.DP.(*Node) }
