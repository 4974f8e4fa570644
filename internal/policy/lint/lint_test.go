package lint_test

import (
	"strings"
	"testing"

	"terway.dev/terway/internal/policy/lint"
	"terway.dev/terway/internal/policy/manifest"
	"terway.dev/terway/internal/policy/translate"
)

const pods = `
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: [{name: web, ports: [{name: http, containerPort: 8080}]}]}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: proxy, namespace: shop, labels: {app: proxy}}
spec: {hostNetwork: true, containers: []}
status: {podIP: 192.168.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: dns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec: {containers: [{name: dns, ports: [{name: dns, containerPort: 53, protocol: UDP}]}]}
status: {podIP: 10.0.2.1}
---
`

func policyOf(kind, spec string) string {
	version := map[string]string{"NetworkPolicy": "networking.k8s.io/v1", "GlobalNetworkPolicy": "projectcalico.org/v3", "ClusterNetworkPolicy": "policy.networking.k8s.io/v1beta1"}[kind]
	metadata := "{name: it}"
	if kind == "NetworkPolicy" {
		metadata = "{name: it, namespace: shop}"
	}
	return "apiVersion: " + version + "\nkind: " + kind + "\nmetadata: " + metadata + "\nspec: " + spec + "\n"
}

const networkSet = `
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: partners, labels: {role: partner}}
spec: {nets: [203.0.113.0/24]}
`

// labPolicy is a NetworkPolicy for pods with ENIs of their own, and the pods.
func labPolicy(spec string) string {
	return `
apiVersion: v1
kind: Pod
metadata: {name: free, namespace: lab, labels: {app: own, raw: "yes"}, annotations: {network.terway.dev/exclusive-eni: "true"}}
spec: {containers: [{name: a, securityContext: {capabilities: {drop: [ALL]}}}, {name: b, securityContext: {}}]}
status: {podIP: 10.0.3.1}
---
apiVersion: v1
kind: Pod
metadata: {name: given, namespace: lab, labels: {app: own, raw: "yes"}}
spec: {containers: [{name: a, resources: {limits: {aliyun/eni: 1}}, securityContext: {capabilities: {drop: [ALL], add: [NET_ADMIN]}}}]}
status: {podIP: 10.0.3.2}
---
apiVersion: v1
kind: Pod
metadata: {name: held, namespace: lab, labels: {app: own, raw: "no"}, annotations: {network.terway.dev/exclusive-eni: "true"}}
spec: {containers: [{name: a, securityContext: {capabilities: {drop: [NET_RAW]}}}]}
status: {podIP: 10.0.3.3}
---
` + strings.Replace(policyOf("NetworkPolicy", spec), "namespace: shop", "namespace: lab", 1)
}

// Each check finds its mistake, and nothing where there is none.
func TestLint(t *testing.T) {
	const open = "to: [{namespaceSelector: {}}]"
	for _, c := range []struct{ name, text, want string }{
		{"nothing", policyOf("NetworkPolicy", "{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: http}]}]}"), ""},
		{"all pods, some in the host network", policyOf("NetworkPolicy", "{podSelector: {}}"), ""},
		{"refused", policyOf("GlobalNetworkPolicy", "{selector: app}"), `GlobalNetworkPolicy it: spec.selector: "app": want selector "app" has the end at position 4`},
		{"no pods", policyOf("NetworkPolicy", "{podSelector: {matchLabels: {app: wbe}}}"), `NetworkPolicy shop/it: selects no pod (no-pods)`},
		{"no pods at the other end", policyOf("NetworkPolicy", "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}, {from: [{podSelector: {matchLabels: {app: wbe}}}]}]}"),
			`NetworkPolicy shop/it: spec.ingress[1]: no pod outside the host network is at the other end: want labels with app == "wbe", namespace shop (no-pods)`},
		{"no pods in the namespaces", policyOf("NetworkPolicy", "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: hsop}}}]}]}"), `spec.ingress[0]: no pod outside the host network is at the other end: want a namespace with kubernetes.io/metadata.name == "hsop"`},
		{"the host network at the other end", policyOf("NetworkPolicy", "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: proxy}}}]}]}"), `no pod outside the host network is at the other end: want labels with app == "proxy"`},
		{"pods of the namespace, which has none", strings.Replace(policyOf("NetworkPolicy", "{podSelector: {matchLabels: {}}, ingress: [{from: [{podSelector: {}}]}]}"), "namespace: shop", "namespace: new", 1), `NetworkPolicy new/it: selects no pod (no-pods)`},
		{"no pods at the own end", policyOf("GlobalNetworkPolicy", "{ingress: [{action: Allow, destination: {selector: app == 'wbe'}}]}"), `no pod outside the host network is at the pod's own end: want labels with app == "wbe"`},
		{"a network set", policyOf("GlobalNetworkPolicy", "{ingress: [{action: Allow, source: {selector: role == 'partner'}}]}") + networkSet, ""},
		{"no network set", policyOf("GlobalNetworkPolicy", "{ingress: [{action: Allow, source: {selector: role == 'parnter'}}]}") + networkSet, `no pod outside the host network is at the other end: want labels with role == "parnter"`},
		{"service accounts", policyOf("GlobalNetworkPolicy", "{ingress: [{action: Allow, source: {serviceAccounts: {names: [a, b], selector: c == 'd'}}}]}"), `want service account a or b, a service account with c == "d"`},
		{"host network", policyOf("NetworkPolicy", "{podSelector: {matchLabels: {app: proxy}}}"), `selects shop/proxy of the host network, to which no policy applies (host-network)`},
		{"named port", policyOf("NetworkPolicy", "{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: https}]}]}"), `spec.ingress[0]: port "https": no pod that the policy selects has a port`},
		{"named port of another protocol", policyOf("NetworkPolicy", "{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: http, protocol: UDP}]}]}"), `port "http": no pod that the policy selects has a port of this name and protocol (named-port)`},
		{"named port at the other end", policyOf("NetworkPolicy", "{podSelector: {}, policyTypes: [Egress], egress: [{"+open+", ports: [{port: dns, protocol: UDP}]}]}"), ""},
		{"never: except", policyOf("NetworkPolicy", "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/9, 10.128.0.0/9]}}]}]}"), `spec.ingress[0]: never matches: no address of the other end: what is excluded is all of the networks (never-matches)`},
		{"never: selector", policyOf("GlobalNetworkPolicy", "{ingress: [{action: Allow, source: {selector: a == 'b' && a == 'c'}}]}"), `never matches: no address of the other end: the selectors contradict themselves`},
		{"never: family", policyOf("GlobalNetworkPolicy", "{ingress: [{action: Allow, ipVersion: 6, source: {nets: [10.0.0.0/8]}}]}"), `the networks are not of IPv6`},
		{"never: own", policyOf("GlobalNetworkPolicy", "{ingress: [{action: Allow, destination: {nets: [10.0.0.0/8], notNets: [0.0.0.0/0]}}]}"), `never matches: no address of the pod: what is excluded`},
		{"never: ports", policyOf("GlobalNetworkPolicy", "{ingress: [{action: Allow, protocol: TCP, destination: {ports: [80, '90:99'], notPorts: ['80:100']}}]}"), `never matches: all ports are excluded`},
		{"never: protocol", policyOf("GlobalNetworkPolicy", "{ingress: [{action: Allow, protocol: TCP, notProtocol: 6}]}"), `never matches: the protocol is excluded`},
		{"shadowed by all", policyOf("GlobalNetworkPolicy", "{ingress: [{action: Log}, {action: Allow}, {action: Deny, protocol: TCP}]}"), `spec.ingress[2]: is never reached: rule 1 matches everything (shadowed)`},
		{"shadowed by the same", policyOf("GlobalNetworkPolicy", "{ingress: [{action: Pass, protocol: TCP, source: {selector: app == 'web' || app == 'c'}}, {action: Deny, protocol: 6, source: {selector: \"app in {'c', 'web'}\"}}]}"), `spec.ingress[1]: is never reached: rule 0 matches the same`},
		{"metadata, allowed", policyOf("NetworkPolicy", "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [169.254.169.254/32]}}]}]}"), `spec.egress[0]: excludes 169.254.169.254 but not 100.100.100.200, the metadata service of Alibaba Cloud (metadata)`},
		{"metadata, both", policyOf("NetworkPolicy", "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [169.254.169.254/32, 100.100.100.200/32]}}]}]}"), ""},
		{"metadata, denied", policyOf("ClusterNetworkPolicy", "{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [169.254.0.0/16]}]}]}"), `denies 169.254.169.254, but the policy does not deny 100.100.100.200`},
		{"metadata, both denied", policyOf("ClusterNetworkPolicy", "{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [169.254.0.0/16]}]}, {action: Deny, to: [{networks: [100.100.100.200/32]}]}]}"), ""},
		{"probes", policyOf("GlobalNetworkPolicy", "{ingress: [{action: Deny, source: {nets: [100.64.0.0/10]}}, {action: Allow}]}"), `spec.ingress[0]: denies nothing: policy_allow_load_balancer_probes lets 100.64.0.0/10 in`},
		{"own ENI", labPolicy("{podSelector: {matchLabels: {app: own}}, ingress: [{}]}"), `NetworkPolicy lab/it: selects lab/free, lab/given with an ENI of their own, which pods with CAP_NET_RAW or CAP_NET_ADMIN use past their policies: drop both`},
		{"own ENI, held", labPolicy("{podSelector: {matchLabels: {raw: \"no\"}}, ingress: [{}]}"), ""},
		{"dns", policyOf("NetworkPolicy", "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}"), `NetworkPolicy shop/it: shop/web cannot reach the cluster's DNS (kube-system/dns, UDP 53) (dns)`},
		{"dns, by rule", policyOf("ClusterNetworkPolicy", "{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{namespaces: {}}]}]}"), `ClusterNetworkPolicy it: shop/web cannot reach`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := manifest.NewReader()
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Read([]byte(pods + c.text)); err != nil {
				t.Fatal(err)
			}
			got := lint.Lint(r.Objects, translate.Options{AllowLoadBalancerProbes: true})
			switch {
			case c.want == "" && len(got) > 0:
				t.Errorf("found %v", got)
			case c.want != "" && (len(got) != 1 || !strings.Contains(got[0].String(), c.want)):
				t.Errorf("found %v, want %s", got, c.want)
			}
		})
	}
}
