package loadbalancer

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

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
