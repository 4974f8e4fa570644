package loadbalancer

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/datapath/claims"
	lb "terway.dev/terway/internal/loadbalancer"
	"terway.dev/terway/internal/vpcsim/faults"
)

var classes = []string{lb.ClassCLB, lb.ClassNLB}

func (g *rig) wantListeners(class string, svc *corev1.Service, want string) {
	g.Helper()
	if got := g.listeners(class, svc); got != want {
		g.Errorf("listeners: %s\nwant %s", got, want)
	}
}

// each runs a test with each product.
func each(t *testing.T, f func(t *testing.T, g *rig, class string)) {
	for _, class := range classes {
		t.Run(class[strings.LastIndex(class, "/")+1:], func(t *testing.T) { f(t, newRig(t), class) })
	}
}

// The life of a Service: its load balancer is made, follows its pods and ports, and goes.
func TestLife(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		svc := g.service("web", class, nil, 80)
		g.pod("web", "a", true, false, false)
		g.pod("web", "b", true, false, false)
		g.run(20 * time.Second)
		g.wantListeners(class, svc, "TCP 80: a:8080 100, b:8080 100")
		b := g.balancers(class, svc)[0]
		in := g.get("web").Status.LoadBalancer.Ingress
		if len(in) != 1 || in[0].Hostname != b.Host || (in[0].IP != "") != b.Address.IsValid() || b.Address.IsValid() && in[0].IP != b.Address.String() {
			t.Errorf("ingress %+v, load balancer %+v", in, b)
		}
		if b.Tags["terway.dev/cluster"] != "c1" || b.Tags[TagServiceName] != "shop/web" {
			t.Errorf("tags %v", b.Tags)
		}
		if g.events.Count("Normal EnsuredLoadBalancer", b.ID) != 1 || g.events.Has("Warning") {
			t.Errorf("%q", g.events.All())
		}

		g.pod("web", "a", true, true, false)
		g.pod("web", "c", true, false, false)
		g.run(5 * time.Second)
		g.wantListeners(class, svc, "TCP 80: a:8080 0, b:8080 100, c:8080 100")
		g.pod("web", "a", false, false, true)
		g.run(5 * time.Second)
		g.wantListeners(class, svc, "TCP 80: b:8080 100, c:8080 100")

		g.change("web", func(s *corev1.Service) {
			s.Annotations = map[string]string{lb.Prefix + "scheduler": "rr"}
			s.Spec.Ports[0].Port = 81
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "more", Port: 90, Protocol: corev1.ProtocolTCP, TargetPort: s.Spec.Ports[0].TargetPort})
		})
		g.run(10 * time.Second)
		g.wantListeners(class, svc, "TCP 81: b:8080 100, c:8080 100; TCP 90: b:8080 100, c:8080 100")
		listeners, err := g.api(class).ListListeners(t.Context(), b.ID)
		g.Must(err)
		groups, err := g.api(class).ListGroups(t.Context(), b.ID, TagService, string(svc.UID))
		g.Must(err)
		if len(groups) != 2 {
			t.Errorf("groups %+v", groups)
		}
		if rr := listeners[0].Settings["Scheduler"] + groups[0].Settings["Scheduler"]; rr != "rr" {
			t.Errorf("scheduler %q", rr)
		}

		g.remove(svc)
		g.run(20 * time.Second)
		g.nothing(svc)
		if g.get("web") != nil {
			t.Error("the Service is still there")
		}
		if _, err := g.api(class).DescribeBalancer(t.Context(), b.ID); cloud.ClassOf(err) != cloud.NotFound {
			t.Errorf("%v", err)
		}
	})
}

// A Service of another type or class loses its load balancer, and its status the address.
func TestNoLoadBalancerAnyMore(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		svc := g.service("web", class, nil, 80)
		g.run(20 * time.Second)
		g.wantListeners(class, svc, "TCP 80: ")
		g.change("web", func(s *corev1.Service) { s.Spec.Type, s.Spec.LoadBalancerClass = corev1.ServiceTypeClusterIP, nil })
		g.run(20 * time.Second)
		g.nothing(svc)
		if in := g.get("web").Status.LoadBalancer.Ingress; len(in) != 0 {
			t.Errorf("%+v", in)
		}
	})
}

// A change of pods needs no read, and one write.
func TestChangeWithoutReads(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		svc := g.service("web", class, nil, 80)
		g.pod("web", "a", true, false, false)
		g.run(20 * time.Second)
		g.reads, g.writes = 0, 0
		for i := range 5 {
			g.pod("web", fmt.Sprint("n", i), true, false, false)
			g.run(2 * time.Second)
		}
		if g.reads != 0 || g.writes != 5 {
			t.Errorf("%d reads and %d writes for 5 changes", g.reads, g.writes)
		}
		g.run(5 * time.Minute)
		if g.reads == 0 || g.reads > 5 || g.writes != 5 {
			t.Errorf("%d reads and %d writes after the resync", g.reads, g.writes)
		}
		// What somebody else changes is put right then.
		found, err := g.api(class).ListGroups(t.Context(), g.balancers(class, svc)[0].ID, TagService, string(svc.UID))
		g.Must(err)
		list, err := g.api(class).ListBackends(t.Context(), found[0].ID)
		g.Must(err)
		g.run(time.Second)
		g.background(func() error { return g.api(class).RemoveBackends(context.Background(), found[0].ID, list[:2]) })
		g.run(6 * time.Minute)
		g.wantListeners(class, svc, "TCP 80: a:8080 100, n0:8080 100, n1:8080 100, n2:8080 100, n3:8080 100, n4:8080 100")
	})
}

func (g *rig) background(f func() error) {
	g.Helper()
	g.Must(f())
}

// A load balancer of the user's: only the Service's own backends, and its own group, are touched.
func TestUsersLoadBalancer(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		api, ctx := g.api(class), t.Context()
		new := cloud.NewBalancer{Token: "mine", VPC: g.vpc, Zones: zones(Settings(g.cfg).Zones), Settings: map[string]string{"AddressType": "Internet"}}
		if class == lb.ClassCLB {
			new.Zones, new.Settings = nil, map[string]string{"AddressType": "internet"}
		}
		id, err := api.CreateBalancer(ctx, new)
		g.Must(err)
		g.Clock.Pass(10 * time.Second)
		g.Write(noChange)
		group, err := api.CreateGroup(ctx, id, cloud.NewGroup{Token: "g", Name: "users", Protocol: "TCP", VPC: g.vpc})
		g.Must(err)
		mine := cloud.Backend{Server: g.eni, Type: cloud.ServerENI, Address: g.free[len(g.free)-1], Port: 80, Weight: 5, Description: "mine"}
		g.Must(api.AddBackends(ctx, group, []cloud.Backend{mine}))
		g.Must(api.CreateListener(ctx, id, cloud.Listener{Port: 443, Protocol: "TCP", Group: group, Description: "users"}))
		before, err := api.DescribeBalancer(ctx, id)
		g.Must(err)

		svc := g.service("web", class, map[string]string{lb.Prefix + "id": id, lb.Prefix + "vgroup-port": group + ":80"}, 80)
		g.pod("web", "a", true, false, false)
		g.run(20 * time.Second)
		want := fmt.Sprintf("TCP 443: %s:80 5, a:8080 100", mine.Address)
		if got := g.describe(class, id); got != want {
			t.Errorf("%s, want %s; %q", got, want, g.events.All())
		}
		after, err := api.DescribeBalancer(ctx, id)
		g.Must(err)
		delete(before.Settings, "RequestId")
		delete(after.Settings, "RequestId")
		if fmt.Sprint(before.Tags, before.Settings) != fmt.Sprint(after.Tags, after.Settings) {
			t.Errorf("%+v was %+v", after, before)
		}
		if len(g.get("web").Status.LoadBalancer.Ingress) != 1 {
			t.Errorf("%+v", g.get("web").Status)
		}

		// The annotations change before the Service goes.
		g.change("web", func(s *corev1.Service) { s.Annotations[lb.Prefix+"vgroup-port"] = "" })
		g.run(20 * time.Second)
		if got, want := g.describe(class, id), fmt.Sprintf("TCP 443: %s:80 5", mine.Address); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		g.remove(svc)
		g.run(20 * time.Second)
		g.nothing(svc)
		if got, want := g.describe(class, id), fmt.Sprintf("TCP 443: %s:80 5", mine.Address); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		groups, err := api.ListGroups(ctx, id, "", "")
		g.Must(err)
		for _, x := range groups {
			if lb.IsOf(svc.UID, x.Name) {
				t.Errorf("left: %+v", x)
			}
		}
	})
}

// What is wrong with one Service stops no other, is told with the field and the next step, and the Service can be
// deleted.
func TestWrongServices(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		wrong := map[string]*corev1.Service{
			"scheduler":  g.service("scheduler", class, map[string]string{lb.Prefix + "scheduler": "best"}, 80),
			"no-such-id": g.service("no-such-id", class, map[string]string{lb.Prefix + "id": "lb-no"}, 80),
			"no-vswitch": g.service("no-vswitch", class, map[string]string{lb.Prefix + "address-type": "intranet", lb.Prefix + "vswitch-id": "vsw-no"}, 80),
		}
		if class == lb.ClassNLB {
			g.remove(wrong["no-vswitch"])
			wrong["no-vswitch"] = g.service("no-vswitch", class, map[string]string{lb.Prefix + "zone-maps": "cn-hangzhou-h:vsw-no,cn-hangzhou-i:" + g.vswitch[0]}, 80)
		}
		good := g.service("good", class, nil, 80)
		g.pod("good", "a", true, false, false)
		g.run(30 * time.Second)
		g.wantListeners(class, good, "TCP 80: a:8080 100")
		for name, parts := range map[string][]string{
			"scheduler":  {"WrongLoadBalancer", lb.Prefix + `scheduler: "best": want wrr`},
			"no-such-id": {"SyncLoadBalancerFailed", lb.Prefix + `id: "lb-no"`, "correct the annotation"},
			"no-vswitch": {"SyncLoadBalancerFailed", "vsw-no", "correct the vSwitch ids"},
		} {
			if n := g.events.Count(append(parts, "("+name+")")...); n != 1 {
				t.Errorf("%s: %d events of %q", name, n, g.events.All())
			}
			g.remove(wrong[name])
		}
		g.run(30 * time.Second)
		for name, svc := range wrong {
			g.nothing(svc)
			if g.get(name) != nil {
				t.Errorf("%s cannot be deleted: %q", name, g.events.All())
			}
		}
	})
}

// A value that is more than the product can have is told once, and stops nothing.
func TestCapped(t *testing.T) {
	g := newRig(t)
	svc := g.service("web", lb.ClassCLB, nil, 80)
	g.change("web", func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP })
	g.pod("web", "a", true, false, false)
	g.run(6 * time.Minute)
	g.wantListeners(lb.ClassCLB, svc, "TCP 80: a:8080 100")
	if n := g.events.Count("Capped", `timeoutSeconds: "10800"`, "3600 s"); n != 1 {
		t.Errorf("%d of %q", n, g.events.All())
	}
}

// A load balancer that somebody deletes is made anew, and one that is made twice goes.
func TestDeletedByHand(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		svc := g.service("web", class, nil, 80)
		g.pod("web", "a", true, false, false)
		g.run(20 * time.Second)
		was := g.balancers(class, svc)[0].ID
		g.Must(g.api(class).DeleteBalancer(t.Context(), was))
		g.run(6 * time.Minute)
		g.wantListeners(class, svc, "TCP 80: a:8080 100")
		b := g.balancers(class, svc)[0]
		if b.ID == was || !published(g.get("web"), &b) {
			t.Errorf("%s was %s; status %+v", b.ID, was, g.get("web").Status)
		}
		g.remove(svc)
		g.run(20 * time.Second)
		g.nothing(svc)
	})
}

// An address is held from before it is added until it is removed, and nothing is certain before all groups were read.
func TestHeld(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		svc := g.service("web", class, nil, 80)
		g.pod("web", "a", true, false, false)
		g.pod("web", "b", true, false, false)
		a, b := g.at["a"], g.at["b"]
		g.run(20 * time.Second)
		held := func(want string) {
			t.Helper()
			ha, known := g.r.Held(a)
			hb, _ := g.r.Held(b)
			if got := fmt.Sprint(ha, hb, known); got != want {
				t.Errorf("held a, b, known: %s, want %s", got, want)
			}
		}
		held("true true true")
		g.pod("web", "a", false, false, true)
		held("true true true")
		g.run(2 * time.Second)
		held("false true true")
		g.restart()
		held("false false false")
		g.run(time.Second)
		held("false true true")
		if m, known := g.r.Members(types.NamespacedName{Namespace: "shop", Name: "web"}); !known || len(m) != 1 || len(m[0].Backends) != 1 || m[0].Backends[0].Address != b || !m[0].Checked || m[0].Listener.Port != 80 {
			t.Errorf("%+v, %v", m, known)
		}
		// The cloud does not answer for longer than a freed address cools, and the controller is killed meanwhile.
		g.Fault(faults.Rule{Name: "away", Action: "*", Error: &faults.Error{Code: "ServiceUnavailable", Status: 503}})
		g.pod("web", "b", false, false, true)
		g.run(100 * time.Second)
		held("false true true")
		g.restart()
		g.run(100 * time.Second)
		held("false false false")
		g.Sim.RemoveFault("away")
		g.run(35 * time.Second)
		held("false false true")
		g.remove(svc)
		g.run(20 * time.Second)
		held("false false true")
	})
}

// Calls that fail for a while are made again, and what they left is read.
func TestTroubledCalls(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		svc := g.service("web", class, nil, 80)
		g.pod("web", "a", true, false, false)
		g.run(20 * time.Second)
		action := map[string]string{lb.ClassCLB: "AddVServerGroupBackendServers", lb.ClassNLB: "AddServersToServerGroup"}[class]
		g.Fault(faults.Rule{Name: "lost", Action: action, LostAnswer: true, Count: 2}, faults.Rule{Name: "no", Action: action, Error: &faults.Error{Code: "InternalError", Status: 500}, Count: 4})
		g.pod("web", "b", true, false, false)
		g.run(time.Minute)
		g.wantListeners(class, svc, "TCP 80: a:8080 100, b:8080 100")
		g.pod("web", "b", false, false, true)
		g.run(5 * time.Second)
		g.wantListeners(class, svc, "TCP 80: a:8080 100")
		if !g.events.Has("SyncLoadBalancerFailed") {
			t.Errorf("%q", g.events.All())
		}
	})
}

// The load balancer of a Service whose finalizer was removed by force is deleted, after two sweeps; those of others,
// of Services and of other clusters, are not.
func TestSweep(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		gone, stays := g.service("gone", class, nil, 80), g.service("stays", class, nil, 80)
		g.pod("gone", "a", true, false, false)
		g.pod("stays", "b", true, false, false)
		g.run(20 * time.Second)
		tags := map[string]string{"creator": "terway", "terway.dev/cluster": "c2", TagService: "x"}
		other := cloud.NewBalancer{Token: "other", VPC: g.vpc, Tags: tags, Zones: zones(Settings(g.cfg).Zones), Settings: map[string]string{"AddressType": "Internet"}}
		if class == lb.ClassCLB {
			other.Zones, other.Settings = nil, map[string]string{"AddressType": "internet"}
		}
		id, err := g.api(class).CreateBalancer(t.Context(), other)
		g.Must(err)
		g.change("gone", func(s *corev1.Service) { s.Finalizers = nil })
		g.remove(gone)
		s := &sweeper{Reconciler: g.r}
		g.Must(s.sweep(t.Context()))
		if len(g.balancers(class, gone)) != 1 {
			t.Error("it is deleted by the first sweep")
		}
		g.Must(s.sweep(t.Context()))
		g.nothing(gone)
		g.wantListeners(class, stays, "TCP 80: b:8080 100")
		if _, err := g.api(class).DescribeBalancer(t.Context(), id); err != nil {
			t.Error(err)
		}
	})
}

// With Flannel the nodes are backends, by NodePorts.
func TestFlannel(t *testing.T) {
	for _, class := range classes {
		g := newRig(t, func(c *config.Config) { c.Network = claims.NetworkFlannel })
		node := &corev1.Node{Spec: corev1.NodeSpec{ProviderID: "cn-hangzhou." + g.instance}}
		node.Name, node.Status.Conditions = "n1", []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		g.Must(g.kube.Create(t.Context(), node))
		svc := g.service("web", class, nil, 80)
		g.change("web", func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30080 })
		g.pod("web", "a", true, false, false)
		g.run(20 * time.Second)
		found := g.balancers(class, svc)
		if len(found) != 1 {
			t.Fatalf("%s: %q", class, g.events.All())
		}
		listeners, err := g.api(class).ListListeners(t.Context(), found[0].ID)
		g.Must(err)
		list, err := g.api(class).ListBackends(t.Context(), listeners[0].Group)
		g.Must(err)
		if len(list) != 1 || list[0].Server != g.instance || list[0].Type != cloud.ServerInstance || list[0].Port != 30080 || list[0].Weight != 100 {
			t.Errorf("%s: %+v", class, list)
		}
		g.reads, g.writes = 0, 0
		g.run(time.Minute)
		if g.reads+g.writes > 0 {
			t.Errorf("%s: %d reads and %d writes without a change", class, g.reads, g.writes)
		}
		g.Must(g.kube.Delete(t.Context(), node))
		g.run(2 * time.Second)
		if n := len(g.r.all(t.Context())); n != 1 {
			t.Errorf("%d Services for a change of a node", n)
		}
		g.remove(svc)
		g.run(20 * time.Second)
		g.nothing(svc)
	}
}

// While much else of a load balancer changes, pods that terminate do not wait for it.
func TestBackendsMeanwhile(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		g.service("web", class, nil, 80)
		g.pod("web", "a", true, false, false)
		g.pod("web", "b", true, false, false)
		g.run(20 * time.Second)
		var order []string
		g.called = func(what string) {
			if order = append(order, what); what == "CreateListener" && !slices.Contains(order, "WeighBackends") {
				g.pod("web", "a", true, true, false)
			}
		}
		g.change("web", func(s *corev1.Service) {
			for p := int32(81); p < 85; p++ {
				s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: fmt.Sprint("p", p), Port: p, Protocol: corev1.ProtocolTCP, TargetPort: s.Spec.Ports[0].TargetPort})
			}
		})
		g.run(time.Second)
		first := slices.Index(order, "WeighBackends")
		if first < 0 || !slices.Contains(order[first:], "CreateListener") {
			t.Errorf("%v", order)
		}
	})
}

// A backend that the cloud refuses keeps no other one from its group, nor in it.
func TestRefusedBackend(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		svc := g.service("web", class, nil, 80)
		g.pod("web", "old", true, false, false)
		g.run(20 * time.Second)
		var bad netip.Addr
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			g.pod("web", name, true, false, false)
		}
		bad = g.at["c"]
		g.Must(g.API.UnassignAddresses(t.Context(), g.eni, []netip.Addr{bad}))
		g.pod("web", "old", false, true, true)
		g.run(10 * time.Second)
		g.wantListeners(class, svc, "TCP 80: a:8080 100, b:8080 100, d:8080 100, e:8080 100")
		if n := g.events.Count("SyncLoadBalancerFailed", bad.String()); n != 1 {
			t.Errorf("%d of %q", n, g.events.All())
		}
	})
}

// While half of all calls are throttled, pods that terminate still get weight 0 before their containers stop.
func TestThrottled(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		svc := g.service("web", class, nil, 80)
		for i := range 5 {
			g.pod("web", fmt.Sprint("old", i), true, false, false)
		}
		g.run(20 * time.Second)
		half := 0.5
		g.Fault(faults.Rule{Name: "throttled", Action: "*", Error: &faults.Error{Code: "Throttling.User", Status: 400}, Probability: &half})
		for i := range 5 {
			g.pod("web", fmt.Sprint("new", i), true, false, false)
			g.run(10 * time.Second)
			g.pod("web", fmt.Sprint("old", i), true, true, false)
			g.run(20 * time.Second)
			g.pod("web", fmt.Sprint("old", i), false, true, true)
		}
		g.Sim.RemoveFault("throttled")
		g.run(time.Minute)
		g.wantListeners(class, svc, "TCP 80: new0:8080 100, new1:8080 100, new2:8080 100, new3:8080 100, new4:8080 100")
		if g.events.Has("SlowDrain") {
			t.Errorf("%q", g.events.All())
		}
	})
}

// The time until a pod that terminates has no weight is told if it is longer than its containers wait.
func TestSlowDrain(t *testing.T) {
	g := newRig(t)
	g.service("web", lb.ClassCLB, map[string]string{lb.AnnotationDrainSeconds: "3"}, 80)
	g.pod("web", "a", true, false, false)
	g.pod("web", "b", true, false, false)
	g.run(20 * time.Second)
	g.pod("web", "a", true, true, false)
	g.run(2 * time.Second)
	if g.events.Has("SlowDrain") {
		t.Errorf("%q", g.events.All())
	}
	g.Fault(faults.Rule{Name: "no", Action: "SetVServerGroupAttribute", Error: &faults.Error{Code: "InternalError", Status: 500}, Count: 8})
	g.pod("web", "c", true, false, false)
	g.pod("web", "b", true, true, false)
	g.run(time.Minute)
	if n := g.events.Count("SlowDrain", g.at["b"].String(), lb.AnnotationDrainSeconds); n != 1 {
		t.Errorf("%d of %q", n, g.events.All())
	}
}

// A pod that has told itself says since when it terminates and for how long its containers wait: not the moment when its
// endpoint says so, and not the Service, which may have changed.
func TestSlowDrainByThePod(t *testing.T) {
	for added, want := range map[string]int{"8": 1, "15": 0} {
		g := newRig(t)
		g.service("web", lb.ClassCLB, map[string]string{lb.AnnotationDrainSeconds: "60"}, 80)
		g.pod("web", "a", true, false, false)
		g.pod("web", "b", true, false, false)
		g.run(20 * time.Second)
		// It was deleted 10 s ago.
		grace := int64(30)
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "a", UID: "uid-a", Annotations: map[string]string{claims.AnnotationDrainAdded: added},
			DeletionTimestamp: &metav1.Time{Time: g.Clock.Now().Add(20 * time.Second)}, DeletionGracePeriodSeconds: &grace}}
		g.r.Client = interceptor.NewClient(g.kube, interceptor.Funcs{Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if p, ok := o.(*corev1.Pod); ok && key == client.ObjectKeyFromObject(pod) {
				pod.DeepCopyInto(p)
				return nil
			}
			return c.Get(ctx, key, o, opts...)
		}})
		g.pod("web", "a", true, true, false)
		g.run(2 * time.Second)
		if n := g.events.Count("SlowDrain", g.at["a"].String(), "("+added+"s)"); n != want || g.events.Has("SlowDrain") != (want > 0) {
			t.Errorf("containers that wait for %s s: %d of %q", added, n, g.events.All())
		}
	}
}

func sorted(m map[string]bool) []string {
	var all []string
	for k := range m {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}
