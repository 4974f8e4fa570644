package translate_test

import (
	"fmt"
	"testing"

	"terway.dev/terway/internal/policy/manifest"
	"terway.dev/terway/internal/policy/translate"
)

// BenchmarkPolicies translates and arranges a cluster's policies. Compare the time for one
// policy; the total grows with the cluster.
func BenchmarkPolicies(b *testing.B) {
	r, err := manifest.NewReader()
	if err != nil {
		b.Fatal(err)
	}
	for i := range 1000 {
		text := fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p%d, namespace: n%d}
spec:
  podSelector: {matchLabels: {app: a%d}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: b%d}}}, {namespaceSelector: {matchExpressions: [{key: team, operator: In, values: [x, z]}]}}, {ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]
    ports: [{port: 80}, {port: 443}, {port: 53, protocol: UDP}]
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: c%d, namespace: n%d}
spec:
  selector: app == 'a%d' && tier in {'x', 'y'}
  ingress: [{action: Allow, protocol: TCP, source: {selector: "role == 'b' || has(admin)", namespaceSelector: team == 'x'}, destination: {ports: [80, "8000:9000"]}}]
`, i, i%100, i, i, i, i%100, i)
		if err := r.Read([]byte(text)); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("Kubernetes", func(b *testing.B) {
		for i := range b.N {
			translate.NetworkPolicy(r.Objects.NetworkPolicies[i%1000])
		}
	})
	b.Run("Calico", func(b *testing.B) {
		for i := range b.N {
			translate.CalicoPolicy(r.Objects.CalicoPolicies[i%1000])
		}
	})
	b.Run("all", func(b *testing.B) {
		for range b.N {
			translate.Policies(r.Objects, translate.Options{})
		}
	})
}
