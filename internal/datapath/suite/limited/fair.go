package limited

import (
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/suite/world"
)

// RunFair measures, on a kernel with fq_codel, what requests wait beside streams that use a pod's limit up: with fq_codel,
// and in turn with the plain queue of 25 ms that kernels without it get.
func RunFair(t *testing.T, k world.Kit, make func(world.Options, node.Feature) (world.Subject, error)) {
	run(t, k, make, []scenario{{"requests pass streams", requestsPassStreams}})
}

func requestsPassStreams(t *testing.T, e *env) {
	const limit, rounds = 10e6, 3
	p, near := e.pod(e.n0, &bandwidth.Limits{Egress: limit}), e.pod(e.n0, nil)
	if !hasFQCodel(t, near) || !queue(t, p, true).fair {
		t.Fatalf("the kernel has fq_codel: %t, the queue: %+v", hasFQCodel(t, near), queue(t, p, true))
	}
	for range 4 {
		defer saturate(t, p.NS, world.At(near.V4, 7))()
	}
	replace := func(kind string) {
		p.Run("tc", append([]string{"qdisc", "replace", "dev", queue(t, p, true).device, "parent", fmt.Sprintf("%x:1", claims.QdiscFIFO)}, fields[kind]...)...)
	}
	half, most := map[string][]time.Duration{}, map[string][]time.Duration{}
	for range rounds {
		for _, kind := range []string{"fq_codel", "bfifo"} {
			replace(kind)
			p50, p99 := roundTrips(t, p, near)
			t.Logf("%s: p50 %s, p99 %s", kind, p50, p99)
			half[kind], most[kind] = append(half[kind], p50), append(most[kind], p99)
		}
	}
	ratio := func(of map[string][]time.Duration) float64 {
		return middle(of["fq_codel"]).Seconds() / middle(of["bfifo"]).Seconds()
	}
	t.Logf("fq_codel ÷ bfifo, medians of %d rounds: p50 %.2f, p99 %.2f", rounds, ratio(half), ratio(most))
	// The longest ones are also those of a machine that stands still, so the half decides.
	if r := ratio(half); r > 0.5 {
		t.Errorf("requests take %.2f times as long with fq_codel as with the plain queue, want half or less", r)
	}
}

// fields are the disciplines that are compared, as tc takes them: the second one has 25 ms of 10 Mbit/s.
var fields = map[string][]string{
	"fq_codel": {"handle", fmt.Sprintf("%x:", claims.QdiscFQCodel), "fq_codel"},
	"bfifo":    {"handle", "1:", "bfifo", "limit", "31250"},
}

// roundTrips sends requests, one after the other, and returns the half's and the 99th's duration.
func roundTrips(t *testing.T, from, to *world.Pod) (p50, p99 time.Duration) {
	t.Helper()
	conn, err := from.Dial("tcp", "", world.At(to.V4, 7), world.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var took []time.Duration
	for one := make([]byte, 1); len(took) < 100; {
		start := time.Now()
		if _, err := conn.Write(one); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, one); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return took[50], took[98]
}

func middle(of []time.Duration) time.Duration { return slices.Sorted(slices.Values(of))[len(of)/2] }
