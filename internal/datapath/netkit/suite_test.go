//go:build vm

// The kernel of the machine at hand may lack netkit: `make test-vm` runs these on one
// that has it.

package netkit

import (
	"testing"

	"terway.dev/terway/internal/datapath/suite"
)

// A kernel that passes the suite is one that Supported accepts.
func TestSupported(t *testing.T) {
	if err := Supported(); err != nil {
		t.Fatal(err)
	}
}

// The suite's table against this datapath.
func TestSuite(t *testing.T) { suite.Run(t, kit) }
