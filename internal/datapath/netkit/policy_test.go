//go:build vm

package netkit

import (
	"testing"

	"terway.dev/terway/internal/datapath/ebpf"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/suite/policed"
	"terway.dev/terway/internal/datapath/suite/world"
)

func newPoliced(o world.Options) (world.Subject, policed.Enforcer, error) { return policedWith(o) }

func policedWith(o world.Options, features ...node.Feature) (world.Subject, policed.Enforcer, error) {
	k := ebpf.New(4096)
	p := k.Policy()
	s, err := subjectOf(k, o, append(features, p)...)
	return s, p, err
}

// What policies do to pods of this kind.
func TestPolicy(t *testing.T) { policed.Run(t, kit, newPoliced) }
