package policyhub

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/translate"
)

// DeniesProbes returns what denies the health checks of load balancers a port of a pod, with the next step; "" if
// nothing does, or it is not known.
func (s *Server) DeniesProbes(ctx context.Context, pod *corev1.Pod, protocol uint8, port uint16) string {
	d, ok := s.hub.Decide(policy.Connection{
		Pod: policy.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}, Direction: policy.Ingress,
		Peer: translate.LoadBalancerProbes.Addr().Next(), Protocol: protocol, SourcePort: 40000, DestinationPort: port,
	})
	if !ok || d.Action != policy.Deny {
		return ""
	}
	what := d.Rule.String()
	switch d.Reason {
	case policy.ByRule:
	case policy.ByTier:
		what = strings.Join(s.selecting(ctx, pod), ", ")
		if what == "" {
			what = "tier " + d.Tier
		}
	default:
		return ""
	}
	return fmt.Sprintf("%s denies it to %s, where the health checks of load balancers are from: allow them there, or set %s to true in the ConfigMap eni-config",
		what, translate.LoadBalancerProbes, translate.SettingProbes)
}

// selecting returns the NetworkPolicies that select a pod for ingress.
func (s *Server) selecting(ctx context.Context, pod *corev1.Pod) (names []string) {
	var l networkingv1.NetworkPolicyList
	if err := s.Live.List(ctx, &l, client.InNamespace(pod.Namespace)); err != nil {
		s.Log.Warn("which NetworkPolicies select a pod is not known", "namespace", pod.Namespace, "pod", pod.Name, "error", err)
		return nil
	}
	for _, p := range l.Items {
		selects, err := metav1.LabelSelectorAsSelector(&p.Spec.PodSelector)
		if err == nil && selects.Matches(labels.Set(pod.Labels)) && (len(p.Spec.PolicyTypes) == 0 || slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeIngress)) {
			names = append(names, policy.Ref{Kind: translate.KindNetworkPolicy, Namespace: p.Namespace, Name: p.Name}.String())
		}
	}
	slices.Sort(names)
	return names
}
