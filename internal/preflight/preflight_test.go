package preflight

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/migrate"
)

// ready returns facts of which nothing is wrong: two nodes in two zones, each an ecs.g6.large, which holds 6 pods.
func ready(t *testing.T) *Facts {
	t.Helper()
	conf, err := config.Parse([]byte(`{cluster_id: c, region: cn-hangzhou, service_cidr: 172.21.0.0/20, security_groups: [sg-1],
		vswitches: {cn-hangzhou-i: [vsw-1, vsw-2], cn-hangzhou-j: [vsw-3]}}`))
	if err != nil {
		t.Fatal(err)
	}
	f := &Facts{Namespace: "kube-system", Config: conf, Image: "r.example.com/terway:v1.2.3", ChartImage: "terway.local/terway:dev", Cloud: &Cloud{Controllers: true,
		Instances: map[string]cloud.Instance{}, VSwitches: map[string]cloud.VSwitch{
			"vsw-1": {ID: "vsw-1", Zone: "cn-hangzhou-i", Available: 0}, "vsw-2": {ID: "vsw-2", Zone: "cn-hangzhou-i", Available: 100}, "vsw-3": {ID: "vsw-3", Zone: "cn-hangzhou-j", Available: 100},
		}, Groups: map[string]cloud.SecurityGroup{"sg-1": {ID: "sg-1", Free: 2000}}}}
	for i, zone := range []string{"cn-hangzhou-i", "cn-hangzhou-j"} {
		name, address := fmt.Sprint("node", i), fmt.Sprint("192.168.0.", i+1)
		n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{ProviderID: "cn-hangzhou.i-" + name}}
		n.Status.NodeInfo.KernelVersion = "5.10.134-16.1.al8.x86_64"
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}, {Type: corev1.NodeInternalIP, Address: address}}
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionFalse}}
		n.Status.Capacity = corev1.ResourceList{corev1.ResourcePods: *resource.NewQuantity(9, resource.DecimalSI)}
		f.Nodes = append(f.Nodes, n)
		f.Cloud.Instances["i-"+name] = cloud.Instance{ID: "i-" + name, Type: "ecs.g6.large", Zone: zone, VPCID: "vpc-1", Addresses: []netip.Addr{netip.MustParseAddr(address)}}
		f.Pods = append(f.Pods, corev1.Pod{Spec: corev1.PodSpec{NodeName: name, HostNetwork: true}}, corev1.Pod{Spec: corev1.PodSpec{NodeName: name}})
	}
	return f
}

// told returns the problems of all checks, "CHECK: PROBLEM".
func told(f *Facts) []string {
	var all []string
	for _, c := range Judge(f, nil) {
		for _, p := range c.Problems {
			all = append(all, c.Name+": "+p)
		}
	}
	return all
}

// Each thing that is wrong fails one check, which names it; without it none fails.
func TestProblems(t *testing.T) {
	clb := Balancer{Product: "CLB", Refused: Refused{"slb:DescribeLoadBalancers", "Forbidden.RAM: no"}, Forbidden: true}
	if got := told(ready(t)); len(got) > 0 {
		t.Fatalf("nothing is wrong: %q", got)
	}
	set := func(namespace, name string) appsv1.DaemonSet {
		return appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	}
	confined := set("kube-flannel", "kube-flannel-ds")
	migrate.Confine(&confined.Spec.Template.Spec)
	change := func(f *Facts, id string, how func(*cloud.Instance)) {
		i := f.Cloud.Instances[id]
		how(&i)
		f.Cloud.Instances[id] = i
	}
	for name, c := range map[string]struct {
		change func(*Facts)
		want   string // "": nothing is wrong
	}{
		"rights":            {func(f *Facts) { f.Denied = []string{"create clusterroles.rbac.authorization.k8s.io"} }, "rights: you may not create clusterroles"},
		"another network":   {func(f *Facts) { f.DaemonSets = append(f.DaemonSets, set("kube-system", "calico-node")) }, "other-network: DaemonSet kube-system/calico-node is another network"},
		"one that migrates": {func(f *Facts) { f.DaemonSets = append(f.DaemonSets, confined) }, ""},
		"another Terway":    {func(f *Facts) { f.DaemonSets = append(f.DaemonSets, set("terway-system", "terwayd")) }, "other-network: Terway is installed in namespace terway-system already: give --terway-namespace terway-system"},
		"Ready beforehand":  {func(f *Facts) { f.Nodes[0].Status.Conditions[0].Status = corev1.ConditionTrue }, "other-network: node node0 is Ready without Terway"},
		"Ready, an upgrade": {func(f *Facts) { f.Nodes[0].Status.Conditions[0].Status, f.Upgrade = corev1.ConditionTrue, true }, ""},
		"Calico's API":      {func(f *Facts) { f.CalicoServer, f.PolicyEnabled = "calico-apiserver/calico-api", true }, "calico-api: the API projectcalico.org/v3 is served by Service calico-apiserver/calico-api"},
		"Calico's, unused":  {func(f *Facts) { f.CalicoServer = "calico-apiserver/calico-api" }, ""},
		"no node":           {func(f *Facts) { f.Nodes = nil }, "nodes: the cluster has no Linux node"},
		"no node yet":       {func(f *Facts) { f.Nodes, f.DaemonSets = nil, append(f.DaemonSets, confined) }, ""},
		"no providerID":     {func(f *Facts) { f.Nodes[0].Spec.ProviderID = "" }, `nodes: node node0: providerID "": want region.instance`},
		"the same providerID": {func(f *Facts) {
			f.Nodes[1].Spec.ProviderID, f.Nodes[1].Status.Addresses = f.Nodes[0].Spec.ProviderID, f.Nodes[0].Status.Addresses
		}, "nodes: nodes node0 and node1 have the same instance i-node0"},
		"another region": {func(f *Facts) { f.Nodes[0].Spec.ProviderID = "alicloud://cn-beijing.i-node0" }, "nodes: node node0 is in region cn-beijing (providerID), and eniConfig.region is cn-hangzhou"},
		"ignored": {func(f *Facts) {
			f.Nodes[0].Spec.ProviderID, f.Nodes[0].Labels = "", map[string]string{claims.LabelIgnore: "true"}
		}, ""},
		"an old kernel":      {func(f *Facts) { f.Nodes[0].Status.NodeInfo.KernelVersion = "4.18.0-372.el8" }, "kernel: node node0 has Linux 4.18.0-372.el8, and Terway needs 4.19 or newer"},
		"4.19":               {func(f *Facts) { f.Nodes[0].Status.NodeInfo.KernelVersion = "4.19.91-27.al7" }, ""},
		"4.19 with policies": {func(f *Facts) { f.Nodes[0].Status.NodeInfo.KernelVersion, f.PolicyEnabled = "4.19.91-27.al7", true }, "kernel: node node0 has Linux 4.19.91-27.al7, and policy.enabled needs 5.10"},
		"5.10 with netkit":   {func(f *Facts) { f.Config.Datapath, f.Nodes = "netkit", f.Nodes[:1] }, "and eniConfig.datapath netkit needs 6.8"},
		"5.4 with ebpf":      {func(f *Facts) { f.Config.Datapath, f.Nodes[0].Status.NodeInfo.KernelVersion = "ebpf", "5.4-rc1" }, "has Linux 5.4-rc1, and eniConfig.datapath ebpf needs 5.10"},
		"maxPods":            {func(f *Facts) { f.Nodes[0].Status.Capacity[corev1.ResourcePods] = resource.MustParse("110") }, "max-pods: node node0: kubelet's maxPods is 110, and the ENIs of its instance type ecs.g6.large have addresses for"},
		"maxPods, label": {func(f *Facts) {
			f.Nodes = f.Nodes[:1]
			f.Nodes[0].Labels = map[string]string{claims.LabelMode: claims.ModeExclusive}
		}, "max-pods: node node0: kubelet's maxPods is 9"},
		"maxPods, other limits in the cloud": {func(f *Facts) {
			f.Nodes, f.Cloud.Types = f.Nodes[:1], map[string]cloud.InstanceType{"ecs.g6.large": {ENIs: 2, IPv4PerENI: 5}}
		}, "max-pods: node node0: kubelet's maxPods is 9, and the ENIs of its instance type ecs.g6.large have addresses for 5 pods"},
		"maxPods, exclusive": {func(f *Facts) { f.Config.Mode = claims.ModeExclusive; f.Nodes = f.Nodes[:1] }, "max-pods: node node0: kubelet's maxPods is 9"},
		"no image":           {func(f *Facts) { f.Image = "terway.local/terway:dev" }, "image: no registry has terway.local/terway:dev, and node node0 does not have it either: name yours with the values image.repository"},
		"one node's image": {func(f *Facts) {
			f.Image, f.Nodes[0].Status.Images = "terway.local/terway:dev", []corev1.ContainerImage{{Names: []string{"terway.local/terway:dev"}}}
		}, "image: no registry has terway.local/terway:dev, and node node1 does not"},
		"the nodes' image": {func(f *Facts) {
			f.Image = "terway.local/terway:dev@sha256:1"
			for i := range f.Nodes {
				f.Nodes[i].Status.Images = []corev1.ContainerImage{{Names: []string{"terway.local/terway:dev", "terway.local/terway@sha256:1"}}}
			}
		}, ""},
		"another digest": {func(f *Facts) {
			f.Image = "terway.local/terway:dev@sha256:1"
			for i := range f.Nodes {
				f.Nodes[i].Status.Images = []corev1.ContainerImage{{Names: []string{"terway.local/terway:dev", "terway.local/terway@sha256:2"}}}
			}
		}, "image: no registry has terway.local/terway:dev@sha256:1"},
		"no image, and all nodes have another network": {func(f *Facts) {
			f.Image, f.DaemonSets = "terway.local/terway:dev", append(f.DaemonSets, confined)
			for i := range f.Nodes {
				f.Nodes[i].Labels = map[string]string{claims.LabelIgnore: "true"}
			}
		}, "image: no registry has"},
		"no Secret": {func(f *Facts) {
			f.Cloud, f.NoCloud, f.Credential = nil, "no credential", "credentials.existingSecret: there is no Secret"
		}, "credential: credentials.existingSecret: there is no Secret"},
		"no permission":     {func(f *Facts) { f.Cloud.Refused = []Refused{{"ecs:CreateNetworkInterface", "Forbidden.RAM: no"}} }, "permissions: the controller's credential may not call ecs:CreateNetworkInterface (Forbidden.RAM: no): deploy/ram-policy.json"},
		"no load balancers": {func(f *Facts) { f.Cloud.Balancers = []Balancer{clb} }, ""},
		"none for a class": {func(f *Facts) {
			f.Cloud.Balancers, f.Config.LoadBalancerClasses = []Balancer{clb}, map[string]string{"": "CLB"}
		}, "permissions: eniConfig.load_balancer_classes names CLB, and the controller's credential may not call slb:DescribeLoadBalancers (Forbidden.RAM: no)"},
		"none for another class": {func(f *Facts) {
			f.Cloud.Balancers, f.Config.LoadBalancerClasses = []Balancer{clb}, map[string]string{"": "NLB"}
		}, ""},
		"no answer for a class": {func(f *Facts) {
			f.Cloud.Balancers, f.Config.LoadBalancerClasses = []Balancer{{Product: "CLB", Refused: Refused{clb.Action, "context deadline exceeded"}}}, map[string]string{"": "CLB"}
		}, ""},
		"one's own has none": {func(f *Facts) {
			f.Cloud = &Cloud{Refused: []Refused{{"ecs:DescribeInstances", "Forbidden.RAM: no"}}}
		}, ""},
		"no instance":            {func(f *Facts) { delete(f.Cloud.Instances, "i-node0") }, "instances: node node0: region cn-hangzhou has no instance i-node0"},
		"another address":        {func(f *Facts) { change(f, "i-node0", func(i *cloud.Instance) { i.Addresses = nil }) }, `instances: node node0 has the InternalIP "192.168.0.1", and its instance i-node0 has []`},
		"two VPCs":               {func(f *Facts) { change(f, "i-node0", func(i *cloud.Instance) { i.VPCID = "vpc-2" }) }, "instances: the nodes are in different VPCs, vpc-1, vpc-2"},
		"no vSwitch":             {func(f *Facts) { delete(f.Cloud.VSwitches, "vsw-3") }, "vswitches: eniConfig.vswitches.cn-hangzhou-j: the nodes' VPC has no vSwitch vsw-3"},
		"another zone":           {func(f *Facts) { f.Cloud.VSwitches["vsw-1"] = cloud.VSwitch{Zone: "cn-hangzhou-k"} }, "vswitches: eniConfig.vswitches.cn-hangzhou-i: vSwitch vsw-1 is in zone cn-hangzhou-k"},
		"full":                   {func(f *Facts) { f.Cloud.VSwitches["vsw-3"] = cloud.VSwitch{Zone: "cn-hangzhou-j"} }, "vswitches: eniConfig.vswitches.cn-hangzhou-j: vsw-3 have no free address"},
		"full, an upgrade":       {func(f *Facts) { f.Cloud.VSwitches["vsw-3"], f.Upgrade = cloud.VSwitch{Zone: "cn-hangzhou-j"}, true }, ""},
		"a zone without":         {func(f *Facts) { delete(f.Config.VSwitches, "cn-hangzhou-j") }, "vswitches: eniConfig.vswitches has none in zone cn-hangzhou-j, in which node node1 is"},
		"no group":               {func(f *Facts) { f.Config.SecurityGroups = []string{"sg-9"} }, "security-groups: eniConfig.security_groups: the nodes' VPC has no security group sg-9"},
		"a full group":           {func(f *Facts) { f.Cloud.Groups["sg-1"] = cloud.SecurityGroup{} }, "security-groups: eniConfig.security_groups: sg-1 is full"},
		"no groups":              {func(f *Facts) { f.Config.SecurityGroups, f.Cloud.Groups = nil, nil }, ""},
		"the cloud is not asked": {func(f *Facts) { f.Cloud, f.NoCloud = nil, "--no-cloud"; f.Nodes[0].Status.Addresses = nil }, ""},
	} {
		f := ready(t)
		c.change(f)
		got := told(f)
		if c.want == "" && len(got) > 0 || c.want != "" && (len(got) != 1 || !strings.Contains(got[0], c.want)) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// The page has every check.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range Names() {
		if !strings.Contains(string(page), "\n| `"+name+"` | ") {
			t.Errorf("docs/install.md has no row for %s", name)
		}
	}
}

// Flannel needs none of what is about ENIs.
func TestFlannel(t *testing.T) {
	f := ready(t)
	f.Config.Network, f.Config.VSwitches, f.Config.SecurityGroups = claims.NetworkFlannel, nil, nil
	f.DaemonSets = []appsv1.DaemonSet{{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-flannel"}}}
	f.Nodes[0].Status.Capacity[corev1.ResourcePods] = resource.MustParse("110")
	f.Cloud.VSwitches, f.Cloud.Groups = nil, nil
	if got := told(f); len(got) > 0 {
		t.Errorf("%q", got)
	}
}

// What is not wrong but worth knowing is told, and checks that could not be made say why.
func TestNotes(t *testing.T) {
	f := ready(t)
	f.Cloud.Controllers, f.Cloud.Refused = false, []Refused{{"ecs:DescribeSecurityGroups", "Forbidden.RAM: no"}}
	f.Cloud.VSwitches["vsw-3"] = cloud.VSwitch{ID: "vsw-3", Zone: "cn-hangzhou-j", Available: 2}
	f.Nodes[0].Status.NodeInfo.KernelVersion = "custom"
	f.ChartImage = "r.example.com/terway:v1.3.0@sha256:1"
	i := f.Cloud.Instances["i-node1"]
	i.Type = "ecs.unknown.large"
	f.Cloud.Instances["i-node1"] = i
	var notes []string
	for _, c := range Judge(f, nil) {
		notes = append(notes, c.Notes...)
	}
	all := strings.Join(notes, "\n")
	for _, want := range []string{`kernel's version "custom"`, `instance type "ecs.unknown.large"`, "what it may do was not tried", "Terway's pods run r.example.com/terway:v1.2.3\nthe values name that image; the chart's own is r.example.com/terway:v1.3.0@sha256:1", "your own credential may not call ecs:DescribeSecurityGroups (Forbidden.RAM: no), so what it would have read was not looked at: deploy/ram-policy-vpc.json", "zone cn-hangzhou-j has 2 free addresses for pods, and 1 nodes there take 3"} {
		if !strings.Contains(all, want) {
			t.Errorf("notes\n%s\nwant %q", all, want)
		}
	}
	f.Cloud = &Cloud{Controllers: true, Refused: []Refused{{"ecs:DescribeInstances", "no"}}}
	for _, c := range Judge(f, []string{Permissions}) {
		switch {
		case c.Name == Permissions && (!c.Ignored || len(c.Problems) != 1):
			t.Errorf("%+v", c)
		case slices.Contains([]string{Instances, VSwitches, SecurityGroups}, c.Name) && (c.Skipped == "" || len(c.Problems) > 0):
			t.Errorf("%+v", c)
		}
	}
}
