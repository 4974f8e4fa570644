//go:build vm

// The local kernel may lack netkit: `make test-vm` runs these on one that has it.

package netkit

import (
	"testing"

	"terway.dev/terway/internal/datapath/featuretest"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/suite"
	"terway.dev/terway/internal/datapath/suite/world"
)

// A kernel that passes the suite is one that Supported accepts.
func TestSupported(t *testing.T) {
	if err := Supported(); err != nil {
		t.Fatal(err)
	}
}

// The suite's table for this kind.
func TestSuite(t *testing.T) { suite.Run(t, kit) }

// A feature has its objects on pods of this kind.
func TestFeature(t *testing.T) {
	featuretest.Run(t, kit, func(o world.Options, f node.Feature) (world.Subject, error) { return newSubject(o, f) })
}
