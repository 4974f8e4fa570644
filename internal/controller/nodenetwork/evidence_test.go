package nodenetwork

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/controller/cloudtest"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/vpcsim/faults"
)

// However spec and cloud differ, and in whatever order the differences are fixed: in the end each
// address is in the record of its ENI and of no other, and none that the cloud lacks is offered.
func TestDifferencesMendEachOther(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		chance := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "chance"), 0))
		now := time.Now()
		w := &work{Reconciler: &Reconciler{Options: Options{Now: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler), Events: &cloudtest.Events{}}},
			mem: newMemory(now), name: "n1", node: &corev1.Node{}, nn: &v1alpha1.NodeNetwork{}}
		w.nn.Spec.InstanceID = "i-1"
		ours := map[string]cloud.ENI{}
		addr := func(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}) }
		var loose []int // addresses of the cloud and of the spec, dealt out apart
		for i := range 12 {
			loose = append(loose, i)
		}
		deal := func() map[int]int {
			at := map[int]int{}
			for _, a := range loose {
				at[a] = chance.IntN(6) // the ENI, or none
			}
			return at
		}
		inSpec, inCloud := deal(), deal()
		for i := range 4 {
			id, token := fmt.Sprint("eni-", i), fmt.Sprint("t", i)
			if chance.IntN(4) > 0 {
				e := v1alpha1.ENI{Token: token, ID: id, Phase: v1alpha1.ENIReady}
				for _, a := range loose {
					if inSpec[a] == i {
						e.Addresses = append(e.Addresses, v1alpha1.Address{Address: addr(a).String()})
						if chance.IntN(2) == 0 {
							w.nn.Status.Used = append(w.nn.Status.Used, v1alpha1.UsedAddress{Address: addr(a).String()})
						}
					}
				}
				w.nn.Spec.ENIs = append(w.nn.Spec.ENIs, e)
			}
			if chance.IntN(4) > 0 {
				c := cloud.ENI{ID: id, Status: cloud.ENIInUse, InstanceID: "i-1", Tags: map[string]string{claims.TagToken: token}}
				if chance.IntN(4) == 0 {
					c.Status, c.InstanceID = cloud.ENIAvailable, ""
				}
				if chance.IntN(4) == 0 {
					c.Tags[claims.TagToken] = "t0" // made twice with one token
				}
				for _, a := range loose {
					if inCloud[a] == i {
						c.Addresses = append(c.Addresses, addr(a))
					}
				}
				ours[id] = c
			}
		}
		chance.Shuffle(len(w.nn.Spec.ENIs), func(i, j int) { e := w.nn.Spec.ENIs; e[i], e[j] = e[j], e[i] })
		all := w.differences(ours, nil, now)
		chance.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for _, d := range all {
			d.fix(w)
		}
		records := map[string]*v1alpha1.ENI{}
		tokens := map[string]bool{}
		for i := range w.nn.Spec.ENIs {
			e := &w.nn.Spec.ENIs[i]
			if records[e.ID] != nil || tokens[e.Token] {
				t.Fatalf("two records of %s, token %s", e.ID, e.Token)
			}
			records[e.ID], tokens[e.Token] = e, true
			c, there := ours[e.ID]
			if !there {
				t.Fatalf("%s is not in the cloud, and in the spec", e.ID)
			}
			if e.Phase == v1alpha1.ENIReady && c.Status != cloud.ENIInUse {
				t.Fatalf("%s is %s in the cloud and Ready", e.ID, c.Status)
			}
		}
		for id, c := range ours {
			e := records[id]
			if e == nil {
				t.Fatalf("%s has no record", id)
			}
			for _, a := range c.Addresses {
				for other, o := range records {
					if has(o, a) != (other == id) {
						t.Fatalf("%s is on %s; record of %s: %+v", a, id, other, o)
					}
				}
			}
			for _, a := range e.Addresses {
				if !a.Releasing && inCloud[int(parse(a.Address).As4()[3])] != int(id[4]-'0') {
					t.Fatalf("%s is offered on %s and not there", a.Address, id)
				}
			}
		}
		for _, d := range w.differences(ours, nil, now) {
			if d.kind != detached {
				t.Fatalf("%s is left", d.key)
			}
		}
	})
}

// However a comparison ends, needsCompare is set for the next one.
func TestDoubtOutlivesAPanic(t *testing.T) {
	w := &work{Reconciler: &Reconciler{}, mem: newMemory(time.Now()), nn: &v1alpha1.NodeNetwork{}} // without a lister
	func() {
		defer func() {
			if recover() == nil {
				t.Fatal("it does not panic")
			}
		}()
		_ = w.compare(t.Context())
	}()
	if !w.mem.needsCompare.Load() {
		t.Error("the next reconcile would plan on what was not compared")
	}
}

// offeredGone returns addresses that the spec offers to pods and the cloud does not have.
func (g *rig) offeredGone(name string) (out []string) {
	assigned := g.assigned(name)
	for _, e := range g.nn(name).Spec.ENIs {
		for _, a := range e.Addresses {
			if e.Phase == v1alpha1.ENIReady && !a.Releasing && !assigned[a.Address] {
				out = append(out, a.Address)
			}
		}
	}
	return out
}

// While the cloud's lists are old and the controller is restarted repeatedly, no address is offered
// that it took away, and ENIs that are being removed are not detached repeatedly.
func TestOldListsOverRestarts(t *testing.T) {
	for _, stale := range []time.Duration{40 * time.Second, 100 * time.Second} {
		g := newRig(t, []string{"192.168.32.0/24"})
		g.addNode("n1", "ecs.g6.2xlarge")
		g.startPods("n1", 26)
		g.settle("n1", 3*minute)
		g.Clock.Pass(ListsLag)
		g.Fault(faults.Rule{Name: "stale", Action: "Describe*", Stale: faults.Duration(stale)})
		g.restart()
		g.stopPods("n1", 25)
		detaches := g.Calls("DetachNetworkInterface")
		for i := range 200 {
			wait, _ := g.once("n1")
			g.agent("n1")
			if gone := g.offeredGone("n1"); len(gone) > 0 {
				t.Fatalf("lists %s old: %v are offered, at step %d", stale, gone, i)
			}
			g.Clock.Pass(max(min(wait, 3*time.Second), time.Second))
			switch i {
			case 12, 25, 60:
				g.restart()
			case 45, 75: // they want addresses just when the old lists show some
				g.startPods("n1", 8)
			case 100:
				g.Sim.RemoveFault("stale")
			}
		}
		if n := g.Calls("DetachNetworkInterface") - detaches; n > 45 {
			t.Errorf("lists %s old: %d calls to detach 3 ENIs, in four lives of the controller", stale, n)
		}
		g.rest("n1")
	}
}

// A free address that somebody removed is not offered after two reads showed it, and pods get
// another.
func TestVanishedAddressIsNotOffered(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	g.Clock.Pass(ListsLag)
	e := g.nn("n1").Spec.ENIs[0]
	for _, a := range e.Addresses {
		if a.Address != e.PrimaryAddress {
			g.Must(g.API.UnassignAddresses(context.Background(), e.ID, []netip.Addr{parse(a.Address)}))
		}
	}
	g.r.Wake("n1")
	g.once("n1")
	if gone := g.offeredGone("n1"); len(gone) > 0 {
		t.Errorf("%v are offered after the comparison", gone)
	}
	g.startPods("n1", 4)
	g.settle("n1", minute)
	if n := g.nn("n1").Status.Demand; n > 0 {
		t.Errorf("%d pods wait", n)
	}
	g.agree("n1")
}

// With two ENIs for one token, the one of the first call, which is not in the spec, is given back.
func TestENIMadeTwice(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	instance := g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	e := g.nn("n1").Spec.ENIs[0]
	first, err := g.API.CreateENI(context.Background(), cloud.CreateENIRequest{Token: "forgotten by the cloud", VSwitchID: g.vswitch[1],
		SecurityGroups: g.groups(instance), Tags: g.r.tags("n1", e.Token)})
	g.Must(err)
	g.Clock.Pass(5 * time.Second)
	g.rest("n1")
	all := g.enis("n1")
	if len(all) != 1 || all[0].ID != e.ID {
		t.Errorf("ENIs %+v, want %s and not %s", all, e.ID, first.ID)
	}
}

// pruning is an API server whose CRD does not have some fields yet, which prune removes from a spec.
type pruning struct {
	client.WithWatch
	prune func(spec map[string]any)
}

func (c pruning) Patch(ctx context.Context, obj client.Object, p client.Patch, o ...client.PatchOption) error {
	if p.Type() != types.JSONPatchType {
		return c.WithWatch.Patch(ctx, obj, p, o...)
	}
	raw, err := p.Data(obj)
	if err != nil {
		return err
	}
	var change []map[string]any
	if err := json.Unmarshal(raw, &change); err != nil {
		return err
	}
	for _, op := range change {
		if spec, ok := op["value"].(map[string]any); ok {
			c.prune(spec)
		}
	}
	if raw, err = json.Marshal(change); err != nil {
		return err
	}
	return c.WithWatch.Patch(ctx, obj, client.RawPatch(types.JSONPatchType, raw), o...)
}

// With a CRD that is older than the controller the node works, and the user is told once.
func TestOutdatedCRD(t *testing.T) {
	g, _ := running(t)
	g.restart()
	g.r.Client = pruning{g.kube, func(spec map[string]any) { delete(spec, "takenAway") }}
	clear(g.pods["n1"])
	g.turns(5*minute, true)
	g.startPods("n1", 3)
	g.turns(5*minute, true)
	n := g.events.Count("*v1.Node Warning CRDOutdated")
	if n != 1 || g.nn("n1").Status.Demand > 0 {
		t.Errorf("%d events, status %+v", n, g.nn("n1").Status)
	}
}
