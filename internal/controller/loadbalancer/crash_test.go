package loadbalancer

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	lb "terway.dev/terway/internal/loadbalancer"
	"terway.dev/terway/internal/vpcsim/state"
)

func noChange(state.API) error { return nil }

// Wherever the controller is killed, its successor finishes: the load balancer becomes what the Service wants, there is
// one only, and nothing is left when the Service goes.
func TestKilledAnywhere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		class := rapid.SampledFrom(classes).Draw(t, "class")
		g := newRig(t)
		svc := g.service("web", class, nil, 80)
		pods := map[string]bool{}
		ports := map[int32]bool{80: true}
		light := func() {
			g.fuse.Light(rapid.IntRange(0, 8).Draw(t, "writes until it is killed"), rapid.Bool().Draw(t, "the last write is carried out"))
		}
		for range rapid.IntRange(1, 4).Draw(t, "rounds") {
			light()
			pod := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "pod")
			g.pod("web", pod, true, false, pods[pod])
			if pods[pod] {
				delete(pods, pod)
			} else {
				pods[pod] = true
			}
			if rapid.Bool().Draw(t, "a port changes") {
				g.change("web", func(s *corev1.Service) {
					p := int32(rapid.IntRange(81, 83).Draw(t, "port"))
					if ports[p] {
						return
					}
					delete(ports, s.Spec.Ports[0].Port)
					s.Spec.Ports[0].Port, s.Spec.Ports[0].TargetPort = p, intstr.FromInt32(8080)
					ports[p] = true
				})
			}
			if rapid.Bool().Draw(t, "who may connect changes") {
				sources := rapid.SampledFrom([][]string{nil, {"10.0.0.0/8"}, {"192.0.2.0/24", "10.0.0.0/8"}}).Draw(t, "sources")
				g.change("web", func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = sources })
			}
			g.run(time.Duration(rapid.IntRange(1, 10).Draw(t, "seconds")) * time.Second)
		}
		g.run(time.Minute)
		var backends []string
		for _, p := range sorted(pods) {
			backends = append(backends, p+":8080 100")
		}
		for p := range ports {
			g.wantListeners(class, svc, fmt.Sprintf("TCP %d: %s", p, strings.Join(backends, ", ")))
		}
		g.wantSources(class, svc, g.get("web").Spec.LoadBalancerSourceRanges...)
		light()
		g.remove(svc)
		g.run(time.Minute)
		g.nothing(svc)
		if g.get("web") != nil {
			t.Errorf("the Service is still there: %q", g.events.All())
		}
	})
}

// Wherever the controller is killed while a Service goes from one load balancer to another, its successor finishes: the
// Service has what it wants, and nothing is left where it was.
func TestKilledBetweenBalancers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := newRig(t)
		users := map[string]string{}
		for _, class := range classes {
			users[class] = g.users(class)
		}
		class := rapid.SampledFrom(classes).Draw(t, "class")
		svc := g.service("web", class, nil, 80)
		g.pod("web", "a", true, false, false)
		typ, id := corev1.ServiceTypeLoadBalancer, ""
		light := func() {
			g.fuse.Light(rapid.IntRange(0, 8).Draw(t, "writes until it is killed"), rapid.Bool().Draw(t, "the last write is carried out"))
		}
		for range rapid.IntRange(1, 4).Draw(t, "rounds") {
			light()
			g.run(time.Duration(rapid.IntRange(1, 15).Draw(t, "seconds")) * time.Second)
			typ = rapid.SampledFrom([]corev1.ServiceType{corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeClusterIP}).Draw(t, "type")
			class = rapid.SampledFrom(classes).Draw(t, "class")
			id = ""
			if rapid.Bool().Draw(t, "the user's") {
				id = users[class]
			}
			ranges := rapid.SampledFrom([][]string{nil, {"10.0.0.0/8"}}).Draw(t, "sources")
			if id != "" {
				ranges = nil
			}
			g.change("web", func(s *corev1.Service) {
				s.Spec.Type, s.Spec.LoadBalancerClass, s.Spec.LoadBalancerSourceRanges = typ, &class, ranges
				s.Annotations = merged(merged(s.Annotations, lb.Prefix+"id", id), lb.Prefix+"force-override-listeners", "true")
			})
		}
		g.run(2 * time.Minute)
		const want = "TCP 80: a:8080 100"
		for c, user := range users {
			w := ""
			if typ == corev1.ServiceTypeLoadBalancer && user == id {
				w = want
			}
			if got := g.describe(c, user); got != w {
				t.Errorf("the user's %s has %q, want %q; %q", c, got, w, g.events.All())
			}
			own := g.balancers(c, svc)
			if wanted := typ == corev1.ServiceTypeLoadBalancer && c == class && id == ""; wanted {
				g.wantListeners(c, svc, want)
			} else if len(own) > 0 {
				t.Errorf("left: %+v", own)
			}
		}
		if typ != corev1.ServiceTypeLoadBalancer {
			g.nothing(svc)
		}
		light()
		g.remove(svc)
		g.run(time.Minute)
		g.nothing(svc)
		for c, user := range users {
			if got := g.describe(c, user); got != "" {
				t.Errorf("left in the user's: %s", got)
			}
		}
		if g.get("web") != nil {
			t.Errorf("the Service is still there: %q", g.events.All())
		}
	})
}
