//go:build vm

package netkit

import (
	"testing"

	"terway.dev/terway/internal/datapath/suite"
)

func TestIPVS(t *testing.T) { suite.IPVS(t, kit) }
