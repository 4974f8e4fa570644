//go:build vm

package route

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/shaping"
	"terway.dev/terway/internal/datapath/suite/limited"
	"terway.dev/terway/internal/datapath/suite/world"
)

// lose unloads a module: no program of this machine loads it again. The kernel deletes the
// queues of namespaces that are gone in the background, on a busy machine much later; until then their module stays.
func lose(t *testing.T, name string) {
	t.Helper()
	start := time.Now()
	for ; ; time.Sleep(100 * time.Millisecond) {
		err := unix.DeleteModule(name, unix.O_NONBLOCK)
		if err == nil {
			t.Logf("%s is unloaded after %s", name, time.Since(start))
			return
		}
		if !errors.Is(err, unix.EAGAIN) || time.Since(start) > time.Minute {
			t.Fatalf("unload %s: %v", name, err)
		}
	}
}

func TestFairQueue(t *testing.T) {
	limited.RunFair(t, kit, func(o world.Options, f node.Feature) (world.Subject, error) { return newSubject(o, f) })
}

// Kernels with less: without HTB, then without TBF too. Whether a kernel has fq_codel, which these have built in, is for
// TestLimits.
func TestLimitsOfLesserKernels(t *testing.T) {
	k := kit
	k.New = func(o world.Options) (world.Subject, error) { return newSubject(o, shaping.New()) }
	root := func(p *world.Pod) string {
		return p.Node.Run("tc", "qdisc", "show", "dev", p.Wiring.HostIfName, "root")
	}
	lose(t, "sch_htb")
	t.Run("without HTB measured", func(t *testing.T) {
		limited.RunMeasured(t, kit, func(o world.Options, f node.Feature) (world.Subject, error) { return newSubject(o, f) })
	})
	t.Run("without HTB", func(t *testing.T) {
		_, n, _ := world.ServicesWorld(t, k)
		p := n.Describe(1, "4", "6")
		p.Spec.Limits = &bandwidth.Limits{Ingress: 50e6, Egress: 50e6}
		p.Add()
		world.EchoOn(p.NS, world.At(p.V4, 7))
		near := n.AddPod(1, "4", "6")
		world.Bulk(t, near.NS, world.At(p.V4, 7))
		if got := root(p); !strings.Contains(got, "tbf 747b:") || !strings.Contains(got, "rate 50Mbit") {
			t.Errorf("root qdisc %s", got)
		}
		if repairs := n.Sync(p, near); len(repairs) != 0 {
			t.Errorf("Sync repairs %q", repairs)
		}
		p.Spec.Limits = &bandwidth.Limits{Ingress: 80e6, Egress: 80e6}
		if repairs := n.Sync(p, near); len(repairs) != 2 {
			t.Errorf("Sync repairs %q", repairs)
		}
		if got := root(p); !strings.Contains(got, "rate 80Mbit") {
			t.Errorf("root qdisc %s", got)
		}
		world.Bulk(t, near.NS, world.At(p.V4, 7))
		p.Spec.Limits = &bandwidth.Limits{}
		n.Sync(p, near)
		if got := root(p); strings.Contains(got, "tbf") {
			t.Errorf("root qdisc %s", got)
		}
	})

	lose(t, "sch_tbf")
	t.Run("without HTB and TBF", func(t *testing.T) {
		_, n, _ := world.ServicesWorld(t, k)
		p := n.Describe(1, "4", "6")
		p.Spec.Limits = &bandwidth.Limits{Egress: 50e6}
		_, err := n.DP.AddPod(context.Background(), n.Desired, p.Spec)
		var lacks *datapath.UnsupportedError
		if !errors.As(err, &lacks) || !strings.Contains(err.Error(), "CONFIG_NET_SCH_HTB") || !strings.Contains(err.Error(), "CONFIG_NET_SCH_TBF") || !strings.Contains(err.Error(), "50 Mbit/s") {
			t.Errorf("AddPod: %v", err)
		}
		n.AddPod(1)
	})
}
