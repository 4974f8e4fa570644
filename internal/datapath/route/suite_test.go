package route

import (
	"testing"

	"terway.dev/terway/internal/datapath/suite"
)

// The suite's table against this datapath.
func TestSuite(t *testing.T) {
	suite.Run(t, kit)
}

var kit = suite.Kit{
	New: func(o suite.Options) (suite.Subject, error) {
		return New(Options{NetNS: o.NetNS, Log: o.Log})
	},
	Cuts: suite.RouteCuts,
	Except: map[string]string{
		"sources are checked without nftables": "nothing else knows the pods' sources",
	},
}

func newWorld(t testing.TB, nodes, enis int) *suite.World {
	t.Helper()
	return kit.NewWorld(t, nodes, enis)
}

// own is the node's datapath as this package knows it.
func own(n *suite.Node) *Datapath { return n.DP.(*Datapath) }
