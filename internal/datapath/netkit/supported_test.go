package netkit

import (
	"context"
	"errors"
	"strings"
	"testing"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/ebpf"
	"terway.dev/terway/internal/datapath/fastpath/fastpathtest"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/datapath/tcfilter"
	"terway.dev/terway/internal/testutil"
)

var kit = world.Kit{
	Kind:  claims.Netkit,
	New:   func(o world.Options) (world.Subject, error) { return newSubject(o) },
	Cuts:  cuts,
	Trace: trace,
	Known: fastpathtest.Known(tcfilter.Filters(claims.PrefEBPF)),
	NoMAC: true,
}

// On a kernel without netkit the error names the feature, and a pod of this kind gets an error and
// leaves nothing. The tests with the tag vm cover kernels with it.
func TestKernelWithoutNetkit(t *testing.T) {
	testutil.RequireRoot(t)
	err := Supported()
	if err == nil {
		return
	}
	var lacks *datapath.UnsupportedError
	if !errors.As(err, &lacks) || !strings.Contains(err.Error(), "CONFIG_NETKIT") {
		t.Fatalf("got %v, want an UnsupportedError that names the feature", err)
	}
	n := kit.NewWorld(t, 1, 1).Nodes[0]
	n.Sync()
	before := world.DumpStable(n)
	p := n.Describe(1)
	if _, err := n.DP.AddPod(context.Background(), n.Desired, p.Spec); err == nil || !strings.Contains(err.Error(), "create netkit") {
		t.Errorf("AddPod: %v, want an error that says what could not be made", err)
	}
	if diff := world.Difference(before, world.DumpStable(n)); diff != "" {
		t.Errorf("the refused pod left:\n%s", diff)
	}
}

func newSubject(o world.Options, features ...node.Feature) (*subject, error) {
	return subjectOf(ebpf.New(4096), o, features...)
}

func subjectOf(programs *ebpf.Kind, o world.Options, features ...node.Feature) (*subject, error) {
	n, err := node.New(node.Options{
		NetNS: o.NetNS, Log: o.Log, Kinds: []node.Kind{programs, New(programs), node.Plain{KindName: claims.Route}}, Features: features,
	})
	return &subject{n, programs}, err
}
