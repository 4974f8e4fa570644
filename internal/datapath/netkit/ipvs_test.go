//go:build vm

package netkit

import (
	"testing"

	"terway.dev/terway/internal/datapath/suite/ipvs"
	"terway.dev/terway/internal/datapath/suite/policed"
)

func TestIPVS(t *testing.T) { ipvs.Run(t, kit) }

// Policies on pods that use Services by IPVS.
func TestIPVSPolicy(t *testing.T) { policed.RunIPVS(t, kit, newPoliced) }
