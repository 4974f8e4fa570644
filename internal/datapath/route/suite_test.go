package route

import (
	"testing"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/featuretest"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/suite"
	"terway.dev/terway/internal/datapath/suite/world"
)

// The suite's table for this kind.
func TestSuite(t *testing.T) {
	suite.Run(t, kit)
}

var kit = world.Kit{
	Kind: claims.Route,
	New:  func(o world.Options) (world.Subject, error) { return newSubject(o) },
	Cuts: world.RouteCuts,
	Except: map[string]string{
		"sources are checked without nftables": "nothing else knows the pods' sources",
		suite.FloodStallsNobody:                "what it remembers is connection tracking's",
	},
}

func newSubject(o world.Options, features ...node.Feature) (world.Subject, error) {
	return node.New(node.Options{NetNS: o.NetNS, Log: o.Log, Kinds: []node.Kind{New()}, Features: features})
}

// A feature has its objects on pods of this kind.
func TestFeature(t *testing.T) {
	featuretest.Run(t, kit, func(o world.Options, f node.Feature) (world.Subject, error) { return newSubject(o, f) })
}
