//go:build vm

package ebpf

import (
	"testing"

	"terway.dev/terway/internal/datapath/suite/ipvs"
)

// The local kernel may lack IPVS: `make test-vm` runs it on kernels that have it.
func TestIPVS(t *testing.T) { ipvs.Run(t, kit) }
