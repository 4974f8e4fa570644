package checks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
	"terway.dev/terway/internal/policy/translate"
	"terway.dev/terway/internal/vpcsim/state"
)

// noPodBackends is why checks of load balancers are not for Flannel.
var noPodBackends = map[string]string{lab.NetworkFlannel: "pods have no addresses in the VPC: the backends of load balancers are NodePorts"}

// outsideRange is the range of clients outside the VPC (vpcsim's fabric.Outside).
var outsideRange = netip.MustParsePrefix("192.0.2.0/24")

// products are those of which the lab can have load balancers: an NLB needs two zones.
func (e *env) products() []string {
	if len(e.Lab.Cloud.PodVSwitches) < 2 {
		return []string{instruments.CLB}
	}
	return []string{instruments.CLB, instruments.NLB}
}

// behind makes pods behind a load balancer of each product, with readiness gates, and returns them when they are ready. The
// Services have the names of product and Deployment.
func (e *env) behind(ctx context.Context, of string, d *instruments.Deployment, public bool) ([]*instruments.Balanced, []corev1.Pod, error) {
	if err := e.InjectGates(ctx, false); err != nil {
		return nil, nil, err
	}
	all, err := e.balance(ctx, of, public, instruments.QuickChecks())
	if err != nil {
		return nil, nil, err
	}
	if err := d.Create(ctx); err != nil {
		return nil, nil, err
	}
	pods, err := d.Settle(ctx)
	return all, pods, err
}

// balance makes a load balancer of each product in front of a Deployment.
func (e *env) balance(ctx context.Context, of string, public bool, annotations map[string]string) (all []*instruments.Balanced, err error) {
	for _, product := range e.products() {
		b, err := e.Balance(ctx, instruments.BalancedService{Name: product + "-" + of, Of: of, Product: product, Public: public, Annotations: annotations})
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	return all, nil
}

var lbDirect = verify.Check{
	Name:   "lb-direct",
	About:  "the backends of a CLB with TCP, of one with HTTP and of an NLB are the pods themselves, by their ENIs, without NodePorts; each pod is reached and learns the client's address",
	NotFor: noPodBackends, Beside: true,
	Run: run(func(ctx context.Context, e *env) (string, error) {
		http, err := e.Balance(ctx, instruments.BalancedService{Name: "http", Of: "web", Product: instruments.CLB, Annotations: instruments.QuickChecks("protocol-port", "http:80")})
		if err != nil {
			return "", err
		}
		all, pods, err := e.behind(ctx, "web", e.Webservers("web", 2, 1, 0), false)
		if err != nil {
			return "", err
		}
		var said []string
		for _, b := range append(all, http) {
			line, err := e.direct(ctx, b, pods)
			if err != nil {
				return "", fmt.Errorf("load balancer %s of Service %s: %w", b.ID, b.Name, err)
			}
			said = append(said, line)
		}
		return strings.Join(said, "; "), nil
	}),
}

// direct checks that the pods are the backends of a load balancer, and what they see of a client.
func (e *env) direct(ctx context.Context, b *instruments.Balanced, pods []corev1.Pod) (string, error) {
	if err := b.Serves(ctx, pods); err != nil {
		return "", err
	}
	lb, err := b.State(ctx)
	if err != nil {
		return "", err
	}
	l := lb.Listeners[0]
	for i := range l.Backends {
		m, err := e.machineOf(l.Backends[i].Address.String(), pods)
		if err != nil {
			return "", err
		}
		eni, err := e.Holder(ctx, *m, l.Backends[i].Address.String())
		if err != nil {
			return "", err
		}
		if eni.ID != l.Backends[i].ServerId {
			return "", fmt.Errorf("the server of %s is %s, want the ENI %s that has the address", l.Backends[i].Address, l.Backends[i].ServerId, eni.ID)
		}
	}
	const requests = 40
	client, hits := e.Lab.Master.Address.String(), map[string]int{}
	for range requests {
		answer, err := instruments.HTTPFrom(ctx, e.Lab.Master.NetNS, b.To.Addr().String(), b.To.Port(), "")
		if err != nil {
			return "", err
		}
		pod, rest, _ := strings.Cut(answer, "\n")
		from, forwarded, _ := strings.Cut(rest, " ")
		seen := instruments.HostOf(from)
		if l.Protocol == state.ProtocolHTTP {
			seen = forwarded
		}
		if seen != client {
			return "", fmt.Errorf("pod %s sees the client %q (%q), want %s", pod, seen, answer, client)
		}
		hits[pod]++
	}
	if len(hits) != len(pods) {
		return "", fmt.Errorf("of %d requests to %s the pods got %v, want %d pods", requests, b.To, hits, len(pods))
	}
	return fmt.Sprintf("%s %s of %d pods, %d requests, the client is %s", b.ID, l.Protocol, len(l.Backends), requests, client), nil
}

// machineOf returns the machine of the pod with an address.
func (e *env) machineOf(address string, pods []corev1.Pod) (*lab.Machine, error) {
	for _, p := range pods {
		if p.Status.PodIP == address {
			return e.Lab.Machine(p.Spec.NodeName)
		}
	}
	return nil, fmt.Errorf("no pod has the address %s of a backend", address)
}

var lbOutside = verify.Check{
	Name: "lb-outside",
	About: "a client outside the VPC reaches pods by public addresses of a CLB and an NLB, if the pods' security group and loadBalancerSourceRanges let it, and sees its own address arrive; " +
		"it reaches no private address of them, and no pod",
	NotFor: noPodBackends, Once: true,
	Run: run(func(ctx context.Context, e *env) (_ string, err error) {
		all, pods, err := e.behind(ctx, "web", e.Webservers("web", 2, 1, 0), true)
		if err != nil {
			return "", err
		}
		outside, err := e.Lab.NetNS(lab.Internet)
		if err != nil {
			return "", err
		}
		// becomes waits for what becomes of connections from outside.
		becomes := func(b *instruments.Balanced, when, want string) error {
			got := ""
			if err := e.Poll(ctx, fmt.Sprintf("connections from outside to %s (%s) to be %s %s", b.To, b.Name, want, when), func() (_ bool, err error) {
				got, err = instruments.Reach(ctx, outside, "tcp", b.To.String())
				return got == want, err
			}); err != nil {
				return fmt.Errorf("%w; they are %s", err, got)
			}
			return nil
		}
		for _, b := range all {
			if err := errors.Join(b.Serves(ctx, pods), becomes(b, "without a rule of the security group", instruments.Silent)); err != nil {
				return "", err
			}
		}
		defer func() { err = errors.Join(err, e.Lab.Cloud.AcceptNoMore(outsideRange, instruments.HTTPPort)) }()
		if err := e.Lab.Cloud.Accept(outsideRange, instruments.HTTPPort); err != nil {
			return "", err
		}
		for _, b := range all {
			if err := becomes(b, "with a rule", instruments.Open); err != nil {
				return "", err
			}
			answer, err := instruments.HTTPFrom(ctx, outside, b.To.Addr().String(), b.To.Port(), "")
			if err != nil {
				return "", err
			}
			_, from, _ := strings.Cut(answer, "\n")
			seen, err := netip.ParseAddr(instruments.HostOf(strings.TrimSpace(from)))
			if err != nil || !outsideRange.Contains(seen) {
				return "", fmt.Errorf("%s: a pod sees the client %q, want one of %s", b.Name, from, outsideRange)
			}
			private, err := e.privateAddresses(ctx, b)
			if err != nil {
				return "", err
			}
			for _, to := range append(private, netip.AddrPortFrom(netip.MustParseAddr(pods[0].Status.PodIP), instruments.HTTPPort)) {
				if got, err := instruments.Reach(ctx, outside, "tcp", to.String()); err == nil && got == instruments.Open {
					return "", fmt.Errorf("a client outside the VPC reaches %s, which is no public address", to)
				}
			}
			const other = "203.0.113.0/24"
			for _, c := range []struct {
				ranges []string
				open   bool
			}{
				{[]string{other}, false},
				{[]string{other, seen.String() + "/32"}, true},
				{[]string{other, seen.Next().String() + "/32"}, false},
				{[]string{outsideRange.String()}, true},
				{[]string{other}, false},
				{nil, true},
			} {
				if err := e.onlyFrom(ctx, b.Name, c.ranges); err != nil {
					return "", err
				}
				if err := e.shut(ctx, outside, b, fmt.Sprintf("with loadBalancerSourceRanges %v", c.ranges), c.open); err != nil {
					return "", err
				}
			}
		}
		var to []string
		for _, b := range all {
			to = append(to, fmt.Sprintf("%s (%s)", b.To, b.Name))
		}
		return strings.Join(to, ", ") + ": nothing without a rule of the security group or from another range than loadBalancerSourceRanges, else answers, with the client's address", nil
	}),
}

// privateAddresses returns where a load balancer listens in the VPC.
func (e *env) privateAddresses(ctx context.Context, b *instruments.Balanced) (list []netip.AddrPort, err error) {
	lb, err := b.State(ctx)
	if err != nil {
		return nil, err
	}
	for _, a := range lb.Addresses {
		if !a.Public {
			list = append(list, netip.AddrPortFrom(a.Address, b.To.Port()))
		}
	}
	return list, nil
}

// onlyFrom sets loadBalancerSourceRanges of a Service.
func (e *env) onlyFrom(ctx context.Context, service string, ranges []string) error {
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"loadBalancerSourceRanges": ranges}})
	if err != nil {
		return fmt.Errorf("loadBalancerSourceRanges %v: %w", ranges, err)
	}
	if _, err := e.Client.CoreV1().Services(e.Namespace).Patch(ctx, service, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("change Service %s: %w", service, err)
	}
	return nil
}

// shut waits until connections to a load balancer are not opened, or are.
func (e *env) shut(ctx context.Context, from string, b *instruments.Balanced, when string, open bool) error {
	got, what := "", "not to open"
	if open {
		what = "to open"
	}
	if err := e.Poll(ctx, fmt.Sprintf("connections to %s %s %s", b.Name, what, when), func() (_ bool, err error) {
		got, err = instruments.Reach(ctx, from, "tcp", b.To.String())
		return (got == instruments.Open) == open, err
	}); err != nil {
		return fmt.Errorf("%w: they are %s", err, got)
	}
	return nil
}

var lbPolicy = verify.Check{
	Name: "lb-policy",
	About: "a load balancer's health checks pass a default deny, so that a pod's readiness gate opens, unless policy_allow_load_balancer_probes is false: then it stays shut, and an event names the policy; " +
		"clients are judged by their own address: silent until a policy allows it",
	NotFor: noPodBackends, Policy: true, Once: true,
	Run: run(func(ctx context.Context, e *env) (_ string, err error) {
		defer func() { err = errors.Join(err, e.removePolicies(context.WithoutCancel(ctx), e.ownPolicies())) }()
		if err := e.apply(ctx, `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: `+defaultDeny+`, namespace: NAMESPACE}
spec: {podSelector: {}, policyTypes: [Ingress]}
`); err != nil {
			return "", err
		}
		if err := e.InjectGates(ctx, false); err != nil {
			return "", err
		}
		b, err := e.Balance(ctx, instruments.BalancedService{Name: "clb", Of: "web", Product: instruments.CLB, Annotations: instruments.QuickChecks()})
		if err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, e.probesBack(context.WithoutCancel(ctx))) }()
		if err := e.denyProbes(ctx); err != nil {
			return "", err
		}
		d := e.Webservers("web", 1, 1, 0)
		if err := d.Create(ctx); err != nil {
			return "", err
		}
		if err := e.gateShut(ctx, d); err != nil {
			return "", err
		}
		if err := e.probesBack(ctx); err != nil {
			return "", err
		}
		pods, err := d.Settle(ctx)
		if err != nil {
			return "", err
		}
		if err := b.Serves(ctx, pods); err != nil {
			return "", err
		}
		client := e.Lab.Master
		got, err := instruments.Reach(ctx, client.NetNS, "tcp", b.To.String())
		if err != nil {
			return "", err
		}
		if got != instruments.Silent {
			return "", fmt.Errorf("a client that no rule allows is %s, want it to be %s", got, instruments.Silent)
		}
		if err := e.apply(ctx, strings.ReplaceAll(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: client, namespace: NAMESPACE}
spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: CLIENT/32}}]}]}
`, "CLIENT", client.Address.String())); err != nil {
			return "", err
		}
		if err := e.shut(ctx, client.NetNS, b, "when the policy allows it", true); err != nil {
			return "", err
		}
		return fmt.Sprintf("behind default-deny the gate stayed shut, and an event named it, without policy_allow_load_balancer_probes; it opened with it; the client %s got no answer until its address was allowed", client.Address), nil
	}),
}

// defaultDeny is the policy of lb-policy.
const defaultDeny = "default-deny"

// gateShut waits until an event of a Deployment's only pod says that its readiness gate is shut because of defaultDeny, and
// checks that it is.
func (e *env) gateShut(ctx context.Context, d *instruments.Deployment) error {
	var said []string
	err := e.Poll(ctx, "an event that names policy "+defaultDeny+" as the reason for a shut readiness gate", func() (bool, error) {
		pods, err := d.Pods(ctx)
		if err != nil || len(pods) != 1 {
			return false, err
		}
		if instruments.PodReady(&pods[0]) {
			return false, fmt.Errorf("pod %s is ready, although policy %s denies health checks", pods[0].Name, defaultDeny)
		}
		said, err = e.Events(ctx, pods[0].Name)
		return slices.ContainsFunc(said, func(s string) bool {
			return strings.HasPrefix(s, "ReadinessGateShut") && strings.Contains(s, defaultDeny)
		}), err
	})
	if err != nil {
		return fmt.Errorf("%w; its events: %s", err, strings.Join(said, "; "))
	}
	return nil
}

// probesAnnotation on the ConfigMap has policy_allow_load_balancer_probes before a check, null if it was not set.
const probesAnnotation = "lab.terway.dev/probes-before"

// denyProbes lets health checks of load balancers in only by policies' rules.
func (e *env) denyProbes(ctx context.Context) error {
	return e.EditConfig(ctx, func(m *corev1.ConfigMap) error {
		var raw map[string]any
		if err := yaml.Unmarshal([]byte(m.Data[config.ConfigMapKey]), &raw); err != nil {
			return fmt.Errorf("the configuration is not YAML: %w", err)
		}
		was, err := json.Marshal(raw[translate.SettingProbes])
		if err != nil {
			return fmt.Errorf("note %s from before: %w", translate.SettingProbes, err)
		}
		metav1.SetMetaDataAnnotation(&m.ObjectMeta, probesAnnotation, string(was))
		return setProbes(m, false)
	})
}

// probesBack reverts denyProbes.
func (e *env) probesBack(ctx context.Context) error {
	return e.EditConfig(ctx, func(m *corev1.ConfigMap) error {
		note, noted := m.Annotations[probesAnnotation]
		if !noted {
			return nil
		}
		var before any
		if err := json.Unmarshal([]byte(note), &before); err != nil {
			return fmt.Errorf("annotation %s is %q: want true, false or null: %w", probesAnnotation, note, err)
		}
		delete(m.Annotations, probesAnnotation)
		return setProbes(m, before)
	})
}

// setProbes changes only policy_allow_load_balancer_probes of a configuration; nil removes it.
func setProbes(m *corev1.ConfigMap, to any) error {
	var raw map[string]any
	if err := yaml.Unmarshal([]byte(m.Data[config.ConfigMapKey]), &raw); err != nil {
		return fmt.Errorf("the configuration is not YAML: %w", err)
	}
	if raw[translate.SettingProbes] = to; to == nil {
		delete(raw, translate.SettingProbes)
	}
	b, err := yaml.Marshal(raw)
	if err != nil {
		return fmt.Errorf("write the configuration as YAML: %w", err)
	}
	m.Data[config.ConfigMapKey] = string(b)
	return nil
}
