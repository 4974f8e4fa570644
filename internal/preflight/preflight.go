// Package preflight judges, before Terway is installed, whether a cluster and an account have what it needs: what would
// otherwise show minutes later, in an event or a pod that does not start. It is pure: facts in, checks out. It must never read a
// cluster or call a cloud; "terwayctl install" does.
package preflight

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/controller/nodeinfo"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/migrate"
)

// Facts are what is known of a cluster and its account.
type Facts struct {
	// Namespace is where Terway is to be, Upgrade says that it is there already.
	Namespace string
	Upgrade   bool
	// Config is the chart's value eniConfig, PolicyEnabled its value policy.enabled.
	Config        *config.Config
	PolicyEnabled bool
	// Image is what Terway's pods will run, "" if it is not known. ChartImage is what they run if the values name none.
	Image, ChartImage string

	// Denied are the things that the user may not do in the cluster: "create clusterroles.rbac.authorization.k8s.io".
	Denied     []string
	Nodes      []corev1.Node
	Pods       []corev1.Pod // of all namespaces
	DaemonSets []appsv1.DaemonSet
	// CalicoServer is the Service, NAMESPACE/NAME, of an API server of Calico's own; "" if there is none.
	CalicoServer string
	// Credential is what is wrong with the controller's credential, "" if nothing is known to be.
	Credential string

	// Cloud is nil if the cloud was not asked; NoCloud says why.
	Cloud   *Cloud
	NoCloud string
}

// Cloud is what is known of the account.
type Cloud struct {
	// Controllers: the credential that was used is the controller's, not the user's.
	Controllers bool
	// Refused are the calls that this credential may not make, with the cloud's answer.
	Refused []Refused
	// Balancers are the calls for load balancers that did not succeed.
	Balancers []Balancer
	// Instances by id, VSwitches and Groups of their VPCs by id. They are nil if they could not be read.
	Instances map[string]cloud.Instance
	VSwitches map[string]cloud.VSwitch
	Groups    map[string]cloud.SecurityGroup
	// Types are the limits of the instances' types, by name, of those that were asked for.
	Types map[string]cloud.InstanceType
}

// Refused is a call that a credential may not make.
type Refused struct{ Action, Answer string }

// Balancer is a call for a product's load balancers that did not succeed, with the answer, or the reason why there is none.
type Balancer struct {
	// Product is as in eniConfig.load_balancer_classes: CLB or NLB.
	Product string
	Refused
	// Forbidden: the credential may not make it.
	Forbidden bool
}

// Check is the outcome of one check.
type Check struct {
	Name string `json:"name"`
	// Problems would keep Terway from working. Notes do not.
	Problems []string `json:"problems"`
	Notes    []string `json:"notes"`
	// Skipped says why nothing was looked at.
	Skipped string `json:"skipped,omitempty"`
	// Ignored: the user wants to install in spite of the problems.
	Ignored bool `json:"ignored,omitempty"`
}

func (c *Check) problem(format string, args ...any) {
	c.Problems = append(c.Problems, fmt.Sprintf(format, args...))
}

func (c *Check) note(format string, args ...any) {
	c.Notes = append(c.Notes, fmt.Sprintf(format, args...))
}

// The names of the checks.
const (
	Rights         = "rights"
	OtherNetwork   = "other-network"
	CalicoAPI      = "calico-api"
	Nodes          = "nodes"
	Kernel         = "kernel"
	MaxPods        = "max-pods"
	Image          = "image"
	Credential     = "credential"
	Permissions    = "permissions"
	Instances      = "instances"
	VSwitches      = "vswitches"
	SecurityGroups = "security-groups"
)

// checks are all, in the order in which they are told.
var checks = []struct {
	name  string
	cloud bool // it needs the cloud
	judge func(*Facts, *Check)
}{
	{Rights, false, (*Facts).rights},
	{OtherNetwork, false, (*Facts).otherNetwork},
	{CalicoAPI, false, (*Facts).calicoAPI},
	{Nodes, false, (*Facts).nodes},
	{Kernel, false, (*Facts).kernel},
	{MaxPods, false, (*Facts).maxPods},
	{Image, false, (*Facts).image},
	{Credential, false, (*Facts).credential},
	{Permissions, true, (*Facts).permissions},
	{Instances, true, (*Facts).instances},
	{VSwitches, true, (*Facts).vswitches},
	{SecurityGroups, true, (*Facts).securityGroups},
}

// Names returns the names of all checks.
func Names() []string {
	var names []string
	for _, c := range checks {
		names = append(names, c.name)
	}
	return names
}

// Judge makes all checks. ignore are the names of those whose problems are no obstacle.
func Judge(f *Facts, ignore []string) []Check {
	var all []Check
	for _, c := range checks {
		out := Check{Name: c.name, Problems: []string{}, Notes: []string{}}
		if c.cloud && f.Cloud == nil {
			out.Skipped = f.NoCloud
		} else {
			c.judge(f, &out)
		}
		out.Ignored = len(out.Problems) > 0 && slices.Contains(ignore, c.name)
		all = append(all, out)
	}
	return all
}

// Served are the nodes that Terway is to serve.
func (f *Facts) Served() []*corev1.Node {
	var nodes []*corev1.Node
	for i := range f.Nodes {
		n := &f.Nodes[i]
		if !nodeinfo.Ignored(n) && cmp.Or(n.Labels[corev1.LabelOSStable], "linux") == "linux" {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

func (f *Facts) rights(c *Check) {
	for _, d := range f.Denied {
		c.problem("you may not %s: installing needs a user who may, such as one with the ClusterRole cluster-admin", d)
	}
}

// networks are the names of DaemonSets of other network plugins.
var networks = []string{"antrea-agent", "aws-node", "calico-node", "canal", "cilium", "kube-flannel", "kube-flannel-ds", "kube-ovn-cni", "kube-router", "kindnet", "terway", "terway-eni", "terway-eniip", "weave-net"}

func (f *Facts) otherNetwork(c *Check) {
	own := "terwayd"
	if f.Config.Network == claims.NetworkFlannel {
		own = "kube-flannel"
	}
	for i := range f.DaemonSets {
		d := &f.DaemonSets[i]
		switch {
		case d.Namespace == f.Namespace && d.Name == own:
		case d.Name == migrate.AgentName:
			c.problem("Terway is installed in namespace %s already: give --terway-namespace %[1]s, or uninstall it", d.Namespace)
		case slices.Contains(networks, d.Name) && !migrate.Confined(&d.Spec.Template.Spec):
			c.problem("DaemonSet %s/%s is another network: uninstall it, or let \"terwayctl migrate\" confine it", d.Namespace, d.Name)
		}
	}
	if f.Upgrade || len(c.Problems) > 0 {
		return
	}
	// Without a CNI configuration the runtime has no network, and the kubelet does not become ready.
	for _, n := range f.Served() {
		if condition(n, corev1.NodeReady) == corev1.ConditionTrue {
			c.problem("node %s is Ready without Terway, so its runtime has another network's CNI configuration (the first by name in /etc/cni/net.d): remove it", n.Name)
		}
	}
}

func condition(n *corev1.Node, kind corev1.NodeConditionType) corev1.ConditionStatus {
	for _, c := range n.Status.Conditions {
		if c.Type == kind {
			return c.Status
		}
	}
	return corev1.ConditionUnknown
}

func (f *Facts) calicoAPI(c *Check) {
	switch {
	case !f.PolicyEnabled:
		c.Skipped = "policy.enabled is false"
	case f.CalicoServer != "":
		c.problem("the API projectcalico.org/v3 is served by Service %s: remove that API server and the APIService v3.projectcalico.org, or leave policy.enabled: false", f.CalicoServer)
	}
}

func (f *Facts) nodes(c *Check) {
	nodes := f.Served()
	switch {
	case len(nodes) == 0 && slices.ContainsFunc(f.DaemonSets, func(d appsv1.DaemonSet) bool { return migrate.Confined(&d.Spec.Template.Spec) }):
		c.note("all nodes have another network, from which \"terwayctl migrate\" takes them")
	case len(nodes) == 0:
		c.problem("the cluster has no Linux node that Terway may serve (virtual nodes and those with the label %s=true are left out)", claims.LabelIgnore)
	}
	by := map[string]string{}
	for _, n := range nodes {
		id, err := nodeinfo.InstanceID(n.Spec.ProviderID)
		if err != nil {
			c.problem("node %s: %v; kubelet's --provider-id sets it (docs/install.md), or a cloud controller manager", n.Name, err)
			continue
		}
		if other := by[id]; other != "" {
			c.problem("nodes %s and %s have the same instance %s in their providerID", other, n.Name, id)
		}
		by[id] = n.Name
		if region, _, _ := strings.Cut(strings.TrimPrefix(n.Spec.ProviderID, "alicloud://"), "."); region != f.Config.Region {
			c.problem("node %s is in region %s (providerID), and eniConfig.region is %s", n.Name, region, f.Config.Region)
		}
	}
}

// The kernels that docs/compatibility.md and docs/datapaths.md have.
var (
	oldest = version{4, 19}
	forBPF = version{5, 10} // policies, bandwidth limits by eBPF, datapaths ebpf and ipvlan
	netkit = version{6, 8}
)

type version [2]int

func (v version) String() string { return fmt.Sprintf("%d.%d", v[0], v[1]) }

// parse reads the first two numbers of a kernel's version: "5.10.134-16.al8.x86_64".
func parse(s string) (v version, ok bool) {
	parts := strings.SplitN(s, ".", 3)
	if len(parts) < 2 {
		return v, false
	}
	minor := parts[1]
	if at := strings.IndexFunc(minor, func(r rune) bool { return r < '0' || r > '9' }); at >= 0 {
		minor = minor[:at] // 5.4-rc1
	}
	var errs [2]error
	v[0], errs[0] = strconv.Atoi(parts[0])
	v[1], errs[1] = strconv.Atoi(minor)
	return v, errors.Join(errs[:]...) == nil
}

func (f *Facts) kernel(c *Check) {
	least, why := oldest, "Terway"
	switch {
	case f.Config.Network == claims.NetworkFlannel:
		c.Skipped = "Flannel needs no particular one"
		return
	case f.Config.Datapath == "netkit":
		least, why = netkit, "eniConfig.datapath netkit"
	case f.Config.Datapath == "ebpf", f.Config.Datapath == "ipvlan":
		least, why = forBPF, "eniConfig.datapath "+f.Config.Datapath
	case f.PolicyEnabled:
		least, why = forBPF, "policy.enabled"
	}
	for _, n := range f.Served() {
		has, ok := parse(n.Status.NodeInfo.KernelVersion)
		switch {
		case !ok:
			c.note("node %s: cannot read the kernel's version %q", n.Name, n.Status.NodeInfo.KernelVersion)
		case slices.Compare(has[:], least[:]) < 0:
			c.problem("node %s has Linux %s, and %s needs %s or newer", n.Name, n.Status.NodeInfo.KernelVersion, why, least)
		}
	}
}

// more is how many pods of Terway itself a node may get: agent and controller, which have the node's own network.
const more = 2

func (f *Facts) maxPods(c *Check) {
	if f.Config.Network == claims.NetworkFlannel {
		c.Skipped = "with Flannel a node's block of the pod CIDR limits them"
		return
	}
	own := map[string]int{} // pods with the node's network, by node
	for i := range f.Pods {
		if p := &f.Pods[i]; p.Spec.HostNetwork && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			own[p.Spec.NodeName]++
		}
	}
	for _, n := range f.Served() {
		name := n.Labels[corev1.LabelInstanceTypeStable]
		if id, err := nodeinfo.InstanceID(n.Spec.ProviderID); err == nil && f.Cloud != nil && f.Cloud.Instances[id].Type != "" {
			name = f.Cloud.Instances[id].Type
		}
		t, known := f.typeOf(name)
		_, exclusive := f.Config.Divide(n.Labels, t.Secondary())
		holds, ok := t.MaxPods(exclusive)
		if !known || !ok {
			c.note("node %s: nothing is known of its instance type %q: \"terwayctl instance-types refresh\" asks the cloud", n.Name, name)
			continue
		}
		has, most := int(n.Status.Capacity.Pods().Value()), holds+own[n.Name]+more
		if has > most {
			c.problem("node %s: kubelet's maxPods is %d, and the ENIs of its instance type %s have addresses for %d pods (%d pods there have the node's network): pods beyond would wait for an address. "+
				"\"terwayctl instance-types --max-pods %s\" prints the number for kubelet", n.Name, has, name, holds, own[n.Name], name)
		}
	}
}

// typeOf returns the limits of an instance type: those of the cloud, which the controller goes by, or of the built-in table.
func (f *Facts) typeOf(name string) (catalog.Type, bool) {
	if f.Cloud != nil {
		if t, ok := f.Cloud.Types[name]; ok {
			return catalog.Type{Name: name, ENIs: catalog.Of(t.ENIs), IPv4PerENI: catalog.Of(t.IPv4PerENI)}, true
		}
	}
	return catalog.Lookup(name)
}

// nowhere begins the image's name in the chart of the source: no registry has it.
const nowhere = "terway.local/"

func (f *Facts) image(c *Check) {
	if f.Image == "" {
		c.Skipped = "the chart could not be rendered"
		return
	}
	c.note("Terway's pods run %s", f.Image)
	if f.ChartImage != f.Image && !strings.HasPrefix(f.ChartImage, nowhere) {
		c.note("the values name that image; the chart's own is %s", f.ChartImage)
	}
	if !strings.HasPrefix(f.Image, nowhere) {
		return
	}
	nodes := f.Served()
	if len(nodes) == 0 {
		for i := range f.Nodes {
			nodes = append(nodes, &f.Nodes[i])
		}
	}
	for _, n := range nodes {
		if !has(n, f.Image) {
			c.problem("no registry has %s, and node %s does not have it either: name yours with the values image.repository, image.tag and image.digest (docs/install.md, step 6), or install with the terwayctl of a release", f.Image, n.Name)
			return
		}
	}
}

// has says whether a node has an image, as its kubelet reports it.
func has(n *corev1.Node, image string) bool {
	if name, digest, ok := strings.Cut(image, "@"); ok {
		image = name[:strings.LastIndex(name, ":")] + "@" + digest // a report has either
	}
	return slices.ContainsFunc(n.Status.Images, func(i corev1.ContainerImage) bool { return slices.Contains(i.Names, image) })
}

func (f *Facts) credential(c *Check) {
	if f.Credential != "" {
		c.problem("%s", f.Credential)
	}
}

func (f *Facts) permissions(c *Check) {
	if !f.Cloud.Controllers {
		c.note("only the controller can use its own credential: what it may do was not tried")
	}
	for _, r := range f.Cloud.Refused {
		if f.Cloud.Controllers {
			c.problem("the controller's credential may not call %s (%s): deploy/ram-policy.json has the policy that it needs", r.Action, r.Answer)
		} else { // nothing that the controller lacks
			c.note("your own credential may not call %s (%s), so what it would have read was not looked at: deploy/ram-policy-vpc.json has the policy for you", r.Action, r.Answer)
		}
	}
	f.balancers(c)
}

// balancers says which load balancers the controller could not make. Only Services of Terway's classes want some.
func (f *Facts) balancers(c *Check) {
	for _, b := range f.Cloud.Balancers {
		if !b.Forbidden {
			c.note("whether the controller's credential may call %s, which Services with a %s need, could not be tried: %s", b.Action, b.Product, b.Answer)
			continue
		}
		text := fmt.Sprintf("the controller's credential may not call %s (%s), so Services get no %s: deploy/ram-policy.json has the policy that it needs", b.Action, b.Answer, b.Product)
		if slices.Contains(slices.Collect(maps.Values(f.Config.LoadBalancerClasses)), b.Product) {
			c.problem("eniConfig.load_balancer_classes names %s, and %s", b.Product, text)
		} else {
			c.note("%s", text)
		}
	}
}

func (f *Facts) instances(c *Check) {
	if f.Cloud.Instances == nil {
		c.Skipped = "they could not be read"
		return
	}
	vpcs := map[string]string{}
	for _, n := range f.Served() {
		id, err := nodeinfo.InstanceID(n.Spec.ProviderID)
		if err != nil {
			continue // check nodes says it
		}
		i, ok := f.Cloud.Instances[id]
		if !ok {
			c.problem("node %s: region %s has no instance %s (providerID)", n.Name, f.Config.Region, id)
			continue
		}
		vpcs[i.VPCID] = n.Name
		address := ""
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				address = a.Address
				break
			}
		}
		if !slices.ContainsFunc(i.Addresses, func(a netip.Addr) bool { return a.String() == address }) {
			c.problem("node %s has the InternalIP %q, and its instance %s has %v: kubelet's --node-ip must be the instance's primary address", n.Name, address, id, i.Addresses)
		}
	}
	if len(vpcs) > 1 {
		c.problem("the nodes are in different VPCs, %s: all must be in one", strings.Join(slices.Sorted(maps.Keys(vpcs)), ", "))
	}
}

func (f *Facts) vswitches(c *Check) {
	switch {
	case f.Config.Network == claims.NetworkFlannel:
		c.Skipped = "with Flannel there are none for pods"
		return
	case f.Cloud.VSwitches == nil:
		c.Skipped = "they could not be read"
		return
	}
	for _, zone := range slices.Sorted(maps.Keys(f.Config.VSwitches)) {
		free, there := 0, 0
		for _, id := range f.Config.VSwitches[zone] {
			v, ok := f.Cloud.VSwitches[id]
			switch {
			case !ok:
				c.problem("eniConfig.vswitches.%s: the nodes' VPC has no vSwitch %s", zone, id)
				continue
			case v.Zone != zone:
				c.problem("eniConfig.vswitches.%s: vSwitch %s is in zone %s", zone, id, v.Zone)
				continue
			}
			there++
			free += v.Available
		}
		need := max(1, f.in(zone)*f.Config.MinPoolSize)
		switch {
		case there == 0:
		case free == 0 && !f.Upgrade:
			c.problem("eniConfig.vswitches.%s: %s have no free address: \"terwayctl vpc grow\" adds one, or name another", zone, strings.Join(f.Config.VSwitches[zone], ", "))
		case free < need:
			c.note("zone %s has %d free addresses for pods, and %d nodes there take %d at once", zone, free, f.in(zone), need)
		}
	}
	seen := map[string]bool{}
	for _, n := range f.Served() {
		zone := f.zone(n)
		if zone != "" && !seen[zone] && len(f.Config.VSwitches[zone]) == 0 {
			c.problem("eniConfig.vswitches has none in zone %s, in which node %s is: its pods would get no addresses", zone, n.Name)
		}
		seen[zone] = true
	}
}

// zone returns a node's zone, "" if it is not known.
func (f *Facts) zone(n *corev1.Node) string {
	id, err := nodeinfo.InstanceID(n.Spec.ProviderID)
	if err != nil {
		return ""
	}
	return f.Cloud.Instances[id].Zone
}

// in returns how many nodes are in a zone.
func (f *Facts) in(zone string) (n int) {
	for _, node := range f.Served() {
		if f.zone(node) == zone {
			n++
		}
	}
	return n
}

func (f *Facts) securityGroups(c *Check) {
	switch {
	case len(f.Config.SecurityGroups) == 0:
		c.Skipped = "ENIs get those of their instance"
		return
	case f.Cloud.Groups == nil:
		c.Skipped = "they could not be read"
		return
	}
	for _, id := range f.Config.SecurityGroups {
		if g, ok := f.Cloud.Groups[id]; !ok {
			c.problem("eniConfig.security_groups: the nodes' VPC has no security group %s", id)
		} else if g.Free <= 0 {
			c.problem("eniConfig.security_groups: %s is full: it can hold no further address", id)
		}
	}
}
