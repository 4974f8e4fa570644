package exclusive

import (
	"testing"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/suite/limited"
	"terway.dev/terway/internal/datapath/suite/world"
)

// What limits of their bandwidth do to pods of this kind.
func TestLimits(t *testing.T) {
	k := kit
	k.Kind, k.Exclusive = claims.Exclusive, true
	limited.Run(t, k, func(o world.Options, f node.Feature) (world.Subject, error) { return newSubject(o, f) })
}
