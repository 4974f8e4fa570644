//go:build vm

package netkit

import (
	"testing"

	"terway.dev/terway/internal/datapath/suite/ipvs"
)

func TestIPVS(t *testing.T) { ipvs.Run(t, kit) }
