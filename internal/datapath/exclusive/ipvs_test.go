//go:build vm

package exclusive

import (
	"testing"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/suite/ipvs"
)

// The local kernel may lack IPVS: `make test-vm` runs it on kernels that have it.
func TestIPVS(t *testing.T) {
	k := kit
	k.Kind, k.Exclusive = claims.Exclusive, true
	ipvs.Run(t, k)
}
