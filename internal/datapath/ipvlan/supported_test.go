package ipvlan

import (
	"errors"
	"strings"
	"testing"

	bpf "github.com/cilium/ebpf"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/bpfobj"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/ebpf"
	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/testutil"
)

// A kernel without a feature is distinguished from a failed test.
func TestSupportedNamesWhatIsMissing(t *testing.T) {
	testutil.RequireRoot(t)
	err := Supported()
	if err == nil {
		return // this kernel supports all, which the tests with the tag vm cover
	}
	var lacks *datapath.UnsupportedError
	if !errors.As(err, &lacks) || lacks.Feature == "" || !strings.Contains(err.Error(), lacks.Feature) {
		t.Errorf("got %v, want an UnsupportedError that names the feature", err)
	}
}

// The verifier accepts the programs that enforce policies, and they use the maps of the others that do, but for those of connections:
// whether the node's other pods have a fast path or not.
func TestProgramsThatJudge(t *testing.T) {
	testutil.RequireRoot(t)
	for _, kind := range []string{claims.EBPF, claims.Route} {
		policy := ebpf.New(4096)
		n, err := node.New(node.Options{Kinds: []node.Kind{policy}})
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close(t.Context())
		policy.Choose(kind)
		shared, err := policy.Policy().Prepare()
		if err != nil {
			t.Fatal(err)
		}
		o, err := loadJudging(nil, fastpath.SizesOf(4096), &fastpath.Objects{Objects: &bpfobj.Objects{Maps: shared}})
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		for _, c := range []struct {
			name string
			want bool
		}{{fastpath.MapOwn, true}, {policedMapTwJudged1, true}, {policedMapTwSenders1, true}, {policedMapTwPolVerd3, true}, {fastpath.MapKnown4, false}, {fastpath.MapPods, false}} {
			if got := shared[c.name] != nil && idOf(t, o.Maps[c.name]) == idOf(t, shared[c.name]); got != c.want {
				t.Errorf("%s: map %s is shared: %t, want %t", kind, c.name, got, c.want)
			}
		}
		if direct := shared[fastpath.MapPods] != nil; direct != (kind == claims.EBPF) {
			t.Errorf("%s: the programs of the others have a fast path: %t", kind, direct)
		}
	}
}

func idOf(t *testing.T, m *bpf.Map) bpf.MapID {
	t.Helper()
	info, err := m.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return id
}

func TestInnerIndex(t *testing.T) {
	seen := map[int]string{}
	for _, device := range []string{"tw00000000000", "tw00000000001", "twfffffffffff", "tw8dc4bf1f597"} {
		index := innerIndex(device)
		if index < 1<<30 || index >= 1<<31 {
			t.Errorf("%s: index %d is not above those that the kernel gives out", device, index)
		}
		if other := seen[index]; other != "" {
			t.Errorf("%s and %s share index %d", device, other, index)
		}
		seen[index] = device
	}
}
