package checks

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
)

// denyAll denies the server's pods a direction.
func denyAll(direction string) string {
	return fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-%s}
spec: {podSelector: {matchLabels: {app: server}}, policyTypes: [%s]}
`, strings.ToLower(direction), direction)
}

var policyDeny = beside(policyCheck("policy-deny",
	"a NetworkPolicy without rules cuts a pod off from pods of its node and of another one, other nodes and instances, for each direction by itself; its node's probes pass; without the policy all pass again",
	func(ctx context.Context, c *cast) (string, error) {
		na, nb, err := c.e.TwoNodes()
		if err != nil {
			return "", err
		}
		both := func(in, out string) string {
			return fmt.Sprintf(`
				far    > server tcp/8080 %[1]s
				near   > server tcp/9000 %[1]s
				near   > server udp/9000 %[1]s
				%[3]s  > server tcp/8080 %[1]s
				master > server tcp/8080 %[1]s
				%[4]s  > server tcp/8080 yes
				server > far    tcp/8080 %[2]s
				server > near   udp/9000 %[2]s
				server > %[3]s  tcp/10256 %[2]s
				server > %[4]s  tcp/10256 %[2]s
				far    > near   tcp/8080 yes`, in, out, na.Name, nb.Name)
		}
		for _, step := range []struct{ apply, remove, in, out string }{
			{apply: denyAll("Ingress"), in: "no", out: "yes"},
			{apply: denyAll("Egress"), in: "no", out: "no"},
			{remove: denyAll("Ingress"), in: "yes", out: "no"},
			{remove: denyAll("Egress"), in: "yes", out: "yes"},
		} {
			do, what := c.e.apply, step.apply
			if what == "" {
				do, what = c.e.remove, step.remove
			}
			if err := do(ctx, what); err != nil {
				return "", err
			}
			if err := c.judged(ctx, fmt.Sprintf("with ingress %s, egress %s", step.in, step.out), both(step.in, step.out)); err != nil {
				return "", err
			}
		}
		// The probes have gone on meanwhile.
		p, err := c.e.Ready(ctx, "server")
		if err != nil {
			return "", err
		}
		if n := p[0].Status.ContainerStatuses[0].RestartCount; n > 0 {
			return "", fmt.Errorf("the server was restarted %d times", n)
		}
		return "", nil
	}))

var policyAllow = beside(once(policyCheck("policy-allow",
	"rules of a NetworkPolicy let in what they name, by pod, namespace, protocol, port and port range, and nothing else; rules of egress do the same",
	func(ctx context.Context, c *cast) (string, error) {
		if err := c.e.apply(ctx, `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress:
  - {from: [{podSelector: {matchLabels: {app: near}}}], ports: [{port: 8080}]}
  - {from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NAMESPACE}}, podSelector: {matchLabels: {app: far}}}], ports: [{protocol: UDP, port: 8999, endPort: 9001}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out}
spec:
  podSelector: {matchLabels: {app: near}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: server}}}]}]
`); err != nil {
			return "", err
		}
		return "", c.judged(ctx, "by two policies", `
			near   > server tcp/8080 yes
			near   > server tcp/9000 no
			near   > server udp/9000 no
			far    > server udp/9000 yes
			far    > server tcp/9000 no
			far    > server tcp/8080 no
			master > server tcp/8080 no
			near   > far    tcp/8080 no
			far    > near   tcp/8080 yes
			server > far    tcp/9000 yes`)
	})))

var policyCalicoOrder = beside(once(policyCheck("policy-calico-order",
	"of Calico's policies the one with the lower order decides, a NetworkPolicy of Kubernetes has order 1,000 among them, and a change of an order turns the verdict",
	func(ctx context.Context, c *cast) (string, error) {
		ordered := func(deny, allow int) string {
			return fmt.Sprintf(`
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: deny}
spec: {order: %d, selector: app == 'server', ingress: [{action: Deny, source: {selector: app == 'far'}}]}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: allow}
spec: {order: %d, selector: app == 'server', ingress: [{action: Allow, protocol: TCP, source: {selector: "app in {'far', 'near'}"}, destination: {ports: [8080]}}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: kubernetes}
spec: {podSelector: {matchLabels: {app: server}}, ingress: [{ports: [{protocol: UDP, port: 9000}]}]}
`, deny, allow)
		}
		for _, step := range []struct {
			deny, allow int
			tcp, udp    string
		}{{10, 20, "no", "no"}, {30, 20, "yes", "no"}, {2000, 20, "yes", "yes"}} {
			if err := c.e.apply(ctx, ordered(step.deny, step.allow)); err != nil {
				return "", err
			}
			if err := c.judged(ctx, fmt.Sprintf("with orders %d (deny) and %d (allow)", step.deny, step.allow), fmt.Sprintf(`
				far  > server tcp/8080 %s
				far  > server udp/9000 %s
				far  > server tcp/9000 no
				near > server tcp/8080 yes
				near > server udp/9000 yes`, step.tcp, step.udp)); err != nil {
				return "", err
			}
		}
		return "orders 10, 30 and 2,000 beside 20 and a NetworkPolicy's 1,000", nil
	})))

var policyTiers = beside(once(policyCheck("policy-tiers",
	"a tier of Calico before default: Allow and Deny decide there, Pass leaves it to default, whose NetworkPolicy denies the rest, and its own end denies; without its policies default decides alone",
	func(ctx context.Context, c *cast) (string, error) {
		const first = `
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: verify-first.server}
spec:
  tier: verify-first
  selector: app == 'server' && projectcalico.org/namespace == 'NAMESPACE'
  ingress:
  - {action: Pass, protocol: UDP}
  - {action: Allow, protocol: TCP, source: {selector: app == 'far'}, destination: {ports: [8080]}}
  - {action: Deny, protocol: TCP, source: {selector: app == 'near'}}
  - {action: Pass, protocol: TCP, destination: {ports: [8080]}}
`
		if err := c.e.apply(ctx, `
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: verify-first}
spec: {order: 100}
---`+first+`---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: near}
spec: {podSelector: {matchLabels: {app: server}}, ingress: [{from: [{podSelector: {matchLabels: {app: near}}}]}]}
`); err != nil {
			return "", err
		}
		if err := c.judged(ctx, "by both tiers", `
			far    > server tcp/8080 yes
			far    > server tcp/9000 no
			far    > server udp/9000 no
			near   > server tcp/8080 no
			near   > server udp/9000 yes
			master > server tcp/8080 no`); err != nil {
			return "", err
		}
		if err := c.e.remove(ctx, first); err != nil {
			return "", err
		}
		return "", c.judged(ctx, "by default alone", `
			far    > server tcp/8080 no
			near   > server tcp/8080 yes
			near   > server udp/9000 yes`)
	})))

var policyCluster = beside(once(policyCheck("policy-cluster",
	"ClusterNetworkPolicies: tier Admin accepts and denies before the namespace's NetworkPolicy and passes to it, tier Baseline denies pods that none selects",
	func(ctx context.Context, c *cast) (string, error) {
		if err := c.e.apply(ctx, `
apiVersion: policy.networking.k8s.io/v1beta1
kind: ClusterNetworkPolicy
metadata: {name: verify-admin}
spec:
  tier: Admin
  priority: 10
  subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NAMESPACE}}, podSelector: {matchLabels: {app: server}}}}
  ingress:
  - {action: Accept, from: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NAMESPACE}}, podSelector: {matchLabels: {app: far}}}}], protocols: [{tcp: {destinationPort: {number: 8080}}}]}
  - {action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 8999, end: 9001}}}}]}
  - {action: Pass, from: [{namespaces: {}}]}
---
apiVersion: policy.networking.k8s.io/v1beta1
kind: ClusterNetworkPolicy
metadata: {name: verify-baseline}
spec:
  tier: Baseline
  priority: 10
  subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NAMESPACE}}, podSelector: {matchLabels: {app: near}}}}
  ingress:
  - {action: Deny, from: [{namespaces: {}}], protocols: [{udp: {destinationPort: {number: 9000}}}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: near}
spec: {podSelector: {matchLabels: {app: server}}, ingress: [{from: [{podSelector: {matchLabels: {app: near}}}]}]}
`); err != nil {
			return "", err
		}
		return "", c.judged(ctx, "by the three tiers", `
			far    > server tcp/8080 yes
			far    > server tcp/9000 no
			far    > server udp/9000 no
			near   > server tcp/8080 yes
			near   > server udp/9000 yes
			near   > server tcp/9000 no
			master > server tcp/8080 no
			far    > near   udp/9000 no
			far    > near   tcp/9000 yes
			server > near   udp/9000 no`)
	})))

var policyServiceBackend = beside(policyCheck("policy-service-backend",
	"a pod that may reach one pod reaches it through a Service too, and not another pod by a Service; that it may reach a Service's address opens nothing",
	func(ctx context.Context, c *cast) (string, error) {
		for _, app := range []string{"server", "near"} {
			s, err := c.e.service(ctx, app)
			if err != nil {
				return "", err
			}
			c.addr["service-of-"+app] = s.Spec.ClusterIP
		}
		if err := c.judged(ctx, "by kube-proxy", `
			far > service-of-server tcp/80 yes
			far > service-of-near   tcp/80 yes`); err != nil {
			return "", err
		}
		if err := c.e.apply(ctx, fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: far}
spec:
  podSelector: {matchLabels: {app: far}}
  policyTypes: [Egress]
  egress:
  - {to: [{podSelector: {matchLabels: {app: server}}}], ports: [{port: 8080}]}
  - {to: [{ipBlock: {cidr: %s/32}}]}
`, c.addr["service-of-near"])); err != nil {
			return "", err
		}
		return "", c.judged(ctx, "by the backend", `
			far > service-of-server tcp/80   yes
			far > server            tcp/8080 yes
			far > service-of-near   tcp/80   no
			far > near              tcp/8080 no`)
	}))

// ownRules lets near in and the pod own out to far; a Service's address opens nothing.
const ownRules = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: own}
spec:
  podSelector: {matchLabels: {app: own}}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{podSelector: {matchLabels: {app: near}}}], ports: [{port: 8080}]}]
  egress: [{to: [{podSelector: {matchLabels: {app: far}}}], ports: [{port: 8080}]}]
`

var policyExclusiveENI = once(policyCheck("policy-exclusive-eni",
	"a pod that has an ENI for itself is held to its policies on all ways, to and from pods of its node and of another one, nodes, an instance and Services: at first nothing may pass, then what rules name; its node's probes pass",
	func(ctx context.Context, c *cast) (string, error) { return withENI(1, c.ownENI)(ctx, c.e) }))

// ownENI tries the policies of pod own, which has an ENI of the second node.
func (c *cast) ownENI(ctx context.Context, e *env, na, nb lab.Machine) (string, error) {
	spec := instruments.PlainSpec(nb.Name)
	lab.AskForENI(&spec)
	if err := e.CreatePod(ctx, "own", spec); err != nil {
		return "", err
	}
	if err := c.join(ctx, "own"); err != nil {
		return "", err
	}
	eni, err := e.Holder(ctx, nb, c.addr["own"])
	if err != nil {
		return "", err
	}
	for _, app := range []string{"own", "near", "far"} {
		s, err := e.service(ctx, app)
		if err != nil {
			return "", err
		}
		c.addr["service-of-"+app] = s.Spec.ClusterIP
	}
	// near's and far's are those of the pods that rules name.
	rows := func(near, far, otherIn, toFar, otherOut string) string {
		return fmt.Sprintf(`
			near   > own             tcp/8080  %[3]s
			near   > service-of-own  tcp/80    %[3]s
			far    > own             tcp/8080  %[4]s
			far    > service-of-own  tcp/80    %[4]s
			near   > own             tcp/9000  %[5]s
			server > own             tcp/8080  %[5]s
			%[1]s  > own             tcp/8080  %[5]s
			master > own             udp/9000  %[5]s
			%[2]s  > own             tcp/8080  yes
			own    > far             tcp/8080  %[6]s
			own    > service-of-far  tcp/80    %[6]s
			own    > far             udp/9000  %[7]s
			own    > near            tcp/8080  %[7]s
			own    > service-of-near tcp/80    %[7]s
			own    > %[1]s           tcp/10256 %[7]s
			own    > %[2]s           tcp/10256 %[7]s
			near   > far             tcp/8080  yes`, na.Name, nb.Name, near, far, otherIn, toFar, otherOut)
	}
	for _, step := range []struct{ when, apply, rows string }{
		{when: "without a policy", rows: rows("yes", "yes", "yes", "yes", "yes")},
		{when: "with nothing let in", apply: strings.ReplaceAll(denyAll("Ingress"), "server", "own"), rows: rows("no", "no", "no", "yes", "yes")},
		{when: "with nothing let in or out", apply: strings.ReplaceAll(denyAll("Egress"), "server", "own"), rows: rows("no", "no", "no", "no", "no")},
		{when: "with rules", apply: ownRules, rows: rows("yes", "no", "no", "yes", "no")},
	} {
		if step.apply != "" {
			if err := e.apply(ctx, step.apply); err != nil {
				return "", err
			}
		}
		if err := c.judged(ctx, step.when, step.rows); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%s is eth0 of the pod", eni.ID), nil
}

var policyMasquerade = beside(policyCheck("policy-masquerade",
	"a client whose address a node has replaced by its own (NodePort, policy Cluster) is no probe: it is judged, as the node; by policy Local the pod's rules see the client (with an exclusive ENI its node)",
	func(ctx context.Context, c *cast) (string, error) {
		na, nb, err := c.e.TwoNodes()
		if err != nil {
			return "", err
		}
		ports := map[corev1.ServiceExternalTrafficPolicy]uint16{}
		for _, policy := range []corev1.ServiceExternalTrafficPolicy{corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal} {
			if ports[policy], err = c.e.nodePortOf(ctx, "server", policy); err != nil {
				return "", err
			}
		}
		rows := func(far, near, local string) string {
			return fmt.Sprintf(`
				master > %[1]s  tcp/%[3]d %[5]s
				master > %[2]s  tcp/%[3]d %[6]s
				master > %[2]s  tcp/%[4]d %[7]s
				%[2]s  > server tcp/8080  yes`, na.Name, nb.Name, ports[corev1.ServiceExternalTrafficPolicyCluster], ports[corev1.ServiceExternalTrafficPolicyLocal], far, near, local)
		}
		if err := c.judged(ctx, "by kube-proxy", rows("yes", "yes", "yes")); err != nil {
			return "", err
		}
		if err := c.e.apply(ctx, denyAll("Ingress")); err != nil {
			return "", err
		}
		if err := c.judged(ctx, "with all denied", rows("no", "no", "no")); err != nil {
			return "", err
		}
		asNode, asItself := "no", "yes"
		if c.e.Exclusive(nb.Name) { // the answer must return through the node
			asNode, asItself = asItself, asNode
		}
		for _, allowed := range []struct{ cidr, far, near, local string }{
			{na.Address.String(), "yes", "no", "no"}, {nb.Address.String(), "no", "yes", asNode}, {c.addr[c.e.Lab.Master.Name], "no", "no", asItself},
		} {
			if err := c.e.apply(ctx, fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: from}
spec: {podSelector: {matchLabels: {app: server}}, ingress: [{from: [{ipBlock: {cidr: %s/32}}]}]}
`, allowed.cidr)); err != nil {
				return "", err
			}
			if err := c.judged(ctx, "with "+allowed.cidr+" allowed", rows(allowed.far, allowed.near, allowed.local)); err != nil {
				return "", err
			}
		}
		return "", nil
	}))

var policyCIDRPods = beside(once(policyCheck("policy-cidr-pods",
	"a network in a rule names pods and nodes with such an address too, at either end, and an except takes them out",
	func(ctx context.Context, c *cast) (string, error) {
		na, _, err := c.e.TwoNodes()
		if err != nil {
			return "", err
		}
		if err := c.e.apply(ctx, fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: server}
spec:
  podSelector: {matchLabels: {app: server}}
  policyTypes: [Ingress, Egress]
  ingress:
  - {from: [{ipBlock: {cidr: %[1]s/32}}], ports: [{port: 9000}]}
  - {from: [{ipBlock: {cidr: 0.0.0.0/0, except: [%[1]s/32, %[3]s/32]}}], ports: [{port: 8080}]}
  egress:
  - {to: [{ipBlock: {cidr: %[2]s/32}}]}
  - {to: [{ipBlock: {cidr: %[3]s/32}}]}
`, c.addr["far"], c.addr["near"], na.Address)); err != nil {
			return "", err
		}
		return "", c.judged(ctx, "by networks", fmt.Sprintf(`
			far    > server tcp/9000 yes
			far    > server tcp/8080 no
			near   > server tcp/8080 yes
			near   > server tcp/9000 no
			%[1]s  > server tcp/8080 no
			master > server tcp/8080 yes
			server > near   tcp/8080 yes
			server > far    tcp/8080 no
			server > %[1]s  tcp/10256 yes
			server > master tcp/6443 no`, na.Name))
	})))
