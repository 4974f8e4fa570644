//go:build vm

package ebpf

import (
	"testing"

	"terway.dev/terway/internal/datapath/suite/ipvs"
)

// The kernel of the machine at hand may lack IPVS: `make test-vm` runs it on those that have it.
func TestIPVS(t *testing.T) { ipvs.Run(t, kit) }
