//go:build vm

package exclusive

import (
	"testing"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/suite/ipvs"
)

// The kernel of the machine at hand may lack IPVS: `make test-vm` runs it on those that have it.
func TestIPVS(t *testing.T) {
	k := kit
	k.Kind, k.Exclusive = claims.Exclusive, true
	ipvs.Run(t, k)
}
