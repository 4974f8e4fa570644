package loadbalancer

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	lb "terway.dev/terway/internal/loadbalancer"
	"terway.dev/terway/internal/vpcsim/faults"
)

// wantSources checks who may connect to a Service's load balancer; no sources: everybody.
func (g *rig) wantSources(class string, svc *corev1.Service, want ...string) {
	g.Helper()
	b := g.balancers(class, svc)[0]
	listeners, err := g.api(class).ListListeners(context.Background(), b.ID)
	g.Must(err)
	lists := g.accessLists(class, svc)
	if len(want) == 0 {
		for _, l := range listeners {
			if l.Settings["AclStatus"] == "on" {
				g.Errorf("listener %d has an access control list", l.Port)
			}
		}
		if len(lists)+len(b.SecurityGroups) > 0 {
			g.Errorf("everybody may connect, with %+v and %v", lists, b.SecurityGroups)
		}
		return
	}
	if len(lists) != 1 {
		g.Fatalf("access lists %+v", lists)
	}
	var got []string
	for _, p := range lists[0].Sources {
		got = append(got, p.String())
	}
	slices.Sort(got)
	if want = slices.Sorted(slices.Values(want)); !slices.Equal(got, want) {
		g.Errorf("%v may connect, want %v", got, want)
	}
	if class == lb.ClassNLB {
		if !slices.Equal(b.SecurityGroups, []string{lists[0].ID}) {
			g.Errorf("security groups %v, want %s", b.SecurityGroups, lists[0].ID)
		}
		return
	}
	for _, l := range listeners {
		if is := fmt.Sprint(l.Settings["AclStatus"], l.Settings["AclType"], l.Settings["AclId"]); is != "onwhite"+lists[0].ID {
			g.Errorf("listener %d: %s", l.Port, is)
		}
	}
}

// spec.loadBalancerSourceRanges says who may connect; a wrong one changes nothing.
func TestSources(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		svc := g.service("web", class, nil, 80, 81)
		set := func(list ...string) {
			g.change("web", func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = list })
			g.run(15 * time.Second)
		}
		set("10.0.0.0/8", "192.0.2.0/24")
		g.wantListeners(class, svc, "TCP 80: ; TCP 81: ")
		g.wantSources(class, svc, "10.0.0.0/8", "192.0.2.0/24")
		set("198.51.100.0/24", "192.0.2.0/24")
		g.wantSources(class, svc, "198.51.100.0/24", "192.0.2.0/24")
		set("198.51.100.0/33")
		g.wantSources(class, svc, "198.51.100.0/24", "192.0.2.0/24")
		if g.events.Count("WrongLoadBalancer", `spec.loadBalancerSourceRanges[0]: "198.51.100.0/33"`) != 1 {
			t.Errorf("%q", g.events.All())
		}
		g.reads, g.writes = 0, 0
		set("198.51.100.0/24", "192.0.2.0/24", "0.0.0.0/0")
		g.wantSources(class, svc)
		if g.writes > 5 { // two listeners and their list, or two calls on the security group; and one to spare
			t.Errorf("%d writes", g.writes)
		}
		set("10.0.0.0/8")
		g.wantSources(class, svc, "10.0.0.0/8")
		g.remove(svc)
		g.run(20 * time.Second)
		g.nothing(svc)
	})
}

// A listener is not made before it is known who may connect.
func TestNoListenerWithoutItsSources(t *testing.T) {
	each(t, func(t *testing.T, g *rig, class string) {
		action := map[string]string{lb.ClassCLB: "AddAccessControlListEntry", lb.ClassNLB: "AuthorizeSecurityGroup"}[class]
		refuse := func(action string) {
			g.Fault(faults.Rule{Name: action, Action: action, Count: 8, Error: &faults.Error{Status: 400, Code: "InvalidParameter", Message: "no"}})
		}
		refuse(action)
		svc := g.service("web", class, nil, 80)
		g.change("web", func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"10.0.0.0/8"} })
		g.run(20 * time.Second)
		g.wantListeners(class, svc, "")
		g.run(5 * time.Minute)
		g.wantListeners(class, svc, "TCP 80: ")
		g.wantSources(class, svc, "10.0.0.0/8")

		refuse("LoadBalancerJoinSecurityGroup")
		other := g.service("other", lb.ClassNLB, nil, 80)
		g.change("other", func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"10.0.0.0/8"} })
		g.run(20 * time.Second)
		g.wantListeners(lb.ClassNLB, other, "")
	})
}
