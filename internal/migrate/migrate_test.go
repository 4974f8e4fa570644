package migrate

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/datapath/claims"
)

// daemonSet returns one whose only container runs a program.
func daemonSet(namespace, name, command string, args ...string) appsv1.DaemonSet {
	d := appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	d.Spec.Template.Spec.Containers = []corev1.Container{{Command: []string{command}, Args: args}}
	return d
}

func node(name string, labels map[string]string) corev1.Node {
	return corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: corev1.NodeSpec{ProviderID: "cn-hangzhou.i-" + name}}
}

// pod returns one of a ReplicaSet.
func pod(name, on string) corev1.Pod {
	controller := true
	return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Controller: &controller}}},
		Spec: corev1.PodSpec{NodeName: on}, Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: "10.244.1.7"}}}}
}

// flannel returns a cluster of two nodes with upstream's Flannel.
func flannel(backend string) *Objects {
	return &Objects{
		Namespace:  "kube-system",
		DaemonSets: []appsv1.DaemonSet{daemonSet("kube-flannel", "kube-flannel-ds", "/opt/bin/flanneld", "--ip-masq", "--kube-subnet-mgr"), daemonSet("kube-system", "kube-proxy", "kube-proxy")},
		Nodes:      []corev1.Node{node("b", nil), node("a", nil)},
		Pods:       []corev1.Pod{pod("web", "a")},
		ConfigMaps: []corev1.ConfigMap{{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-flannel", Name: "kube-flannel-cfg"},
			Data: map[string]string{"net-conf.json": fmt.Sprintf(`{"Network": "10.244.0.0/16", "Backend": {"Type": %q}}`, backend)}}},
	}
}

// terway returns a cluster with the existing Terway; conf are further keys of its eni_conf.
func terway(conf, noPolicy string) *Objects {
	o := flannel("")
	o.Namespace = "terway-system"
	o.DaemonSets = []appsv1.DaemonSet{daemonSet("kube-system", "terway-eniip", "/usr/bin/terwayd", "-log-level", "info")}
	data := map[string]string{
		"eni_conf":       `{"version": "1", "region_id": "cn-hangzhou", "service_cidr": "172.21.0.0/20", "security_group": "sg-1", "vswitches": {"cn-hangzhou-i": ["vsw-1"]}, "eni_tags": {"ack.aliyun.com": "c1"}, "max_pool_size": 5, "credential_path": "/var/addon/token-config"` + conf + `}`,
		"10-terway.conf": `{"cniVersion": "0.4.0", "name": "terway", "type": "terway", "capabilities": {"bandwidth": true}}`,
	}
	if noPolicy != "" {
		data["disable_network_policy"] = noPolicy
	}
	o.ConfigMaps = []corev1.ConfigMap{{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "eni-config"}, Data: data}}
	return o
}

func plan(t *testing.T, o *Objects, ask Ask) *Plan {
	t.Helper()
	p, err := Make(o, ask)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSource(t *testing.T) {
	own := flannel("alloc")
	own.DaemonSets[0].Spec.Template.Labels = map[string]string{"app.kubernetes.io/name": "terway"}
	none, two := flannel("alloc"), flannel("alloc")
	none.DaemonSets = none.DaemonSets[1:]
	two.DaemonSets = append(two.DaemonSets, daemonSet("kube-system", "terway-eniip", "/usr/bin/terwayd"))
	for name, c := range map[string]struct {
		o    *Objects
		want Source
		err  string
	}{
		"flannel": {flannel("vxlan"), Flannel, ""},
		"terway":  {terway("", "true"), ExistingTerway, ""},
		"own":     {own, "", "own chart"},
		"none":    {none, "", "neither"},
		"two":     {two, "", "two networks, DaemonSets kube-flannel/kube-flannel-ds and kube-system/terway-eniip"},
	} {
		p, err := Make(c.o, Ask{})
		switch {
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s: error %v, want %q", name, err, c.err)
		case c.err == "" && (err != nil || p.From != c.want):
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}

// What is lost, by cluster.
func TestLosses(t *testing.T) {
	with := func(o *Objects, change func(*Objects)) *Objects { change(o); return o }
	for name, c := range map[string]struct {
		o    *Objects
		want string
	}{
		"flannel by routes":        {flannel("alloc"), ""},
		"flannel by tunnels":       {flannel("vxlan"), "traffic-between-networks"},
		"flannel, backend unknown": {with(flannel("alloc"), func(o *Objects) { o.ConfigMaps = nil }), "traffic-between-networks"},
		"canal": {with(flannel("alloc"), func(o *Objects) {
			o.DaemonSets[0].Name, o.Others = "canal", map[string]int{"globalnetworkpolicies.crd.projectcalico.org": 2, "networkpolicies.crd.projectcalico.org": 1}
		}), "calico-policy network-policy"},
		"canal, policies on": {with(flannel("alloc"), func(o *Objects) { o.DaemonSets[0].Name, o.PolicyEnabled = "canal", true }), ""},
		"canal, installed without policies": {with(flannel("alloc"), func(o *Objects) {
			o.DaemonSets[0].Name, o.PolicyEnabled = "canal", true
			Confine(&o.DaemonSets[0].Spec.Template.Spec)
			o.Nodes[1].Labels = map[string]string{claims.LabelIgnore: "true"}
			o.DaemonSets = append(o.DaemonSets, daemonSet("kube-system", "terwayd", "/usr/bin/terwayd"))
		}), "network-policy"},
		"canal, installed with policies": {with(flannel("alloc"), func(o *Objects) {
			o.DaemonSets[0].Name = "canal"
			Confine(&o.DaemonSets[0].Spec.Template.Spec)
			o.Nodes[1].Labels = map[string]string{claims.LabelIgnore: "true"}
			o.DaemonSets = append(o.DaemonSets, daemonSet("kube-system", "terwayd", "/usr/bin/terwayd", "--policy-hub=terway-policy"))
		}), ""},
		"pods": {with(flannel("alloc"), func(o *Objects) {
			alone, local, six, host, job := pod("alone", "a"), pod("local", "b"), pod("six", "b"), pod("host", "b"), pod("job", "b")
			job.OwnerReferences[0].Kind = "Job"
			alone.OwnerReferences = nil
			local.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
			six.Status.PodIPs = append(six.Status.PodIPs, corev1.PodIP{IP: "fd00::7"})
			host.OwnerReferences, host.Spec.HostNetwork = nil, true
			o.Pods = append(o.Pods, alone, local, six, host, job)
		}), "bare-pods ipv6 job-progress local-data"},
		"only the host's pods": {with(flannel("alloc"), func(o *Objects) {
			host, done, static := pod("host", "b"), pod("done", "b"), pod("static", "b")
			host.OwnerReferences, host.Spec.HostNetwork = nil, true
			done.OwnerReferences, done.Status.Phase = nil, corev1.PodSucceeded
			static.OwnerReferences, static.Annotations = nil, map[string]string{corev1.MirrorPodAnnotationKey: "x"}
			o.Pods = append(o.Pods, host, done, static)
		}), ""},
		"terway, no policies":  {terway("", "true"), "attached-enis node-leftovers"},
		"terway, policies":     {terway("", ""), "attached-enis network-policy node-leftovers"},
		"terway, policies on":  {with(terway("", "false"), func(o *Objects) { o.PolicyEnabled = true }), "attached-enis node-leftovers"},
		"terway, trunk, pools": {terway(`, "enable_eni_trunking": true, "ip_warm_up_size": 3, "eni_cap_ratio": 1`, "true"), "attached-enis enable_eni_trunking ip_warm_up_size node-leftovers"},
		"terway, objects": {with(terway("", "true"), func(o *Objects) {
			o.Others = map[string]int{"podnetworkings.network.alibabacloud.com": 1, "ciliumnetworkpolicies.cilium.io": 1}
			o.Nodes[0].Labels = map[string]string{"terway-config": "eni-config-b"}
			p := pod("member", "a")
			p.Spec.Containers = []corev1.Container{{Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"aliyun/member-eni": resource.MustParse("1")}}}}
			o.Pods = append(o.Pods, p)
		}), "attached-enis cilium-policy node-config node-leftovers pod-networking trunk-eni"},
	} {
		p := plan(t, c.o, Ask{})
		if got := strings.Join(p.names(), " "); got != c.want {
			t.Errorf("%s: lost %q, want %q", name, got, c.want)
		}
		for _, l := range p.Losses {
			if l.Why == "" {
				t.Errorf("%s: %s without a reason", name, l.Name)
			}
		}
		if len(p.Problems) > 0 {
			t.Errorf("%s: problems %q", name, p.Problems)
		}
	}
}

// The ConfigMap as Container Service writes it today, with and without policies: trunks are on in every cluster.
func TestLossesOfContainerService(t *testing.T) {
	for policy, more := range map[string][]string{"true": nil, "false": {"network-policy"}} {
		o := terway("", "")
		o.ConfigMaps[0].Data = map[string]string{
			"10-terway.conf":         `{"cniVersion": "0.4.0", "name": "terway", "capabilities": {"bandwidth": true}, "network_policy_provider": "ebpf", "eniip_virtual_type": "datapathv2", "host_stack_cidrs": ["169.254.20.10/32"], "type": "terway"}`,
			"disable_network_policy": policy,
			"in_cluster_loadbalance": "true",
			"eni_conf": `{"version": "1", "max_pool_size": 5, "min_pool_size": 0, "credential_path": "/var/addon/token-config", "enable_eni_trunking": true, "ipam_type": "crd",
				"vswitches": {"cn-hangzhou-h": ["vsw-1"], "cn-hangzhou-i": ["vsw-2"]}, "eni_tags": {"ack.aliyun.com": "c1"}, "service_cidr": "192.168.0.0/16", "security_group": "sg-1",
				"ip_stack": "ipv4", "resource_group_id": "rg-1", "vswitch_selection_policy": "ordered"}`,
		}
		p := plan(t, o, Ask{})
		want := slices.Sorted(slices.Values(append([]string{"attached-enis", "enable_eni_trunking", "in_cluster_loadbalance", "node-leftovers", "resource_group_id"}, more...)))
		if !slices.Equal(p.names(), want) || len(p.Problems) > 0 {
			t.Errorf("disable_network_policy %s: lost %q, want %q; problems %q", policy, p.names(), want, p.Problems)
		}
	}
}

func TestAccept(t *testing.T) {
	o := terway(`, "ip_warm_up_size": 3`, "false")
	missing, err := plan(t, o, Ask{}).Accept([]string{"network-policy"})
	if err != nil || !slices.Equal(missing, []string{"attached-enis", "ip_warm_up_size", "node-leftovers"}) {
		t.Errorf("missing %q, %v", missing, err)
	}
	p := plan(t, o, Ask{})
	if missing, err := p.Accept([]string{"network-policy", "attached-enis", "ip_warm_up_size", "node-leftovers"}); err != nil || len(missing) > 0 || !p.Losses[0].Accepted {
		t.Errorf("missing %q, %v, %+v", missing, err, p.Losses)
	}
	if _, err := plan(t, o, Ask{}).Accept([]string{"ipv8"}); err == nil || !strings.Contains(err.Error(), "attached-enis, ip_warm_up_size, network-policy") {
		t.Errorf("a loss that is none: %v", err)
	}
	// What is always converted, no cluster loses.
	for _, name := range []string{"version", "service_cidr", "plugin portmap"} {
		if _, err := plan(t, o, Ask{}).Accept([]string{name}); err == nil {
			t.Errorf("%s is taken for a loss", name)
		}
	}
	// One list serves for all nodes, and for the call after a key was removed.
	p = plan(t, flannel("vxlan"), Ask{})
	list := []string{"bare-pods", "local-data", "traffic-between-networks", "calico-policy", "ip_warm_up_size", "plugin banana"}
	if missing, err := p.Accept(list); err != nil || len(missing) > 0 || !strings.Contains(strings.Join(p.Notices, "\n"), "--accept-lost bare-pods: nothing of that is lost here") {
		t.Errorf("what is not lost: missing %q, %v, notices %q", missing, err, p.Notices)
	}
}

func TestProblems(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Objects)
		want   string
	}{
		"no instance":   {func(o *Objects) { o.Nodes[0].Spec.ProviderID = "" }, "node b has no providerID"},
		"other ignore":  {func(o *Objects) { o.Nodes[0].Labels = map[string]string{claims.LabelOtherIgnore: "true"} }, claims.LabelOtherIgnore},
		"one namespace": {func(o *Objects) { o.Namespace = "kube-system" }, "--terway-namespace"},
		"no ConfigMap":  {func(o *Objects) { o.ConfigMaps = nil }, "not found"},
		"not JSON":      {func(o *Objects) { o.ConfigMaps[0].Data["eni_conf"] = "{" }, "eni_conf"},
		"too early": {func(o *Objects) {
			o.DaemonSets = append(o.DaemonSets, daemonSet("terway-system", "terwayd", "/usr/bin/terwayd"))
		}, "uninstall it"},
		"another's map": {func(o *Objects) { o.ConfigMaps[0].Namespace = "terway-system" }, "not found"},
		"too many pods": {func(o *Objects) {
			o.Nodes[1].Labels = map[string]string{corev1.LabelInstanceTypeStable: "ecs.g6.large"}
			for i := range 30 {
				o.Pods = append(o.Pods, pod(fmt.Sprint("web", i), "a"))
			}
		}, "node a runs 31 pods"},
	} {
		o := terway("", "true")
		c.change(o)
		p := plan(t, o, Ask{})
		if len(p.Problems) != 1 || !strings.Contains(p.Problems[0], c.want) {
			t.Errorf("%s: problems %q, want one with %q", name, p.Problems, c.want)
		}
	}
}

// A node's room is that of the mode that it will have.
func TestRoom(t *testing.T) {
	exclusive := &config.Config{Mode: claims.ModeExclusive}
	for name, c := range map[string]struct {
		pods, alone int
		labels      map[string]string
		config      *config.Config
		installed   string
		want        string
	}{
		// An ecs.g6.2xlarge has 3 ENIs for pods, of 10 addresses each.
		"shared":                    {pods: 30},
		"shared, too many":          {pods: 31, want: "has addresses for 30"},
		"exclusive":                 {pods: 3, config: exclusive},
		"exclusive, too many":       {pods: 4, config: exclusive, want: "runs 4 pods, of which 4 need an exclusive ENI"},
		"the node's label":          {pods: 4, labels: map[string]string{claims.LabelMode: claims.ModeExclusive}, want: "in mode exclusive, ENIs for 3 pods"},
		"the label of the other":    {pods: 4, labels: map[string]string{claims.LabelOtherMode: claims.OtherModeExclusive}, want: "in mode exclusive, ENIs for 3 pods"},
		"one exclusive ENI":         {pods: 21, alone: 1, config: &config.Config{Mode: claims.ModeShared, ExclusiveENIs: 1}},
		"one, others too many":      {pods: 21, config: &config.Config{Mode: claims.ModeShared, ExclusiveENIs: 1}, want: "addresses for 20 others"},
		"pods ask, there are none":  {pods: 2, alone: 1, want: "of which 1 need an exclusive ENI"},
		"installed":                 {pods: 4, installed: "mode: exclusive", want: "runs 4 pods, of which 4"},
		"installed, not the values": {pods: 4, config: exclusive, installed: "mode: shared"},
		"installed, cannot be read": {pods: 4, installed: "mode: alone", want: "ConfigMap kube-system/eni-config: "},
	} {
		o := flannel("alloc")
		o.Pods, o.Config = nil, c.config
		o.Nodes[1].Labels = map[string]string{corev1.LabelInstanceTypeStable: "ecs.g6.2xlarge", claims.LabelIgnore: "true"}
		maps.Copy(o.Nodes[1].Labels, c.labels)
		for i := range c.pods {
			p := pod(fmt.Sprint("p", i), "a")
			if i < c.alone {
				p.Annotations = map[string]string{claims.AnnotationExclusiveENI: "true"}
			}
			o.Pods = append(o.Pods, p)
		}
		if c.installed != "" {
			Confine(&o.DaemonSets[0].Spec.Template.Spec)
			o.DaemonSets = append(o.DaemonSets, daemonSet("kube-system", "terwayd", "/usr/bin/terwayd"))
			text := "cluster_id: c1\nregion: cn-hangzhou\nservice_cidr: 172.21.0.0/20\nvswitches: {cn-hangzhou-i: [vsw-1]}\nsecurity_groups: [sg-1]\n" + c.installed + "\n"
			o.ConfigMaps = append(o.ConfigMaps, corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "eni-config"}, Data: map[string]string{config.ConfigMapKey: text}})
		}
		problems := plan(t, o, Ask{Nodes: []string{"a"}}).Problems
		if got := strings.Join(problems, "\n"); (c.want == "") != (got == "") || !strings.Contains(got, c.want) || len(problems) > 1 {
			t.Errorf("%s: problems %q, want %q", name, problems, c.want)
		}
		// There is room with the old network, whatever Terway's configuration says.
		if c.installed != "" {
			if back := plan(t, o, Ask{Nodes: []string{"a"}, Back: true}).Problems; len(back) > 0 {
				t.Errorf("%s: back: problems %q", name, back)
			}
		}
	}
}

// Changes that lose nothing are told.
func TestNotices(t *testing.T) {
	o := flannel("alloc")
	o.Policies, o.PolicyEnabled = 4, true
	o.Nodes[1].Labels = map[string]string{corev1.LabelInstanceTypeStable: "ecs.g6.large"}
	o.Nodes[1].Status.Allocatable = corev1.ResourceList{corev1.ResourcePods: resource.MustParse("110")}
	got := strings.Join(plan(t, o, Ask{}).Notices, "\n")
	for _, want := range []string{"node a may run 110 pods", "4 NetworkPolicies that had no effect", "addresses must have the Pod vSwitches"} {
		if !strings.Contains(got, want) {
			t.Errorf("notices\n%s\nwant %q", got, want)
		}
	}
	if got := plan(t, o, Ask{Nodes: []string{"b"}}).Notices; strings.Contains(strings.Join(got, " "), "node a") {
		t.Errorf("of a node that does not change: %q", got)
	}
}

// The label says whose a node is, as soon as the old network is confined to it.
func TestNodes(t *testing.T) {
	o := flannel("alloc")
	ignored := map[string]string{claims.LabelIgnore: "true"}
	o.Nodes = []corev1.Node{node("d", nil), node("c", ignored), node("b", nil), node("a", ignored),
		node("win", map[string]string{corev1.LabelOSStable: "windows"}), node("vk", map[string]string{claims.LabelNodeType: claims.VirtualNode})}
	o.Nodes[0].Annotations = map[string]string{AnnotationMigrating: SchedulableBefore}
	states := func(p *Plan) string {
		var all []string
		for _, n := range p.Nodes {
			all = append(all, n.Name+":"+string(n.State))
		}
		return strings.Join(all, " ")
	}
	if got := states(plan(t, o, Ask{})); got != "a:old b:old c:old d:changing" {
		t.Errorf("before: %s", got)
	}
	Confine(&o.DaemonSets[0].Spec.Template.Spec)
	p := plan(t, o, Ask{})
	if got := states(p); got != "a:old b:terway c:old d:changing" || !p.Confined {
		t.Errorf("confined: %s, %v", got, p.Confined)
	}
	for _, c := range []struct {
		ask  Ask
		want string
	}{
		{Ask{}, "a c d"},
		{Ask{Nodes: []string{"c", "b"}}, "c"},
		{Ask{Nodes: []string{"b", "d", "a"}, Back: true}, "b d"},
	} {
		if got := strings.Join(plan(t, o, c.ask).Change, " "); got != c.want {
			t.Errorf("%+v: %s, want %s", c.ask, got, c.want)
		}
	}
	if _, err := Make(o, Ask{Nodes: []string{"win"}}); err == nil || !strings.Contains(err.Error(), "--nodes win") {
		t.Errorf("a node that cannot migrate: %v", err)
	}
}

// A way back loses only what a drain loses.
func TestBack(t *testing.T) {
	o := terway(`, "ip_warm_up_size": 3`, "false")
	Confine(&o.DaemonSets[0].Spec.Template.Spec)
	o.Pods[0].OwnerReferences = nil
	o.Pods[0].Status.PodIPs = append(o.Pods[0].Status.PodIPs, corev1.PodIP{IP: "fd00::7"})
	if p := plan(t, o, Ask{Nodes: []string{"a"}, Back: true}); len(p.Problems) != 1 || !strings.Contains(p.Problems[0], "--terway-namespace") {
		t.Errorf("not installed: problems %q", p.Problems)
	}
	o.DaemonSets = append(o.DaemonSets, daemonSet("terway-system", "terwayd", "/usr/bin/terwayd"))
	p := plan(t, o, Ask{Nodes: []string{"a"}, Back: true})
	if got := strings.Join(p.names(), " "); got != "bare-pods" || len(p.Problems) > 0 {
		t.Errorf("lost %q, problems %q", got, p.Problems)
	}
}

// Terms are alternatives: each is confined, and what they said before stays.
func TestConfine(t *testing.T) {
	linux := corev1.NodeSelectorRequirement{Key: corev1.LabelOSStable, Operator: corev1.NodeSelectorOpIn, Values: []string{"linux"}}
	term := func(r ...corev1.NodeSelectorRequirement) corev1.NodeSelectorTerm {
		return corev1.NodeSelectorTerm{MatchExpressions: r}
	}
	for name, terms := range map[string][]corev1.NodeSelectorTerm{"none": nil, "one": {term(linux)}, "two": {term(linux), term(ours())}} {
		var spec corev1.PodSpec
		if terms != nil {
			spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: terms}}}
		}
		if Confined(&spec) {
			t.Errorf("%s: confined before", name)
		}
		Confine(&spec)
		first := fmt.Sprint(termsOf(&spec))
		Confine(&spec)
		if !Confined(&spec) || fmt.Sprint(termsOf(&spec)) != first || len(termsOf(&spec)) != max(1, len(terms)) {
			t.Errorf("%s: %v", name, termsOf(&spec))
		}
		if name == "one" && len(termsOf(&spec)[0].MatchExpressions) != 2 {
			t.Errorf("%s: %v", name, termsOf(&spec))
		}
	}
}

func TestTolerates(t *testing.T) {
	for _, c := range []struct {
		t    corev1.Toleration
		want bool
	}{
		{corev1.Toleration{Operator: corev1.TolerationOpExists}, true},
		{corev1.Toleration{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}, true},
		{corev1.Toleration{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}, false},
		{corev1.Toleration{Key: claims.TaintNotReady, Operator: corev1.TolerationOpExists}, true},
		{corev1.Toleration{Key: claims.TaintNotReady}, true},
		{corev1.Toleration{Key: claims.TaintNotReady, Value: "x"}, false},
		{corev1.Toleration{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists}, false},
		{corev1.Toleration{}, false},
	} {
		if got := Tolerates(&corev1.Pod{Spec: corev1.PodSpec{Tolerations: []corev1.Toleration{c.t}}}); got != c.want {
			t.Errorf("%+v: %v", c.t, got)
		}
	}
}

// Every step says what it does, and a node ends as it began: schedulable or not.
func TestSteps(t *testing.T) {
	for _, steps := range [][]Step{Forward(), Back()} {
		for _, s := range steps {
			if s.About() == "" {
				t.Errorf("%s: no text", s)
			}
		}
		if steps[0] != Cordon || steps[1] != Drain || !slices.Contains(steps, Uncordon) {
			t.Errorf("%v", steps)
		}
	}
}
