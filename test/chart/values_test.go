package chart

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/config"
)

// ciValues returns the values with which the chart is linted, by the file's name.
func ciValues(t *testing.T) map[string]map[string]any {
	t.Helper()
	files, err := filepath.Glob(dir + "ci/*-values.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	out := map[string]map[string]any{}
	for _, f := range files {
		var values map[string]any
		read(t, f, func(b []byte, v any) error { return yaml.Unmarshal(b, v) }, &values)
		out[filepath.Base(f)] = values
	}
	return out
}

func TestLint(t *testing.T) {
	for name, values := range ciValues(t) {
		if problems := helm.lint(t, values); problems != "" {
			t.Errorf("%s: %s", name, problems)
		}
		conf, err := yaml.Marshal(values["eniConfig"])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := config.Parse(conf); err != nil {
			t.Errorf("%s: the controller says: %v", name, err)
		}
		objects(t, values)
	}
	if helm.lint(t, map[string]any{}) == "" {
		t.Error("the linter accepts a cluster without an id")
	}
}

// What fails when the programs run is refused before, by the name of the value; and what they take is not.
func TestRefusedBeforeItRuns(t *testing.T) {
	env := func(names ...string) (list []any) {
		for _, name := range names {
			list = append(list, map[string]any{"name": name})
		}
		return list
	}
	const terway, flannel = "terway", "flannel"
	for _, c := range []struct {
		network, path string
		good, bad     []any
		beside        map[string]any
	}{
		{network: terway, path: "eniConfig.cluster_id", good: []any{"c1", "A_b.c-2"}, bad: []any{"", "x y/z", strings.Repeat("c", 65)}},
		{network: terway, path: "eniConfig.region", bad: []any{"", "cn hangzhou", "cn-beijing"}},
		{network: terway, path: "eniConfig.service_cidr", good: []any{"10.0.0.0/8", "172.21.0.0/20,fc00::/112", "fc00::/112, 172.21.0.0/20"},
			bad: []any{"", "banana", "172.21.0.0", "999.9.9.9/99", "10.0.0.256/24", "10.0.0.0/33", "fc00::/129", "10.0.0.0/8,fc00::/129", "172.21.0.0/20,172.22.0.0/20", "fc00::/112,fd00::/112"}},
		{network: terway, path: "eniConfig.network_policy", good: []any{false}, bad: []any{true}},
		{network: terway, path: "eniConfig.network", good: []any{"terway"}, bad: []any{"calico"}},
		{network: terway, path: "eniConfig.mode", good: []any{"exclusive"}, bad: []any{"trunk"}},
		{network: terway, path: "eniConfig.datapath", good: []any{"auto"}, bad: []any{"ebpf", "route"}, beside: map[string]any{"eniConfig.mode": "exclusive"}},
		{network: terway, path: "eniConfig.datapath", good: []any{"auto", "ebpf", "netkit"}, bad: []any{"vxlan"}},
		{network: terway, path: "eniConfig.pod_cidr", good: []any{""}, bad: []any{"172.20.0.0/16"}},
		{network: terway, path: "eniConfig.route_tables", good: []any{[]any{}}, bad: []any{[]any{"vtb-1"}}},
		{network: terway, path: "eniConfig.exclusive_enis", good: []any{0, 100}, bad: []any{-1, 101}},
		{network: terway, path: "eniConfig.warm_enis", good: []any{0, 100}, bad: []any{-1, 101}},
		{network: terway, path: "eniConfig.host_stack_cidrs", good: []any{[]any{"169.254.20.10/32", "fd00::a/128"}}, bad: []any{[]any{"169.254.20.10"}, []any{"1.2.3.400/32"}, []any{"dns"}}},
		{network: terway, path: "eniConfig.network_priority", good: []any{map[string]any{"eni_mbit": 100}, map[string]any{"eni_mbit": 0}}, bad: []any{map[string]any{"eni_mbit": 99}, map[string]any{"eni_mbit": 1000001}}},
		{network: terway, path: "eniConfig.vswitches", good: []any{map[string]any{"cn-hangzhou-i": []any{"vsw-1"}}}, bad: []any{
			map[string]any{}, map[string]any{"cn-hangzhou-i": []any{}}, map[string]any{"cn-hangzhou-i": []any{"sg-1"}}, map[string]any{"cn-beijing-a": []any{"vsw-1"}},
			map[string]any{"cn-hangzhou-i": []any{"vsw-1", "vsw-1"}}, map[string]any{"cn-hangzhou-i": []any{"vsw-1"}, "cn-hangzhou-j": []any{"vsw-1"}}, map[string]any{"cn-hangzhou i": []any{"vsw-1"}}}},
		{network: terway, path: "eniConfig.security_groups", good: []any{[]any{"sg-1"}}, bad: []any{[]any{"vsw-1"}, []any{"sg-1 2"}}},
		{network: terway, path: "eniConfig.eni_tags", good: []any{map[string]any{"team": "net"}}, bad: []any{map[string]any{"acs:x": "y"}, map[string]any{"aliyunx": "y"}, map[string]any{"creator": "me"}, map[string]any{"terway.dev/x": "y"}, map[string]any{"": "y"}}},
		{network: terway, path: "eniConfig.min_pool_size", good: []any{0, 1000}, bad: []any{-1, 1001}},
		{network: terway, path: "eniConfig.max_pool_size", good: []any{3, 1000}, bad: []any{2, 1001}},
		{network: terway, path: "eniConfig.max_pool_size", good: []any{9}, bad: []any{8}, beside: map[string]any{"eniConfig.min_pool_size": 9}},
		{network: terway, path: "eniConfig.cooling_seconds", good: []any{0, 3600}, bad: []any{-1, 3601}},
		{network: terway, path: "eniConfig.load_balancer_classes", good: []any{map[string]any{"": "CLB"}}, bad: []any{map[string]any{"": "ALB"}}},
		{network: flannel, path: "eniConfig.load_balancer_classes", good: []any{map[string]any{"": "CLB"}}},
		{network: flannel, path: "eniConfig.pod_cidr", good: []any{"10.0.0.0/8"}, bad: []any{"", "10.0.0.0", "fd00::/64", "10.0.0.300/8"}},
		{network: flannel, path: "eniConfig.route_tables", good: []any{[]any{"vtb-1"}}, bad: []any{[]any{"rtb-1"}}},
		{network: flannel, path: "eniConfig.vswitches", bad: []any{map[string]any{"cn-hangzhou-i": []any{"vsw-1"}}}},
		{network: flannel, path: "eniConfig.min_pool_size", bad: []any{3}},
		{network: flannel, path: "eniConfig.mode", bad: []any{"shared"}},

		{network: terway, path: "credentials.existingSecret", good: []any{"key"}, bad: []any{"", "My Key"}},
		{network: terway, path: "credentials.roleARN", good: []any{"acs:ram::1:role/r"}, bad: []any{""}, beside: map[string]any{"credentials.source": "rrsa", "credentials.oidcProviderARN": "acs:ram::1:oidc-provider/p"}},
		{network: terway, path: "credentials.oidcProviderARN", good: []any{"acs:ram::1:oidc-provider/p"}, bad: []any{""}, beside: map[string]any{"credentials.source": "rrsa", "credentials.roleARN": "acs:ram::1:role/r"}},
		{network: terway, path: "credentials.existingSecret", bad: []any{"key"}, beside: map[string]any{"credentials.source": "ecs-role"}},
		{network: terway, path: "credentials.accessKeyID", bad: []any{"id"}, beside: map[string]any{"credentials.source": "ecs-role"}},
		{network: terway, path: "credentials.accessKeySecret", bad: []any{"s"}, beside: map[string]any{"credentials.existingSecret": "key"}},
		{network: terway, path: "credentials.role", good: []any{"r"}, beside: map[string]any{"credentials.source": "ecs-role"}},
		{network: terway, path: "credentials.role", good: []any{""}, bad: []any{"r"}},
		{network: terway, path: "credentials.roleARN", bad: []any{"acs:ram::1:role/r"}},
		{network: flannel, path: "credentials.oidcProviderARN", bad: []any{"acs:ram::1:oidc-provider/p"}},
		{network: terway, path: "controller.podDisruptionBudget", good: []any{nil, map[string]any{}, map[string]any{"maxUnavailable": nil}, map[string]any{"minAvailable": 1}, map[string]any{"minAvailable": "50%", "maxUnavailable": nil}, map[string]any{"maxUnavailable": 2}},
			bad: []any{map[string]any{"minAvailable": 1, "maxUnavailable": 1}, map[string]any{"minAvailable": 1, "maxUnavailable": 2}, map[string]any{"maxUnavailable": "half"}, map[string]any{"minAvailable": -1}, map[string]any{"minAvailable": "1"},
				map[string]any{"maxUnavailable": 0}, map[string]any{"maxUnavailable": "0%"}, map[string]any{"minAvailable": 2}, map[string]any{"minAvailable": "51%"}, map[string]any{"minAvailable": "100%", "maxUnavailable": nil}}},
		{network: terway, path: "controller.podDisruptionBudget", good: []any{map[string]any{"minAvailable": 2}, map[string]any{"minAvailable": "60%"}}, bad: []any{map[string]any{"minAvailable": 3}, map[string]any{"minAvailable": "67%"}},
			beside: map[string]any{"controller.replicas": 3}},
		{network: terway, path: "controller.updateStrategy", good: []any{map[string]any{"type": "Recreate"}, map[string]any{"rollingUpdate": map[string]any{"maxUnavailable": 0, "maxSurge": 1}}},
			bad: []any{map[string]any{"type": "OnDelete"}, map[string]any{"rollingUpdate": map[string]any{"maxUnavailable": 0}}, map[string]any{"rollingUpdate": map[string]any{"maxUnavailable": "x"}}, map[string]any{"partition": 1}}},
		{network: terway, path: "agent.updateStrategy", good: []any{map[string]any{"type": "OnDelete"}, map[string]any{"rollingUpdate": map[string]any{"maxUnavailable": "100%"}}},
			bad: []any{map[string]any{"type": "Recreate"}, map[string]any{"rollingUpdate": map[string]any{"maxUnavailable": 0}}, map[string]any{"rollingUpdate": map[string]any{"maxUnavailable": "0%"}}, map[string]any{"rollingUpdate": map[string]any{"maxSurge": 1}}}},
		{network: flannel, path: "agent.updateStrategy", good: []any{map[string]any{"type": "OnDelete"}}, bad: []any{map[string]any{"type": "Recreate"}}},
		{network: terway, path: "controller.podLabels", good: []any{map[string]any{"team": "net"}}, bad: []any{map[string]any{"app": "x"}, map[string]any{"app.kubernetes.io/name": "x"}, map[string]any{"team": "a b"}, map[string]any{"team": strings.Repeat("x", 64)}}},
		{network: terway, path: "agent.podLabels", good: []any{map[string]any{"app.example.com/name": "x"}}, bad: []any{map[string]any{"app": "x"}, map[string]any{"app.kubernetes.io/component": "x"}}},
		{network: flannel, path: "agent.podLabels", bad: []any{map[string]any{"app": "x"}, map[string]any{"a b": "x"}}},
		{network: terway, path: "controller.podLabels", good: []any{map[string]any{"example.com/team": "x"}}, bad: []any{map[string]any{"a b": "x"}, map[string]any{strings.Repeat("x", 64): "x"}}},
		{network: terway, path: "agent.podAnnotations", good: []any{map[string]any{"example.com/a": "b c"}}, bad: []any{map[string]any{"a b": "x"}, map[string]any{"": "x"}, map[string]any{"/x": "x"}}},
		{network: terway, path: "controller.extraEnv", good: []any{env("TZ"), env("KUBERNETES_SERVICE_HOST")}, bad: []any{env("POD_NAMESPACE"), env("TZ", "TZ")}},
		{network: terway, path: "controller.extraEnv", bad: []any{env("KUBERNETES_SERVICE_HOST")}, beside: map[string]any{"apiServer.host": "10.0.0.1"}},
		{network: flannel, path: "agent.extraEnv", good: []any{env("TZ")}, bad: []any{env("NODE_NAME")}},
		{network: terway, path: "controller.extraVolumes", good: []any{env("mine")}, bad: []any{env("credentials"), env("mine", "mine")}},
		{network: terway, path: "agent.securityContext.capabilities.add", good: []any{[]any{"NET_ADMIN"}}, bad: []any{[]any{"CAP_NET_ADMIN"}, []any{"net_admin"}}},
		{network: terway, path: "metrics.rules.enabled", good: []any{true}},
		{network: terway, path: "metrics.rules.enabled", bad: []any{true}, beside: map[string]any{"metrics.enabled": false}},
		{network: terway, path: "controller.affinity", good: []any{nil}},
		{network: terway, path: "agent.affinity", good: []any{nil}},
		{network: terway, path: "uninstall.timeout", good: []any{"90s", "1h", "1h30m", "1h30m0s", "1h0m", "0h5m0s"}, bad: []any{"", "0s", "0h0m", "30", "1.5h", "100ms", "05m"}},
		{network: terway, path: "controller.sweepPeriod", good: []any{"90s", "1h30m", "0.5m"}, bad: []any{"banana", "10", "0s", ""}},
		{network: terway, path: "controller.nodeGoneDelay", good: []any{"1m", "60s", "90s", "100s", "1h", "1m30s"}, bad: []any{"59s", "0m", "900ms", "5"}},
		{network: terway, path: "controller.surplusAfter", good: []any{"0s", "5m"}, bad: []any{"", "soon"}},
		{network: terway, path: "controller.ecsEndpoint", good: []any{"", "ecs.example:443", "http://10.0.0.1"}, bad: []any{"ftp://x", "a b", "http://x/y"}},
		{network: terway, path: "controller.nodeSelector", good: []any{map[string]any{"kubernetes.io/os": "linux", "a": "b"}}, bad: []any{map[string]any{"kubernetes.io/os": "windows"}, map[string]any{"a": 1}}},
		{network: terway, path: "admission.port", good: []any{443, 10366}, bad: []any{0, 65536, 10362, 10363, 10364, 10367}},
		{network: terway, path: "controller.healthPort", good: []any{10369}, bad: []any{0, 10362, 10363}},
		{network: terway, path: "admission.port", good: []any{10364}, bad: []any{10369}, beside: map[string]any{"controller.healthPort": 10369}},
		{network: terway, path: "agent.seLinuxOptions", good: []any{map[string]any{"type": "spc_t", "level": "s0"}}, bad: []any{map[string]any{"label": "x"}, "spc_t"}},
		{network: terway, path: "metrics.agentPort", good: []any{10368}, bad: []any{0, 10362, 10365}},
		{network: terway, path: "policy.port", good: []any{10368}, bad: []any{0, 10365, 10364, 10367}, beside: map[string]any{"policy.enabled": true}},
	} {
		section, key, _ := strings.Cut(c.path, ".")
		key = key[strings.LastIndex(key, ".")+1:] // the schema separates by another sign
		check := func(v any, good bool) {
			paths := map[string]any{c.path: v}
			for k, v := range c.beside {
				paths[k] = v
			}
			values := with(c.network, paths)
			_, problem := helm.render(t, values)
			if good && problem != "" {
				t.Errorf("%s: %s %v is refused: %s", c.network, c.path, v, problem)
			}
			if !good && !strings.Contains(problem, key) && !(key == "region" && strings.Contains(problem, "cn-beijing")) {
				t.Errorf("%s: %s %v is not refused by its name: %q", c.network, c.path, v, problem)
			}
			if section != "eniConfig" {
				return
			}
			text, err := yaml.Marshal(values["eniConfig"])
			if err != nil {
				t.Fatal(err)
			}
			if _, err := config.Parse(text); (err == nil) != good {
				t.Errorf("%s: %s %v: want it to be taken: %v, but the controller says %v", c.network, c.path, v, good, err)
			}
		}
		for _, v := range c.good {
			check(v, true)
		}
		for _, v := range c.bad {
			check(v, false)
		}
	}
}

// What the API server refuses together is not rendered together, because one of the two is a default that nobody has written.
func TestDefaultsYield(t *testing.T) {
	got := objects(t, with("terway", map[string]any{
		"controller.podDisruptionBudget": map[string]any{"minAvailable": 1},
		"controller.updateStrategy":      map[string]any{"type": "Recreate"},
		"agent.updateStrategy":           map[string]any{"type": "OnDelete"},
		"agent.securityContext":          map[string]any{"privileged": true},
		"controller.securityContext":     map[string]any{"privileged": true},
	}))
	var budget policyv1.PodDisruptionBudget
	into(t, got["PodDisruptionBudget terway-controller"], &budget)
	if budget.Spec.MinAvailable == nil || budget.Spec.MinAvailable.IntValue() != 1 || budget.Spec.MaxUnavailable != nil {
		t.Errorf("budget %+v", budget.Spec)
	}
	var controller appsv1.Deployment
	into(t, got["Deployment terway-controller"], &controller)
	if s := controller.Spec.Strategy; s.Type != appsv1.RecreateDeploymentStrategyType || s.RollingUpdate != nil {
		t.Errorf("the controller's updates: %+v", s)
	}
	var agent appsv1.DaemonSet
	into(t, got["DaemonSet terwayd"], &agent)
	if s := agent.Spec.UpdateStrategy; s.Type != appsv1.OnDeleteDaemonSetStrategyType || s.RollingUpdate != nil {
		t.Errorf("the agents' updates: %+v", s)
	}
	for name, pod := range map[string]corev1.PodSpec{"controller": controller.Spec.Template.Spec, "agent": agent.Spec.Template.Spec} {
		if s := pod.Containers[0].SecurityContext; s.Privileged == nil || !*s.Privileged || s.AllowPrivilegeEscalation != nil || s.ReadOnlyRootFilesystem == nil {
			t.Errorf("%s: %+v", name, s)
		}
	}
	var flannel appsv1.DaemonSet
	into(t, objects(t, with("flannel", map[string]any{"agent.updateStrategy": map[string]any{"type": "OnDelete"}}))["DaemonSet kube-flannel"], &flannel)
	if s := flannel.Spec.UpdateStrategy; s.Type != appsv1.OnDeleteDaemonSetStrategyType || s.RollingUpdate != nil {
		t.Errorf("flanneld's updates: %+v", s)
	}
}

// With SELinux a container writes folders of the node only with the label that it is given: each that has such folders gets it.
func TestSELinux(t *testing.T) {
	for _, c := range []struct {
		values map[string]any
		names  []string
		want   []string // containers with folders of the node
	}{
		{with("terway", map[string]any{"agent.seLinuxOptions": map[string]any{"type": "spc_t"}}), []string{"DaemonSet terwayd", "Deployment terway-controller"}, []string{"terwayd"}},
		{with("flannel", map[string]any{"agent.seLinuxOptions": map[string]any{"type": "spc_t"}, "flannel.nftables": false}), []string{"DaemonSet kube-flannel", "Deployment terway-controller"}, []string{"kube-flannel", "cni"}},
	} {
		var got []string
		all := objects(t, c.values)
		for _, name := range c.names {
			pod := podOf(t, all[name]).Spec
			host := map[string]bool{}
			for _, v := range pod.Volumes {
				host[v.Name] = v.HostPath != nil
			}
			for _, container := range slices.Concat(pod.InitContainers, pod.Containers) {
				has := slices.ContainsFunc(container.VolumeMounts, func(m corev1.VolumeMount) bool { return host[m.Name] })
				labelled := container.SecurityContext.SELinuxOptions != nil && container.SecurityContext.SELinuxOptions.Type == "spc_t"
				if has != labelled {
					t.Errorf("%s, container %s: folders of the node: %v; the label: %v", name, container.Name, has, labelled)
				}
				if has {
					got = append(got, container.Name)
				}
				if container.SecurityContext.ReadOnlyRootFilesystem == nil && container.Name != "kube-flannel" {
					t.Errorf("%s, container %s: the rest of its securityContext is gone", name, container.Name)
				}
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("containers with folders of the node: %q, want %q", got, c.want)
		}
	}
}

// After an installation people are told what to do next, and with an access key in the values that it is in the release.
func TestNotes(t *testing.T) {
	const file, release = "terway/templates/NOTES.txt", "The access key is in Helm's release too"
	for _, c := range []struct {
		values  map[string]any
		has, no []string
	}{
		{with("terway", nil), []string{"kubectl -n kube-system rollout status deployment/terway-controller daemonset/terwayd", "terwayctl status\n"}, []string{release}},
		{with("flannel", nil), []string{"daemonset/kube-flannel"}, []string{"terwayctl status"}},
		{with("terway", map[string]any{"credentials.existingSecret": "", "credentials.accessKeyID": "id", "credentials.accessKeySecret": "hidden"}), []string{release}, []string{"hidden"}},
	} {
		files, problem := helm.render(t, c.values)
		for _, s := range c.has {
			if !strings.Contains(files[file], s) {
				t.Errorf("%q is not in the notes: %s%s", s, files[file], problem)
			}
		}
		for _, s := range c.no {
			if strings.Contains(files[file], s) {
				t.Errorf("%q is in the notes: %s", s, files[file])
			}
		}
	}
}
