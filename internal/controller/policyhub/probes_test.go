package policyhub_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/internal/policy"
)

// What denies the health checks of load balancers is named, if the setting does not let them in.
func TestWhatDeniesProbes(t *testing.T) {
	w := newWorld(t)
	db, front := pod("db-0", "node1", "10.0.0.1", map[string]string{"app": "db"}), pod("web-0", "node1", "10.0.0.2", map[string]string{"app": "web"})
	w.put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"kubernetes.io/metadata.name": "shop"}}})
	w.put(db)
	w.put(front)
	w.put(web())
	hub := w.replica("a", nil)
	eventually(t, "the hub is ready", func() error { return hub.Ready(nil) })
	for _, o := range w.all() {
		hub.cache.informer(reflect.TypeOf(o)).Add(o)
	}
	says := func(what string, pod *corev1.Pod, parts ...string) {
		t.Helper()
		eventually(t, what, func() error {
			got := hub.DeniesProbes(t.Context(), pod, policy.TCPProtocol, 80)
			for _, part := range parts {
				if !strings.Contains(got, part) {
					return fmt.Errorf("%q, want %q in it", got, part)
				}
			}
			if len(parts) == 0 && got != "" {
				return fmt.Errorf("%q, want nothing", got)
			}
			return nil
		})
	}
	says("the setting lets them in", db)
	w.noProbes.Store(true)
	hub.SettingsChanged()
	says("a NetworkPolicy without a rule for them", db, "NetworkPolicy shop/db denies it to 100.64.0.0/10", "policy_allow_load_balancer_probes")
	says("a pod that no policy selects", front)
	w.put(&v3.GlobalNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "no-probes"}, Spec: v3.GlobalNetworkPolicySpec{PolicySpec: v3.PolicySpec{
		Ingress: []v3.Rule{{Action: v3.Deny, Source: v3.EntityRule{Nets: []string{"100.64.0.0/10"}}}},
	}}})
	says("a rule", front, "GlobalNetworkPolicy no-probes", "rule 0 denies it")
	says("a pod that is not there", pod("gone", "node1", "10.0.0.9", nil))
}
