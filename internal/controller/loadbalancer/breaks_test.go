package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"terway.dev/terway/internal/cloud"
	lb "terway.dev/terway/internal/loadbalancer"
	"terway.dev/terway/internal/vpcsim/faults"
)

// A Service of another controller keeps its finalizer, which has the same name, and its address; it keeps nobody from
// knowing which addresses are held.
func TestAnotherControllersFinalizer(t *testing.T) {
	g := newRig(t)
	g.service("theirs", "example.com/other", nil, 80)
	g.change("theirs", func(s *corev1.Service) { s.Finalizers = []string{Finalizer} })
	svc := g.get("theirs")
	svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.1"}}
	g.Must(g.kube.Status().Update(t.Context(), svc))
	g.restart()
	if _, known := g.r.Held(g.free[0]); !known {
		t.Error("it is not known which addresses are held")
	}
	g.run(20 * time.Second)
	if svc := g.get("theirs"); len(svc.Finalizers) != 1 || len(svc.Status.LoadBalancer.Ingress) != 1 {
		t.Errorf("finalizers %q, status %+v; %q", svc.Finalizers, svc.Status.LoadBalancer, g.events.All())
	}
	g.remove(svc)
	g.run(20 * time.Second)
	if svc := g.get("theirs"); svc == nil || len(svc.Finalizers) != 1 {
		t.Error("its deletion waits for the other controller no more")
	}
	if g.writes > 0 {
		t.Errorf("%d writes", g.writes)
	}
}

// A Service that wants the other product gets it, and its former load balancer goes, whether or not the controller saw
// what was between.
func TestOtherProduct(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		other := classes[0]
		if class == other {
			other = classes[1]
		}
		for _, restart := range []bool{false, true} {
			svc := g.service("web", class, nil, 80)
			g.pod("web", "a", true, false, false)
			g.run(20 * time.Second)
			g.change("web", func(s *corev1.Service) { s.Spec.LoadBalancerClass = &other })
			if restart {
				g.restart()
			}
			g.run(30 * time.Second)
			g.wantListeners(other, svc, "TCP 80: a:8080 100")
			if found := g.balancers(class, svc); len(found) > 0 {
				t.Errorf("left: %+v", found)
			}
			if g.events.Has("Warning") {
				t.Errorf("%q", g.events.All())
			}
			g.remove(svc)
			g.run(20 * time.Second)
			g.nothing(svc)
			g.pod0("a")
		}
	})
}

// pod0 frees the address of a pod of a Service that is gone.
func (g *rig) pod0(name string) {
	g.free = append(g.free, g.at[name])
	delete(g.at, name)
}

// While the cloud does not answer, what it has is asked for with pauses, also when it is time to read all anew.
func TestNoAnswerAtResync(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		g.service("web", class, nil, 80)
		g.pod("web", "a", true, false, false)
		g.run(20 * time.Second)
		for _, action := range []string{"DescribeLoadBalancers", "ListLoadBalancers", "ListTagResources"} {
			g.Fault(faults.Rule{Name: "no-" + action, Action: action, Error: &faults.Error{Code: "ServiceUnavailable", Status: 503}, Count: 1000})
		}
		g.r.Options.Resync = 10 * time.Second
		g.reads = 0
		g.run(30 * time.Second)
		if g.reads > 20 {
			t.Errorf("%d reads in 30 s", g.reads)
		}
	})
}

// users makes a load balancer of the user's.
func (g *rig) users(class string) (id string) {
	g.Helper()
	want := cloud.NewBalancer{Token: "mine", VPC: g.vpc, Zones: zones(Settings(g.cfg).Zones), Settings: map[string]string{"AddressType": "Internet"}}
	if class == lb.ClassCLB {
		want.Zones, want.Settings = nil, map[string]string{"AddressType": "internet"}
	}
	id, err := g.api(class).CreateBalancer(context.Background(), want)
	g.Must(err)
	g.Clock.Pass(10 * time.Second)
	g.Write(noChange)
	return id
}

// A group of the user's that does not exist stops neither the other ports nor other Services' addresses.
func TestNoSuchGroup(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		id := g.users(class)
		group, err := g.api(class).CreateGroup(t.Context(), id, cloud.NewGroup{Token: "g", Name: "users", Protocol: "TCP", VPC: g.vpc})
		g.Must(err)
		g.service("web", class, map[string]string{lb.Prefix + "id": id, lb.Prefix + "vgroup-port": group + ":80," + group[:len(group)-3] + "xxx:81"}, 80, 81)
		g.pod("web", "a", true, false, false)
		g.run(20 * time.Second)
		backends, err := g.api(class).ListBackends(t.Context(), group)
		g.Must(err)
		if len(backends) != 1 || backends[0].Port != 8080 {
			t.Errorf("%+v; %q", backends, g.events.All())
		}
		g.restart()
		g.run(5 * time.Second)
		if _, known := g.r.Held(g.free[0]); !known {
			t.Error("it is not known which addresses are held")
		}
		if !g.events.Has("SyncLoadBalancerFailed") {
			t.Errorf("%q", g.events.All())
		}
		svc := g.get("web")
		g.remove(svc)
		g.run(time.Minute)
		g.nothing(svc)
	})
}

// Two Services with one load balancer and one port do not take the listener from each other.
func TestTwoServicesOneListener(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		with := map[string]string{lb.Prefix + "id": g.users(class), lb.Prefix + "force-override-listeners": "true"}
		g.service("one", class, with, 80)
		g.pod("one", "a", true, false, false)
		g.run(20 * time.Second)
		g.service("two", class, with, 80, 81)
		g.pod("two", "b", true, false, false)
		g.run(12 * time.Minute)
		if got, want := g.describe(class, with[lb.Prefix+"id"]), "TCP 80: a:8080 100; TCP 81: b:8081 100"; !strings.Contains(got, "TCP 80: a:8080 100") || !strings.Contains(got, "TCP 81: b:") {
			t.Errorf("%s, want %s", got, want)
		}
		if g.events.Count("Warning SyncLoadBalancerFailed", "not of this Service") != 1 {
			t.Errorf("%q", g.events.All())
		}
	})
}

// Tags of the user's do not replace those by which a load balancer is found.
func TestTagsOfOurs(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		svc := g.service("web", class, map[string]string{lb.Prefix + "additional-resource-tags": "team=shop"}, 80)
		g.run(20 * time.Second)
		g.change("web", func(s *corev1.Service) {
			s.Annotations[lb.Prefix+"additional-resource-tags"] = "team=shop," + TagService + "=other,creator=me"
		})
		g.run(20 * time.Second)
		if found := g.balancers(class, svc); len(found) != 1 || found[0].Tags["team"] != "shop" || found[0].Tags["creator"] != "terway" {
			t.Errorf("%+v", found)
		}
		if !g.events.Has("WrongLoadBalancer") {
			t.Errorf("%q", g.events.All())
		}
	})
}

// A load balancer that stays when its Service goes is nobody's then: no sweep touches it.
func TestPreservedIsNotSwept(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		svc := g.service("web", class, map[string]string{lb.Prefix + "preserve-lb-on-delete": "true"}, 80)
		g.change("web", func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"10.0.0.0/8"} })
		g.pod("web", "a", true, false, false)
		g.run(20 * time.Second)
		id := g.balancers(class, svc)[0].ID
		g.remove(svc)
		g.run(20 * time.Second)
		want := "TCP 80: a:8080 100"
		if got := g.describe(class, id); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		s := &sweeper{Reconciler: g.r}
		g.Must(s.sweep(t.Context()))
		g.Must(s.sweep(t.Context()))
		if got := g.describe(class, id); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		if lists, err := g.api(class).FindAccess(t.Context(), g.vpc, TagService, string(svc.UID)); err != nil || len(lists) != 1 {
			t.Errorf("%+v %v", lists, err)
		}
	})
}

// A port that gets another name keeps its backends while its EndpointSlices have the former one.
func TestRenamedPort(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		svc := g.service("web", class, nil, 80)
		g.change("web", func(s *corev1.Service) { s.Spec.Selector = map[string]string{"app": "web"} })
		g.pod("web", "a", true, false, false)
		g.pod("web", "b", true, true, false)
		g.run(20 * time.Second)
		slice := &discoveryv1.EndpointSlice{}
		g.Must(g.kube.Get(t.Context(), types.NamespacedName{Namespace: "shop", Name: "web-x"}, slice))
		slice.Labels[discoveryv1.LabelManagedBy] = "endpointslice-controller.k8s.io"
		g.Must(g.kube.Update(t.Context(), slice))
		s := g.get("web")
		s.Spec.Ports[0].Name = "other"
		g.Must(g.kube.Update(t.Context(), s))
		g.writes = 0
		g.run(time.Second)
		g.wantListeners(class, svc, "TCP 80: a:8080 100")
		if g.writes > 0 {
			t.Errorf("%d writes", g.writes)
		}
		g.slice(s)
		g.pod("web", "a", true, false, true)
		g.pod("web", "c", true, false, false)
		g.run(5 * time.Second)
		g.wantListeners(class, svc, "TCP 80: c:8080 100")
	})
}

// While the EndpointSlices or nodes cannot be listed, the groups stay as they are.
func TestEndpointsNotListed(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		svc := g.service("web", class, nil, 80)
		g.pod("web", "a", true, false, false)
		g.run(20 * time.Second)
		g.r.Client = interceptor.NewClient(g.kube, interceptor.Funcs{List: func(ctx context.Context, c client.WithWatch, l client.ObjectList, o ...client.ListOption) error {
			if _, is := l.(*discoveryv1.EndpointSliceList); is {
				return errors.New("no list")
			}
			return c.List(ctx, l, o...)
		}})
		g.run(20 * time.Second)
		g.wantListeners(class, svc, "TCP 80: a:8080 100")
		if !g.events.Has("no list") {
			t.Errorf("%q", g.events.All())
		}
	})
}

// A Service that was looked at before the controller knew which ones there are does not keep it unknown which addresses
// are held.
func TestLookedAtEarly(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		g.service("web", class, map[string]string{lb.Prefix + "id": "none-1"}, 80)
		g.run(20 * time.Second)
		g.r = New(g.r.Options)
		_, err := g.r.Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "shop", Name: "web"}})
		g.Must(err)
		if _, known := g.r.Held(g.free[0]); known {
			t.Error("it is known before the Services are")
		}
		g.Must(g.r.readPreserved(t.Context()))
		g.Must(g.r.begin(t.Context()))
		if _, known := g.r.Held(g.free[0]); !known {
			t.Error("it is not known which addresses are held")
		}
	})
}

// A load balancer of a Service's own stays until the one that the user names instead is there and may be used; ids of
// any kind do not keep the Service from being deleted.
func TestWrongIDOfAnother(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		svc := g.service("web", class, nil, 80)
		g.pod("web", "a", true, false, false)
		other := g.service("other", class, nil, 80)
		g.run(20 * time.Second)
		for _, id := range []string{"lb-bp1xxx", "nlb-xxx", "Foo!", "a b", g.balancers(class, other)[0].ID} {
			g.change("web", func(s *corev1.Service) { s.Annotations = merged(s.Annotations, lb.Prefix+"id", id) })
			g.run(10 * time.Second)
			g.wantListeners(class, svc, "TCP 80: a:8080 100")
			if !g.events.Has(id) {
				t.Errorf("%q", g.events.All())
			}
		}
		g.remove(svc)
		g.run(time.Minute)
		g.nothing(svc)
		for i, id := range []string{"lb-bp1xxx", "nlb-xxx", "Foo!", "a b"} {
			svc := g.service(fmt.Sprint("w", i), class, map[string]string{lb.Prefix + "id": id}, 80)
			g.run(10 * time.Second)
			g.remove(svc)
			g.run(time.Minute)
			g.nothing(svc)
		}
	})
}

// So it is if the id is of a load balancer of the other product, that the Service wants now: its backends follow the pods
// until that one can be used.
func TestWrongIDOfOtherProduct(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		other := classes[0]
		if class == other {
			other = classes[1]
		}
		svc := g.service("web", class, nil, 80)
		g.pod("web", "a", true, false, false)
		g.run(20 * time.Second)
		for _, restart := range []bool{false, true} {
			g.change("web", func(s *corev1.Service) {
				s.Spec.LoadBalancerClass, s.Annotations = &other, merged(s.Annotations, lb.Prefix+"id", "lb-bp1xxx")
			})
			if restart {
				g.restart()
			}
			g.run(10 * time.Second)
			g.pod("web", "b", true, false, false)
			g.pod("web", "a", true, true, false)
			g.run(20 * time.Second)
			g.wantListeners(class, svc, "TCP 80: a:8080 0, b:8080 100")
			g.pod("web", "a", true, false, false)
			g.pod("web", "b", true, false, true)
			g.run(20 * time.Second)
			g.wantListeners(class, svc, "TCP 80: a:8080 100")
		}
		if !g.events.Has("lb-bp1xxx") {
			t.Errorf("%q", g.events.All())
		}
		g.change("web", func(s *corev1.Service) { delete(s.Annotations, lb.Prefix+"id") })
		g.run(time.Minute)
		g.wantListeners(other, svc, "TCP 80: a:8080 100")
		if found := g.balancers(class, svc); len(found) > 0 {
			t.Errorf("left: %+v", found)
		}
	})
}

func merged(m map[string]string, k, v string) map[string]string {
	m = maps.Clone(m)
	if m == nil {
		m = map[string]string{}
	}
	m[k] = v
	return m
}

// An endpoint that is no backend does not make calls that fail come more often.
func TestPausesWithSkippedBackend(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		g.service("web", class, nil, 80)
		g.pod("web", "a", true, false, false)
		g.run(20 * time.Second)
		g.pod("web", "b", true, false, false)
		delete(g.at, "b") // no ENI has its address
		for _, action := range []string{"AddVServerGroupBackendServers", "AddServersToServerGroup"} {
			g.Fault(faults.Rule{Name: "no-" + action, Action: action, Error: &faults.Error{Code: "ServiceUnavailable", Status: 503}, Count: 1000})
		}
		g.pod("web", "c", true, false, false)
		g.writes = 0
		g.run(time.Minute)
		if g.writes > 10 || !g.events.Has("SkippedBackend") || !g.events.Has("ServiceUnavailable") {
			t.Errorf("%d writes; %q", g.writes, g.events.All())
		}
	})
}

// The protocol of a port changes.
func TestProtocolOfAPort(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		svc := g.service("web", class, nil, 80)
		g.pod("web", "a", true, false, false)
		g.run(20 * time.Second)
		for _, p := range []corev1.Protocol{corev1.ProtocolUDP, corev1.ProtocolTCP} {
			g.change("web", func(s *corev1.Service) { s.Spec.Ports[0].Protocol = p })
			g.run(20 * time.Second)
			g.wantListeners(class, svc, string(p)+" 80: a:8080 100")
		}
		if class == lb.ClassCLB {
			g.change("web", func(s *corev1.Service) {
				s.Annotations = merged(s.Annotations, lb.Prefix+"protocol-port", "http:80")
			})
			g.run(20 * time.Second)
			g.wantListeners(class, svc, "HTTP 80: a:8080 100")
			g.change("web", func(s *corev1.Service) { s.Annotations = nil })
			g.run(20 * time.Second)
			g.wantListeners(class, svc, "TCP 80: a:8080 100")
		}
		if g.events.Has("Warning") {
			t.Errorf("%q", g.events.All())
		}
		g.remove(svc)
		g.run(20 * time.Second)
		g.nothing(svc)
	})
}

// Nothing is written when nothing changes, whatever the Service says.
func TestNoWritesAtRest(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		for i, m := range []map[string]string{
			{}, {"scheduler": "rr", "established-timeout": "300"}, {"health-check-type": "http", "health-check-uri": "/x", "health-check-connect-port": "81"},
			{"connection-drain": "on", "connection-drain-timeout": "30"}, {"delete-protection": "off", "additional-resource-tags": "a=b"}, {"bandwidth": "5", "charge-type": "paybybandwidth"},
			{"address-type": "intranet"}, {"health-check-flag": "off", "health-check-switch": "off"}, {"persistence-timeout": "100"}, {"cross-zone-enabled": "false", "preserve-client-ip": "off"},
		} {
			annotations := map[string]string{}
			for k, v := range m {
				annotations[lb.Prefix+k] = v
			}
			svc := g.service(fmt.Sprint("s", i), class, annotations, 80, 81)
			g.change(svc.Name, func(s *corev1.Service) {
				s.Spec.LoadBalancerSourceRanges = []string{"10.0.0.0/8"}
				s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			})
			g.pod(svc.Name, fmt.Sprint("p", i), true, false, false)
		}
		g.run(time.Minute)
		g.writes = 0
		g.run(16 * time.Minute)
		if g.writes > 0 {
			t.Errorf("%d writes; %q", g.writes, g.events.All())
		}
	})
}

// A Service whose finalizer somebody removed by force: nobody gets the addresses of its backends before the sweep, which
// takes its access lists, too.
func TestSweepAfterForce(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		svc := g.service("web", class, nil, 80)
		g.change("web", func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"10.0.0.0/8"} })
		g.pod("web", "a", true, false, false)
		g.run(20 * time.Second)
		address := g.at["a"]
		g.change("web", func(s *corev1.Service) { s.Finalizers = nil })
		g.remove(svc)
		name := types.NamespacedName{Namespace: "shop", Name: "web"}
		_, err := g.r.Reconcile(t.Context(), ctrl.Request{NamespacedName: name})
		g.Must(err)
		if held, _ := g.r.Held(address); !held {
			t.Error("the address is free while the load balancer has it")
		}
		s := &sweeper{Reconciler: g.r}
		g.Must(s.sweep(t.Context()))
		g.Must(s.sweep(t.Context()))
		g.nothing(svc)
		lists, err := g.api(class).FindAccess(t.Context(), g.vpc, TagService, string(svc.UID))
		g.Must(err)
		if len(lists) > 0 {
			t.Errorf("left: %+v", lists)
		}
		if held, known := g.r.Held(address); held || !known {
			t.Errorf("held %v, known %v", held, known)
		}
	})
}

// A sweep that was killed after it had deleted the load balancer, and before its access list, leaves the list to the next.
func TestSweepOfAccessAlone(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		svc, stays := g.service("web", class, nil, 80), g.service("stays", class, nil, 80)
		for _, name := range []string{"web", "stays"} {
			g.change(name, func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"10.0.0.0/8"} })
		}
		g.run(20 * time.Second)
		g.Must(g.api(class).DeleteBalancer(t.Context(), g.balancers(class, svc)[0].ID))
		g.change("web", func(s *corev1.Service) { s.Finalizers = nil })
		g.remove(svc)
		if lists := g.accessLists(class, svc); len(lists) != 1 {
			t.Fatalf("access lists %+v", lists)
		}
		g.restart()
		s := &sweeper{Reconciler: g.r}
		g.Must(s.sweep(t.Context()))
		g.Must(s.sweep(t.Context()))
		g.nothing(svc)
		g.wantSources(class, stays, "10.0.0.0/8")
	})
}

// An NLB leaves the security groups that Terway has made it join, and no others, whoever has made it join those and whatever
// the controller lives through.
func TestSecurityGroupsOfOthers(t *testing.T) {
	ctx := t.Context()
	g := newRig(t)
	group := func(name string) string {
		id, err := g.API.CreateSecurityGroup(ctx, cloud.CreateSecurityGroupRequest{Token: name, VPCID: g.vpc, Name: name, Type: cloud.SecurityGroupEnterprise})
		g.Must(err)
		return id
	}
	first, second, theirs := group("first"), group("second"), group("theirs")
	svc := g.service("web", lb.ClassNLB, map[string]string{lb.Prefix + "security-group-ids": first}, 80)
	g.run(20 * time.Second)
	g.Must(g.API.NLB().SetSecurityGroups(ctx, g.balancers(lb.ClassNLB, svc)[0].ID, []string{theirs}, nil))
	want := func(what string, ids ...string) {
		t.Helper()
		g.run(6 * time.Minute)
		b := g.balancers(lb.ClassNLB, svc)[0]
		if is := slices.Sorted(slices.Values(b.SecurityGroups)); !slices.Equal(is, slices.Sorted(slices.Values(ids))) {
			t.Errorf("%s: security groups %v, want %v", what, is, ids)
		}
		others := slices.DeleteFunc(ids, func(id string) bool { return id == theirs })
		if is := b.Tags[TagSecurityGroups]; is != strings.Join(others, ",") {
			t.Errorf("%s: tag %q, want %q", what, is, others)
		}
		g.writes = 0
		g.run(6 * time.Minute)
		if g.writes > 0 {
			t.Errorf("%s: %d writes at rest", what, g.writes)
		}
		g.restart()
	}
	annotate := func(ids string) {
		g.change("web", func(s *corev1.Service) { s.Annotations = merged(s.Annotations, lb.Prefix+"security-group-ids", ids) })
	}
	want("one of ours", first, theirs)
	annotate(second)
	want("another one of ours", second, theirs)
	annotate("")
	want("none of ours", theirs)
	if g.events.Has("OtherSecurityGroups") {
		t.Errorf("%q", g.events.All())
	}
	g.change("web", func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"10.0.0.0/8"} })
	g.run(20 * time.Second)
	want("sources", g.accessLists(lb.ClassNLB, svc)[0].ID, theirs)
	if g.events.Count("OtherSecurityGroups", theirs, "spec.loadBalancerSourceRanges") == 0 {
		t.Errorf("%q", g.events.All())
	}
	g.change("web", func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = nil })
	want("no sources", theirs)
	if lists := g.accessLists(lb.ClassNLB, svc); len(lists) > 0 {
		t.Errorf("left: %+v", lists)
	}
	// What is killed between the joining, the leaving and their notes.
	for calls := 1; calls < 10; calls++ {
		ids := []string{first, second}[calls%2]
		annotate(ids)
		g.fuse.Light(calls, calls%3 > 0)
		want(fmt.Sprint("killed at call ", calls), ids, theirs)
	}
	g.remove(svc)
	g.run(20 * time.Second)
	g.nothing(svc)
}

// An NLB that has as many backends as it may in all its groups takes others for those that leave, tells once which stay out,
// and no call is refused.
func TestFullNLB(t *testing.T) {
	g := newRig(t)
	var ports []int32
	for p := range int32(23) {
		ports = append(ports, 80+p)
	}
	svc := g.service("web", lb.ClassNLB, nil, ports...)
	pods := len(g.free) // 18 of them make 414 backends
	name := func(n int) string { return fmt.Sprint("pod", n) }
	for n := range pods - 1 {
		g.pod("web", name(n), true, false, false)
	}
	count := func() (all int) {
		t.Helper()
		listeners := g.listeners(lb.ClassNLB, svc)
		if n := strings.Count(listeners, "TCP"); n != len(ports) {
			t.Fatalf("%d listeners", n)
		}
		return strings.Count(listeners, "pod")
	}
	g.run(3 * time.Minute)
	if n := count(); n != 391 || g.events.Has("BackendsLeftOut") {
		t.Errorf("%d backends; %q", n, g.events.All())
	}
	g.pod("web", name(pods-1), true, false, false)
	g.run(time.Minute)
	if n := count(); n != 400 || g.events.Count("BackendsLeftOut", "may have 400 backends in all its groups", "spec.ports") != 1 {
		t.Errorf("%d backends; %q", n, g.events.All())
	}
	// One that leaves gives room at once, and another one takes it.
	g.pod("web", name(0), true, true, false)
	g.run(time.Minute)
	if n := count(); n != 400 || strings.Contains(g.listeners(lb.ClassNLB, svc), name(0)+":8080 100") {
		t.Errorf("%d backends", n)
	}
	g.pod("web", name(0), true, false, true)
	g.run(time.Minute)
	if n := count(); n != 391 || g.events.Has("SyncLoadBalancerFailed") {
		t.Errorf("%d backends; %q", n, g.events.All())
	}
}

// Nobody gets the address of a backend of a load balancer that stays, whatever the controller lives through, until it is
// taken out of it, or the load balancer has the tag no more or is gone.
func TestPreservedHolds(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		testPreservedHolds(t, g, class, false)
		testPreservedHolds(t, newRig(t), class, true)
	})
}

func testPreservedHolds(t *testing.T, g *rig, class string, killed bool) {
	svc := g.service("web", class, map[string]string{lb.Prefix + "preserve-lb-on-delete": "true"}, 80, 81)
	for _, name := range []string{"a", "b", "c"} {
		g.pod("web", name, true, false, false)
	}
	g.run(20 * time.Second)
	id := g.balancers(class, svc)[0].ID
	want := func(when string, held ...string) {
		t.Helper()
		for _, name := range []string{"a", "b", "c"} {
			if is, known := g.r.Held(g.at[name]); !known || is != slices.Contains(held, name) {
				t.Errorf("%s: %s: held %v, known %v, want %v", when, name, is, known, held)
			}
		}
	}
	g.remove(svc)
	if killed { // between the tags
		g.fuse.Light(3, true)
	}
	g.run(time.Minute)
	if g.get("web") != nil {
		t.Fatalf("the Service is still there: %q", g.events.All())
	}
	want("when the Service is gone", "a", "b", "c")
	g.restart()
	want("after a restart", "a", "b", "c")
	listeners, err := g.api(class).ListListeners(t.Context(), id)
	g.Must(err)
	for _, l := range listeners {
		list, err := g.api(class).ListBackends(t.Context(), l.Group)
		g.Must(err)
		g.Must(g.api(class).RemoveBackends(t.Context(), l.Group, slices.DeleteFunc(list, func(b cloud.Backend) bool { return b.Address != g.at["a"] })))
		if l.Port == 80 {
			g.Must(g.r.readPreserved(t.Context()))
			want("in one group still", "a", "b", "c")
		}
	}
	g.Must(g.r.readPreserved(t.Context()))
	want("taken out", "b", "c")
	g.Fault(faults.Rule{Name: "no", Error: &faults.Error{Code: "ServiceUnavailable", Status: 503}})
	if err := g.r.readPreserved(t.Context()); err == nil {
		t.Error("no error")
	}
	want("while nothing can be read", "b", "c")
	g.Sim.RemoveFault("no")
	g.Must(g.api(class).SetTags(t.Context(), id, nil, []string{TagPreserved}))
	g.Must(g.r.readPreserved(t.Context()))
	want("let go")
}

// A load balancer that stays and cannot be read keeps nobody from knowing what the others have.
func TestPreservedUnreadable(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		group := map[string]string{} // by Service and pod
		for _, name := range []string{"a", "b"} {
			svc := g.service(name, class, map[string]string{lb.Prefix + "preserve-lb-on-delete": "true"}, 80)
			g.pod(name, name, true, false, false)
			g.run(20 * time.Second)
			listeners, err := g.api(class).ListListeners(t.Context(), g.balancers(class, svc)[0].ID)
			g.Must(err)
			group[name] = listeners[0].Group
			g.remove(svc)
			g.run(20 * time.Second)
		}
		for bad, good := range map[string]string{"a": "b", "b": "a"} {
			match := map[string]string{"ServerGroupId": group[bad]}
			if class == lb.ClassCLB {
				match = map[string]string{"VServerGroupId": group[bad]}
			}
			g.Fault(faults.Rule{Name: "no", Match: match, Error: &faults.Error{Code: "ServiceUnavailable", Status: 503}})
			g.restart()
			if held, known := g.r.Held(g.at[good]); !held || known {
				t.Errorf("%s cannot be read: %s: held %v, known %v", bad, good, held, known)
			}
			g.Sim.RemoveFault("no")
			g.Must(g.r.readPreserved(t.Context()))
			if held, known := g.r.Held(g.at[bad]); !held || !known {
				t.Errorf("%s was read: held %v, known %v", bad, held, known)
			}
		}
	})
}

// found calls then after a look for load balancers that stay.
type found struct {
	cloud.BalancerAPI
	then func()
}

func (f found) FindBalancers(ctx context.Context, k, v string) ([]cloud.Balancer, error) {
	list, err := f.BalancerAPI.FindBalancers(ctx, k, v)
	if k == TagPreserved {
		f.then()
	}
	return list, err
}

// A load balancer that stays from the moment on in which others are looked for keeps its addresses.
func TestPreservedMeanwhile(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		svc := g.service("web", class, map[string]string{lb.Prefix + "preserve-lb-on-delete": "true"}, 80)
		g.pod("web", "a", true, false, false)
		g.run(20 * time.Second)
		of := &g.r.CLB
		if class == lb.ClassNLB {
			of = &g.r.NLB
		}
		*of = found{*of, func() {
			g.remove(svc)
			g.run(20 * time.Second)
			if g.get("web") != nil {
				t.Errorf("the Service is still there: %q", g.events.All())
			}
		}}
		g.Must(g.r.readPreserved(t.Context()))
		if held, known := g.r.Held(g.at["a"]); !held || !known {
			t.Errorf("held %v, known %v", held, known)
		}
	})
}

// Readiness gates wait for all listeners of the user's that have the group of the user's, whatever their port.
func TestMembersOfUsersGroup(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		id, api := g.users(class), g.api(class)
		group, err := api.CreateGroup(t.Context(), id, cloud.NewGroup{Token: "g", Name: "users", Protocol: "TCP", VPC: g.vpc})
		g.Must(err)
		g.service("web", class, map[string]string{lb.Prefix + "id": id, lb.Prefix + "vgroup-port": group + ":80"}, 80)
		g.pod("web", "a", true, false, false)
		g.run(20 * time.Second)
		name := types.NamespacedName{Namespace: "shop", Name: "web"}
		if members, ok := g.r.Members(name); !ok || len(members) != 1 || len(members[0].Backends) != 0 || !g.events.Has("NoListener") {
			t.Errorf("without a listener: %+v, %v; %q", members, ok, g.events.All())
		}
		for _, port := range []int{443, 444} {
			g.Must(api.CreateListener(t.Context(), id, cloud.Listener{Port: port, Protocol: "TCP", Group: group, Description: "users"}))
		}
		g.run(6 * time.Minute)
		members, ok := g.r.Members(name)
		if !ok || len(members) != 2 {
			t.Fatalf("%+v, %v", members, ok)
		}
		for _, m := range members {
			if m.Listener.Port < 443 || len(m.Backends) != 1 || m.Backends[0].Address != g.at["a"] || !m.Checked {
				t.Errorf("%+v", m)
			}
		}
	})
}

// states makes load balancers have another state.
type states struct {
	cloud.BalancerAPI
	of func(id string) string
}

func (s states) DescribeBalancer(ctx context.Context, id string) (*cloud.Balancer, error) {
	b, err := s.BalancerAPI.DescribeBalancer(ctx, id)
	if state := s.of(id); err == nil && state != "" {
		b.Ready, b.Settings["LoadBalancerStatus"] = false, state
	}
	return b, err
}

// A load balancer that the cloud could not make is replaced, and one that does not become usable is told of.
func TestNotUsable(t *testing.T) {
	t.Run("failed", func(t *testing.T) {
		g, failed := newRig(t), ""
		g.r.NLB = states{g.r.NLB, func(id string) string {
			if failed == "" {
				failed = id
			}
			if id == failed {
				return "CreateFailed"
			}
			return ""
		}}
		svc := g.service("web", lb.ClassNLB, nil, 80)
		g.pod("web", "a", true, false, false)
		g.run(time.Minute)
		g.wantListeners(lb.ClassNLB, svc, "TCP 80: a:8080 100")
		if b := g.balancers(lb.ClassNLB, svc)[0]; b.ID == failed || !g.events.Has("CreateFailed") {
			t.Errorf("%s, %q", b.ID, g.events.All())
		}
	})
	t.Run("inactive", func(t *testing.T) {
		g, state := newRig(t), "Inactive"
		g.r.NLB = states{g.r.NLB, func(string) string { return state }}
		svc := g.service("web", lb.ClassNLB, nil, 80)
		g.pod("web", "a", true, false, false)
		g.run(30 * time.Second)
		if g.events.Has("Inactive") {
			t.Errorf("at once: %q", g.events.All())
		}
		g.run(time.Minute)
		if g.events.Count("Warning SyncLoadBalancerFailed", "Inactive") != 1 {
			t.Errorf("%q", g.events.All())
		}
		state = ""
		g.run(time.Minute)
		g.wantListeners(lb.ClassNLB, svc, "TCP 80: a:8080 100")
	})
}

// What a cluster of another VPC has made, whose id may be the same, is left alone.
func TestSweepOfOneVPC(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		g.service("web", class, nil, 80)
		g.run(20 * time.Second)
		var others []string
		for i, tags := range []map[string]string{{TagVPC: "vpc-other"}, {}} {
			maps.Copy(tags, map[string]string{"creator": "terway", "terway.dev/cluster": "c1", TagService: "x"})
			want := cloud.NewBalancer{Token: fmt.Sprint("other", i), VPC: g.vpc, Tags: tags, Zones: zones(Settings(g.cfg).Zones), Settings: map[string]string{"AddressType": "Internet"}}
			if class == lb.ClassCLB {
				want.Zones, want.Settings = nil, map[string]string{"AddressType": "internet"}
			}
			id, err := g.api(class).CreateBalancer(t.Context(), want)
			g.Must(err)
			others = append(others, id)
		}
		g.Clock.Pass(time.Minute)
		s := &sweeper{Reconciler: g.r}
		for range 3 {
			g.Must(s.sweep(t.Context()))
		}
		for _, id := range others {
			if _, err := g.api(class).DescribeBalancer(t.Context(), id); err != nil {
				t.Error(err)
			}
		}
	})
}

// A Service that somebody has taken the annotation from is cleaned up after nevertheless.
func TestAnnotationTakenAway(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		for _, restart := range []bool{false, true} {
			svc := g.service("web", class, nil, 80)
			g.pod("web", "a", true, false, false)
			g.run(20 * time.Second)
			g.change("web", func(s *corev1.Service) {
				s.Spec.Type = corev1.ServiceTypeClusterIP
				delete(s.Annotations, AnnotationUses)
			})
			if restart {
				g.restart()
				g.remove(svc)
			}
			g.run(20 * time.Second)
			g.nothing(svc)
			if !restart {
				g.remove(svc)
			}
			g.run(20 * time.Second)
			if g.get("web") != nil {
				t.Fatalf("it is still there: %q", g.events.All())
			}
			g.pod0("a")
		}
	})
}

// Two Services with the same pods and the same group of the user's: when one goes, the other puts the pods in soon.
func TestTwoServicesOneGroup(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		id := g.users(class)
		group, err := g.api(class).CreateGroup(t.Context(), id, cloud.NewGroup{Token: "g", Name: "users", Protocol: "TCP", VPC: g.vpc})
		g.Must(err)
		with := map[string]string{lb.Prefix + "id": id, lb.Prefix + "vgroup-port": group + ":80"}
		one := g.service("one", class, with, 80)
		g.pod("one", "a", true, false, false)
		g.run(20 * time.Second)
		g.service("two", class, with, 80)
		g.pod("two", "a", true, false, false)
		g.run(20 * time.Second)
		if !g.events.Has("BackendsLeftOut") {
			t.Errorf("%q", g.events.All())
		}
		g.remove(one)
		g.run(40 * time.Second)
		backends, err := g.api(class).ListBackends(t.Context(), group)
		g.Must(err)
		if len(backends) != 1 || backends[0].Address != g.at["a"] {
			t.Errorf("%+v; %q", backends, g.events.All())
		}
		g.writes = 0
		g.run(10 * time.Minute)
		if g.writes > 0 {
			t.Errorf("%d writes", g.writes)
		}
	})
}
