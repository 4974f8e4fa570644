package nodenetwork

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/state"
)

func withExclusive(n, warm int) option {
	return func(c *config.Config, _ *vpcsim.Options) { c.ExclusiveENIs, c.WarmENIs = n, warm }
}

// startExclusive starts pods that want an ENI each.
func (g *rig) startExclusive(name string, n int) {
	for range n {
		g.serial++
		g.pods[name][fmt.Sprintf("own-%04d", g.serial)] = ""
	}
	g.agent(name)
}

// exclusive counts the exclusive ENIs, and the pods that have one.
func (g *rig) exclusive(name string) (enis, held int) {
	g.Helper()
	for _, e := range g.nn(name).Spec.ENIs {
		if !e.Exclusive {
			continue
		}
		enis++
		if len(e.Addresses) > 1 {
			g.Fatalf("an ENI for one pod has addresses %v", e.Addresses)
		}
	}
	for pod, a := range g.pods[name] {
		if wantsExclusive(pod) && a != "" {
			held++
		}
	}
	return enis, held
}

// An ENI that the previous version created is adopted with its use.
func TestTagsOfExclusiveENIs(t *testing.T) {
	for tag, want := range map[string]bool{claims.TagExclusive: true, "terway.dev/own": true, claims.TagNode: false} {
		e := &cloud.ENI{ID: "eni-1", Tags: map[string]string{tag: "true"}}
		w := &work{Reconciler: &Reconciler{Options: Options{Log: slog.New(slog.DiscardHandler)}}, nn: &v1alpha1.NodeNetwork{}}
		adoptENI(*e, "token", segment{}, time.Time{})(w)
		if got := w.nn.Spec.ENIs[0].Exclusive; got != want {
			t.Errorf("with tag %s: exclusive %t, want %t", tag, got, want)
		}
	}
}

// A node holds both kinds of pods; neither takes the other's ENIs.
func TestMixedNode(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/19"}, withExclusive(2, 1))
	g.addNode("n1", "ecs.g6.2xlarge") // 3 secondary ENIs with 10 addresses each
	g.settle("n1", minute)
	if s := g.nn("n1").Spec; s.ExclusiveENIs != 2 || s.Limits.MaxPods != 12 || s.Pool.WarmENIs != 1 {
		t.Errorf("exclusive ENIs %d, max pods %d, warm %d; want 2, 12, 1", s.ExclusiveENIs, s.Limits.MaxPods, s.Pool.WarmENIs)
	}
	if enis, _ := g.exclusive("n1"); enis != 1 {
		t.Errorf("%d ENIs are warm, want 1", enis)
	}
	for _, e := range g.nn("n1").Spec.ENIs {
		if e.Own != e.Exclusive || g.nn("n1").Spec.OwnENIs != 2 {
			t.Errorf("an agent of the former version does not know whom ENI %s serves: %+v", e.ID, e)
		}
	}
	g.startPods("n1", 15)
	g.startExclusive("n1", 2)
	g.settle("n1", 2*minute)
	if enis, held := g.exclusive("n1"); enis != 2 || held != 2 {
		t.Errorf("%d ENIs for %d pods, want 2 for 2", enis, held)
	}
	if st := g.nn("n1").Status; st.Demand != 5 || st.UsedCount != 12 {
		t.Errorf("%d pods wait and %d addresses are used, want 5 and 12", st.Demand, st.UsedCount)
	}
	g.stopPods("n1", 100) // exclusive pods first, then all others
	g.startExclusive("n1", 3)
	g.settle("n1", 2*minute)
	if enis, held := g.exclusive("n1"); enis != 2 || held != 2 {
		t.Errorf("%d ENIs for %d pods, want 2 for 2", enis, held)
	}
	if c := g.condition("n1"); c.Reason != "TypeLimit" || !strings.Contains(c.Message, "2 of the ENIs are exclusive") {
		t.Errorf("condition %+v", c)
	}
	g.agree("n1")
}

// On a node in mode exclusive no address is shared, and each ENI has one address.
func TestModeExclusive(t *testing.T) {
	for _, label := range []struct{ key, value string }{{claims.LabelMode, "exclusive"}, {claims.LabelOtherMode, "eniOnly"}, {"", ""}} {
		t.Run(label.key, func(t *testing.T) {
			g := newRig(t, []string{"192.168.32.0/19"}, func(c *config.Config, _ *vpcsim.Options) {
				if label.key == "" {
					c.Mode = claims.ModeExclusive
				}
			})
			g.addNode("n1", "ecs.g6.2xlarge")
			if label.key != "" {
				n := g.node("n1")
				n.Labels = map[string]string{label.key: label.value}
				g.Must(g.kube.Update(context.Background(), n))
			}
			g.settle("n1", minute)
			g.startExclusive("n1", 3)
			g.settle("n1", 2*minute)
			nn := g.nn("n1")
			if nn.Spec.Mode != "exclusive" || nn.Spec.ExclusiveENIs != 3 || nn.Spec.Limits.MaxPods != 3 || len(nn.Spec.ENIs) != 3 || nn.Status.UsedCount != 3 {
				t.Errorf("spec %+v, %d used", nn.Spec, nn.Status.UsedCount)
			}
			// The pods end: one ENI stays warm and one more for the next pod.
			g.stopPods("n1", 3)
			g.settle("n1", 3*minute)
			if enis, _ := g.exclusive("n1"); enis != 2 || len(g.enis("n1")) != 2 {
				t.Errorf("%d ENIs are left, %d in the cloud, want 2", enis, len(g.enis("n1")))
			}
			g.agree("n1")
		})
	}
}

func TestWrongLabelsAreSaid(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/19"}, withExclusive(1, 0))
	g.addNode("n1", "ecs.g6.2xlarge")
	n := g.node("n1")
	n.Labels = map[string]string{claims.LabelMode: "exlusive", claims.LabelExclusiveENIs: "many"}
	g.Must(g.kube.Update(context.Background(), n))
	g.settle("n1", minute)
	for _, part := range []string{`"exlusive"`, `"many"`} {
		if !g.events.Has(part) {
			t.Errorf("no event names %s", part)
		}
	}
	if s := g.nn("n1").Spec; s.Mode != "shared" || s.ExclusiveENIs != 1 {
		t.Errorf("mode %s, exclusive ENIs %d; want the configuration's", s.Mode, s.ExclusiveENIs)
	}
}

// A killed controller's successor knows which ENIs are exclusive, also those that are not in the
// spec; nothing is lost or doubled.
func TestKilledAnywhereWithBothKinds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := newRig(t, []string{"192.168.32.0/26", "192.168.33.0/28"}, withExclusive(rapid.IntRange(0, 3).Draw(t, "own"), rapid.IntRange(0, 2).Draw(t, "warm")))
		chance := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "chance"), 0))
		g.addNode("n1", "ecs.g6.2xlarge")
		g.settle("n1", minute)
		for range rapid.IntRange(1, 6).Draw(t, "rounds") {
			g.fuse.Light(rapid.IntRange(0, 8).Draw(t, "calls until it is killed"), rapid.Bool().Draw(t, "the last call is carried out"))
			switch rapid.IntRange(0, 2).Draw(t, "what") {
			case 0:
				g.startPods("n1", rapid.IntRange(1, 15).Draw(t, "pods"))
			case 1:
				g.startExclusive("n1", rapid.IntRange(1, 3).Draw(t, "own pods"))
			case 2:
				g.stopPods("n1", rapid.IntRange(1, 20).Draw(t, "gone"))
			}
			g.unsteady("n1", chance, rapid.IntRange(0, 3).Draw(t, "the agent rests how often in 4"))
			g.settle("n1", time.Duration(rapid.IntRange(1, 60).Draw(t, "seconds"))*time.Second)
		}
		g.restart()
		g.steady()
		sweeper := &Sweeper{Reconciler: g.r, Age: time.Minute}
		for range 4 {
			g.settle("n1", 3*minute)
			g.Must(sweeper.Sweep(context.Background()))
			g.settle("n1", 3*minute)
			g.Clock.Pass(time.Minute)
		}
		g.agree("n1")
		nn := g.nn("n1")
		enis, held := g.exclusive("n1")
		if enis > nn.Spec.ExclusiveENIs || len(nn.Spec.ENIs) > nn.Spec.Limits.ENIs-1 {
			t.Fatalf("%d exclusive ENIs of %d, %d in all", enis, nn.Spec.ExclusiveENIs, len(nn.Spec.ENIs))
		}
		if n, room := g.offered("n1"), nn.Spec.Limits.ENIs-1-(len(nn.Spec.ENIs)-enis); n > nn.Spec.ExclusiveENIs || n > room || n < held {
			t.Fatalf("%d ENIs are offered; %d may be, there is room for %d, pods hold %d", n, nn.Spec.ExclusiveENIs, room, held)
		}
		if nn.Status.ENIDemand == 0 && enis-held > nn.Spec.Pool.WarmENIs+1 {
			t.Fatalf("%d free ENIs, want at most %d", enis-held, nn.Spec.Pool.WarmENIs+1)
		}
		for _, e := range nn.Spec.ENIs {
			if e.Phase != v1alpha1.ENIReady {
				t.Fatalf("at rest ENI %s is %s", e.ID, e.Phase)
			}
		}
		if nn.Status.ENIDemand > 0 && enis < nn.Spec.ExclusiveENIs && g.condition("n1").Status != "False" {
			t.Fatalf("a pod waits for an ENI, %d of %d are there, condition %+v", enis, nn.Spec.ExclusiveENIs, g.condition("n1"))
		}
	})
}

// offered returns how many ENIs the scheduler may count on.
func (g *rig) offered(name string) int {
	g.Helper()
	n := g.nn(name).Spec.OfferedENIs
	if n == nil {
		g.Fatalf("nothing says how many ENIs node %s offers", name)
	}
	return *n
}

// When exclusive_enis rises on a node whose ENIs are full of shared pods, no pod may be scheduled
// there for an ENI that cannot be attached before those have ended.
func TestFullOfSharedPodsOffersNoMore(t *testing.T) {
	for name, change := range map[string]func(*corev1.Node){
		"larger exclusive_enis": func(n *corev1.Node) { n.Labels = map[string]string{claims.LabelExclusiveENIs: "2"} },
		"mode exclusive":        func(n *corev1.Node) { n.Labels = map[string]string{claims.LabelMode: claims.ModeExclusive} },
	} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, []string{"192.168.32.0/19"}, withExclusive(0, 1))
			g.addNode("n1", "ecs.g6.2xlarge") // 3 secondary ENIs with 10 addresses each
			g.settle("n1", minute)
			g.startPods("n1", 21)
			g.settle("n1", 2*minute)
			if n, shared := g.offered("n1"), len(g.nn("n1").Spec.ENIs); n != 0 || shared != 3 {
				t.Fatalf("%d offered with %d shared ENIs, want 0 with 3", n, shared)
			}
			n := g.node("n1")
			change(n)
			g.Must(g.kube.Update(context.Background(), n))
			g.settle("n1", 2*minute)
			if n := g.offered("n1"); n != 0 {
				t.Errorf("%d ENIs are offered while shared pods hold all", n)
			}
			want := g.nn("n1").Spec.ExclusiveENIs
			g.stopPods("n1", 21)
			g.settle("n1", 5*minute)
			if got := g.offered("n1"); got != want {
				t.Errorf("%d ENIs are offered when the shared pods have ended, want %d", got, want)
			}
			g.startExclusive("n1", g.offered("n1"))
			g.settle("n1", 5*minute)
			if _, held := g.exclusive("n1"); held != g.offered("n1") {
				t.Errorf("%d pods have an ENI of %d that are offered", held, g.offered("n1"))
			}
			// What pods hold stays offered, also when the node may have none any more.
			held := g.offered("n1")
			n = g.node("n1")
			n.Labels = nil
			g.Must(g.kube.Update(context.Background(), n))
			g.settle("n1", 2*minute)
			if got := g.offered("n1"); got != held {
				t.Errorf("%d are offered, pods hold %d", got, held)
			}
			g.stopPods("n1", held)
			g.settle("n1", 5*minute)
			if got := g.offered("n1"); got != 0 {
				t.Errorf("%d are offered in the end, want 0", got)
			}
		})
	}
}

// Slots of ENIs that others attached are not offered; a new leader counts them too, and they are
// offered again when those ENIs are gone.
func TestForeignENIsAreNotOffered(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"}, withExclusive(3, 0))
	instance := g.addNode("n1", "ecs.g6.2xlarge")
	e, err := g.API.CreateENI(context.Background(), cloud.CreateENIRequest{Token: "f", VSwitchID: g.vswitch[1], SecurityGroups: g.groups(instance)})
	g.Must(err)
	g.Clock.Pass(2 * time.Second)
	g.Must(g.API.AttachENI(context.Background(), e.ID, instance))
	g.Clock.Pass(5 * time.Second)
	for range 2 {
		g.settle("n1", minute)
		if n := g.offered("n1"); n != 2 {
			t.Errorf("%d of 3 ENIs are offered while one is somebody else's, want 2", n)
		}
		g.restart()
	}
	g.Must(g.API.DetachENI(context.Background(), e.ID, instance))
	g.Clock.Pass(foreignLife + time.Second)
	g.settle("n1", minute)
	if n := g.offered("n1"); n != 3 {
		t.Errorf("%d ENIs are offered when all are the node's, want 3", n)
	}
}

// Another plugin's trunk takes one slot, however many members it has.
func TestMembersOfATrunkTakeNoSlot(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"}, withExclusive(3, 0))
	instance := g.addNode("n1", "ecs.g7.xlarge") // 3 secondary ENIs
	groups := g.groups(instance)
	attach := func(kind, trunk string) (id string) {
		g.Write(func(s state.API) error {
			n, err := s.CreateNetworkInterface(state.CreateNetworkInterfaceRequest{VSwitchId: g.vswitch[1], SecurityGroupIds: groups, InstanceType: kind})
			if err == nil {
				id = n.NetworkInterfaceId
			}
			return err
		})
		g.Clock.Pass(2 * time.Second)
		g.Write(func(s state.API) error {
			return s.AttachNetworkInterface(state.AttachNetworkInterfaceRequest{NetworkInterfaceId: id, InstanceId: instance, TrunkNetworkInstanceId: trunk})
		})
		g.Clock.Pass(5 * time.Second)
		return id
	}
	trunk := attach("Trunk", "")
	for range 5 {
		attach("Secondary", trunk)
	}
	g.settle("n1", minute)
	if n := g.offered("n1"); n != 2 {
		t.Errorf("%d of 3 ENIs are offered while a trunk takes one slot, want 2", n)
	}
	g.startExclusive("n1", 2)
	g.settle("n1", 2*minute)
	if _, held := g.exclusive("n1"); held != 2 {
		t.Errorf("%d pods have an ENI, want 2; condition %+v", held, g.condition("n1"))
	}
}

// groups are the security groups of an instance.
func (g *rig) groups(instance string) []string {
	g.Helper()
	return g.instance(instance).SecurityGroups
}
