package exclusive

import (
	"testing"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/ebpf"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/suite/policed"
	"terway.dev/terway/internal/datapath/suite/world"
)

func newPoliced(o world.Options) (world.Subject, policed.Enforcer, error) {
	k := ebpf.New(4096)
	p := k.Policy()
	n, err := node.New(node.Options{
		NetNS: o.NetNS, Log: o.Log, Kinds: []node.Kind{New(), k, node.Plain{KindName: claims.Route}}, Features: []node.Feature{p},
	})
	return n, p, err
}

// What policies do to pods of this kind.
func TestPolicy(t *testing.T) { policed.Run(t, exclusiveKit(), newPoliced) }
