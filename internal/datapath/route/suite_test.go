package route

import (
	"testing"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/featuretest"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/suite"
)

// The suite's table against this kind.
func TestSuite(t *testing.T) {
	suite.Run(t, kit)
}

var kit = suite.Kit{
	Kind: claims.Route,
	New:  func(o suite.Options) (suite.Subject, error) { return newSubject(o) },
	Cuts: suite.RouteCuts,
	Except: map[string]string{
		"sources are checked without nftables": "nothing else knows the pods' sources",
		suite.FloodStallsNobody:                "what it remembers is connection tracking's",
	},
}

func newSubject(o suite.Options, features ...node.Feature) (suite.Subject, error) {
	return node.New(node.Options{NetNS: o.NetNS, Log: o.Log, Kinds: []node.Kind{New()}, Features: features})
}

// A feature has its objects on pods of this kind.
func TestFeature(t *testing.T) {
	featuretest.Run(t, kit, func(o suite.Options, f node.Feature) (suite.Subject, error) { return newSubject(o, f) })
}
