//go:build vm

package ebpf

import (
	"testing"

	"terway.dev/terway/internal/datapath/suite/ipvs"
	"terway.dev/terway/internal/datapath/suite/policed"
)

// The local kernel may lack IPVS: `make test-vm` runs it on kernels that have it.
func TestIPVS(t *testing.T) { ipvs.Run(t, kit) }

// Policies on pods that use Services by IPVS.
func TestIPVSPolicy(t *testing.T) { policed.RunIPVS(t, kit, newPoliced) }
