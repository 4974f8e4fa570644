// Package migrate plans how a cluster comes from another network to Terway, node by node: what it finds in
// the cluster, in which order nodes change, what is lost, and what stands in the way.
//
// It is pure: objects of the cluster in, a plan out. It must never read or change a cluster; "terwayctl
// migrate" does.
//
// One label says whose a node is: with claims.LabelIgnore it is the old network's, whose DaemonSets are
// confined to such nodes, and Terway ignores it; without, it is Terway's. A node that joins while others
// migrate has no label and begins with Terway.
package migrate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/podeni"
)

// AgentName is the name of the chart's DaemonSet (deploy/chart/templates/agent.yaml).
const AgentName = "terwayd"

// AnnotationMigrating is on a Node from the first step of its migration or rollback to the last. Its value
// is CordonedBefore or SchedulableBefore: what the Node was and becomes again.
const (
	AnnotationMigrating = "network.terway.dev/migrating"
	CordonedBefore      = "cordoned"
	SchedulableBefore   = "schedulable"
)

// Objects are what the cluster has.
type Objects struct {
	// Namespace is Terway's: where it is installed, or will be.
	Namespace  string
	DaemonSets []appsv1.DaemonSet
	Nodes      []corev1.Node
	// Pods are those of all namespaces.
	Pods []corev1.Pod
	// ConfigMaps are those of the old network's namespace.
	ConfigMaps []corev1.ConfigMap
	// Policies is the number of NetworkPolicies. Others is that of the objects of each resource in Resources.
	Policies int
	Others   map[string]int
	// PolicyEnabled is the chart's value policy.enabled, with which Terway will be installed, and Config has the
	// mode and the number of exclusive ENIs of its eniConfig; nil: the defaults. If it is installed already, its
	// DaemonSet and its ConfigMap say so.
	PolicyEnabled bool
	Config        *config.Config
}

// Node is a node's part of a plan.
type Node struct {
	Name string `json:"node"`
	// State is Old, Changing or New.
	State State `json:"state"`
	// Pods is the number of pods with an address of their own.
	Pods int `json:"pods"`
}

// State says which network a node has.
type State string

const (
	Old      State = "old"      // the old network
	Changing State = "changing" // a migration or rollback has begun and has not ended
	New      State = "terway"
)

// Loss is a function that the cluster has, and will not have with Terway or not while it migrates.
type Loss struct {
	// Name is what --accept-lost takes.
	Name string `json:"name"`
	Why  string `json:"why"`
	// Instead is what would keep it; may be empty.
	Instead  string `json:"instead,omitempty"`
	Accepted bool   `json:"accepted"`
}

// Ask is what the user wants.
type Ask struct {
	// Nodes are those to change; none: all that have the old network.
	Nodes []string
	// Back: the nodes go back to the old network.
	Back bool
}

// Plan is what a migration does.
type Plan struct {
	From Source `json:"from"`
	Back bool   `json:"back"`
	// DaemonSets are the old network's, NAMESPACE/NAME.
	DaemonSets []string `json:"daemonSets"`
	// ConfFiles are the old network's CNI configurations on a node.
	ConfFiles []string `json:"confFiles"`
	// Installed: the cluster has Terway's DaemonSet. Confined: the old network's DaemonSets are for
	// nodes with the label alone.
	Installed bool   `json:"installed"`
	Confined  bool   `json:"confined"`
	Nodes     []Node `json:"nodes"`
	// Change are the names of the nodes that change, in this order, each by Steps.
	Change []string `json:"change"`
	Steps  []Step   `json:"steps"`
	Losses []Loss   `json:"losses"`
	// Problems prevent the migration, Notices are changes that lose nothing.
	Problems []string `json:"problems"`
	Notices  []string `json:"notices"`
}

// Make returns the plan, or an error if there is no old network that it knows, or no node of a name.
func Make(o *Objects, ask Ask) (*Plan, error) {
	old, err := find(o)
	if err != nil {
		return nil, err
	}
	p := &Plan{From: old.source, Back: ask.Back, ConfFiles: old.files, Confined: true, Steps: Forward(),
		Nodes: []Node{}, Change: []string{}, Losses: []Loss{}, Problems: []string{}, Notices: []string{}}
	if ask.Back {
		p.Steps = Back()
	}
	for _, d := range old.sets {
		p.DaemonSets = append(p.DaemonSets, d.Namespace+"/"+d.Name)
		p.Confined = p.Confined && Confined(&d.Spec.Template.Spec)
	}
	slices.Sort(p.DaemonSets)
	agent := agentOf(o)
	p.Installed = agent != nil
	p.nodes(o)
	if err := p.choose(ask); err != nil {
		return nil, err
	}
	p.pods(o)
	if ask.Back {
		if !p.Confined {
			p.problem("the old network's DaemonSets are not confined: no node has migrated yet")
		}
		if !p.Installed {
			p.problem("namespace %s has no DaemonSet %s, so the nodes have nothing to go back from: --terway-namespace says where Terway is", o.Namespace, AgentName)
		}
	} else {
		if p.Installed && !p.Confined {
			p.problem("Terway is installed, and the old network still has all nodes: uninstall it, let migrate prepare the nodes, and install it then")
		}
		policy, conf := o.PolicyEnabled, o.Config
		if p.Installed {
			policy, conf = enforces(agent), p.installedConfig(o)
		}
		if conf == nil {
			conf = &config.Config{Mode: claims.ModeShared}
		}
		p.instances(o, conf)
		p.policies(o, old, policy)
		switch old.source {
		case Flannel:
			p.fromFlannel(old)
		case ExistingTerway:
			p.fromTerway(o, old)
		}
	}
	slices.SortFunc(p.Losses, func(a, b Loss) int { return cmp.Compare(a.Name, b.Name) })
	return p, nil
}

// Accept marks losses as accepted. It returns the names of those that are not, and an error for a name of which
// no plan has a loss. A name that others have, and this one has not, is noted: one list serves for all nodes.
func (p *Plan) Accept(names []string) (missing []string, err error) {
	for _, name := range names {
		at := slices.IndexFunc(p.Losses, func(l Loss) bool { return l.Name == name })
		switch {
		case at >= 0:
			p.Losses[at].Accepted = true
		case known(name):
			p.notice("--accept-lost %s: nothing of that is lost here", name)
		default:
			return nil, fmt.Errorf("--accept-lost %s: there is no such loss: want some of %s", name, cmp.Or(strings.Join(p.names(), ", "), "nothing, as nothing is lost"))
		}
	}
	for _, l := range p.Losses {
		if !l.Accepted {
			missing = append(missing, l.Name)
		}
	}
	return missing, nil
}

// Names of losses, beside those of Resources and the existing Terway's keys.
const (
	lostBarePods   = "bare-pods"
	lostENIs       = "attached-enis"
	lostERDMA      = "erdma"
	lostIPv6       = "ipv6"
	lostJobs       = "job-progress"
	lostLeftovers  = "node-leftovers"
	lostLocalData  = "local-data"
	lostNodeConfig = "node-config"
	lostPolicy     = "network-policy"
	lostTraffic    = "traffic-between-networks"
	lostTrunks     = "trunk-eni"
)

// known reports whether some cluster can lose this.
func known(name string) bool {
	return slices.Contains([]string{lostBarePods, lostENIs, lostERDMA, lostIPv6, lostJobs, lostLeftovers, lostLocalData, lostNodeConfig, lostPolicy, lostTraffic, lostTrunks}, name) ||
		slices.ContainsFunc(Resources, func(r Resource) bool { return r.Loss == name }) || config.MayBeUnsupported(name)
}

func (p *Plan) names() []string {
	var names []string
	for _, l := range p.Losses {
		names = append(names, l.Name)
	}
	return names
}

// Lookup returns a node of the plan.
func (p *Plan) Lookup(name string) (Node, bool) {
	at := slices.IndexFunc(p.Nodes, func(n Node) bool { return n.Name == name })
	if at < 0 {
		return Node{}, false
	}
	return p.Nodes[at], true
}

func (p *Plan) lose(name, instead, why string, args ...any) {
	if !slices.Contains(p.names(), name) {
		p.Losses = append(p.Losses, Loss{Name: name, Why: fmt.Sprintf(why, args...), Instead: instead})
	}
}

func (p *Plan) problem(format string, args ...any) {
	p.Problems = append(p.Problems, fmt.Sprintf(format, args...))
}

func (p *Plan) notice(format string, args ...any) {
	p.Notices = append(p.Notices, fmt.Sprintf(format, args...))
}

// agentOf returns Terway's DaemonSet, nil if it is not installed.
func agentOf(o *Objects) *appsv1.DaemonSet {
	at := slices.IndexFunc(o.DaemonSets, func(d appsv1.DaemonSet) bool { return d.Namespace == o.Namespace && d.Name == AgentName })
	if at < 0 {
		return nil
	}
	return &o.DaemonSets[at]
}

// installedConfig returns the configuration of an installed Terway, nil if it has none that can be read.
func (p *Plan) installedConfig(o *Objects) *config.Config {
	for _, m := range o.ConfigMaps {
		if m.Namespace != o.Namespace || m.Name != config.ConfigMapName {
			continue
		}
		c, err := config.FromConfigMap(m.Data)
		if err != nil {
			p.problem("ConfigMap %s/%s: %v", m.Namespace, m.Name, err)
			return nil
		}
		return c
	}
	return nil
}

// enforces reports whether an installed Terway enforces policies.
func enforces(d *appsv1.DaemonSet) bool {
	for _, c := range d.Spec.Template.Spec.Containers {
		if slices.ContainsFunc(c.Args, func(a string) bool { return strings.HasPrefix(a, "--policy-hub=") }) {
			return true
		}
	}
	return false
}

// nodes lists the nodes that migrate: not virtual ones, and none that runs another system than Linux.
func (p *Plan) nodes(o *Objects) {
	for i := range o.Nodes {
		n := &o.Nodes[i]
		if n.Labels[claims.LabelNodeType] == claims.VirtualNode || cmp.Or(n.Labels[corev1.LabelOSStable], "linux") != "linux" {
			continue
		}
		row := Node{Name: n.Name, State: New}
		switch {
		case n.Annotations[AnnotationMigrating] != "":
			row.State = Changing
		case n.Labels[claims.LabelIgnore] == "true" || !p.Confined:
			row.State = Old
		}
		for j := range o.Pods {
			if o.Pods[j].Spec.NodeName == n.Name && HasAddress(&o.Pods[j]) {
				row.Pods++
			}
		}
		p.Nodes = append(p.Nodes, row)
	}
	slices.SortFunc(p.Nodes, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
}

// choose finds the nodes to change.
func (p *Plan) choose(ask Ask) error {
	for _, name := range ask.Nodes {
		if _, ok := p.Lookup(name); !ok {
			return fmt.Errorf("--nodes %s: the cluster has no such Linux node", name)
		}
	}
	done := New
	if ask.Back {
		done = Old
	}
	for _, n := range p.Nodes {
		if n.State != done && (len(ask.Nodes) == 0 || slices.Contains(ask.Nodes, n.Name)) {
			p.Change = append(p.Change, n.Name)
		}
	}
	return nil
}

// instances finds nodes that change and that Terway cannot serve.
func (p *Plan) instances(o *Objects, conf *config.Config) {
	for i := range o.Nodes {
		n := &o.Nodes[i]
		if !slices.Contains(p.Change, n.Name) {
			continue
		}
		if n.Spec.ProviderID == "" {
			p.problem("node %s has no providerID, so Terway does not know its instance: the cloud controller manager or kubelet's --provider-id sets it", n.Name)
		}
		if n.Labels[claims.LabelOtherIgnore] == "true" {
			p.problem("node %s has the label %s, with which Terway ignores it: remove the label, or name the other nodes with --nodes", n.Name, claims.LabelOtherIgnore)
		}
		p.room(o, n, conf)
	}
}

// room compares a node's pods with what the ENIs of its instance can address in the mode that the node will have. A
// node that is full beforehand does not get all of its pods back.
func (p *Plan) room(o *Objects, n *corev1.Node, conf *config.Config) {
	name := n.Labels[corev1.LabelInstanceTypeStable]
	t, ok := catalog.Lookup(name)
	if !ok {
		return // the controller asks the cloud about it
	}
	mode, exclusive := conf.Divide(n.Labels, t.Secondary())
	most, ok := t.MaxPods(exclusive)
	if !ok {
		return
	}
	row, _ := p.Lookup(n.Name)
	alone := 0 // pods that get an ENI of their own
	for i := range o.Pods {
		if pod := &o.Pods[i]; pod.Spec.NodeName == n.Name && HasAddress(pod) && (mode == claims.ModeExclusive || asksForENI(pod)) {
			alone++
		}
	}
	has := fmt.Sprintf("has addresses for %d", most)
	if exclusive > 0 {
		has = fmt.Sprintf("has, in mode %s, ENIs for %d pods with an exclusive one and addresses for %d others", mode, exclusive, most-exclusive)
	}
	if alone > exclusive || row.Pods-alone > most-exclusive {
		p.problem("node %s runs %d pods, of which %d need an exclusive ENI, and its instance type %s %s: move pods away, or take a larger type", n.Name, row.Pods, alone, name, has)
	}
	if may := n.Status.Allocatable.Pods().Value(); may > int64(most) {
		p.notice("node %s may run %d pods (kubelet's maxPods), and its instance type %s %s: pods beyond wait for an address", n.Name, may, name, has)
	}
}

// asksForENI reports whether a pod requests an exclusive ENI.
func asksForENI(pod *corev1.Pod) bool {
	asks, err := podeni.Asked(pod.Annotations)
	return asks && err == nil || requests(pod, claims.ResourceENI)
}

// HasAddress reports whether a pod has an address of the pods' network, or will get one.
func HasAddress(pod *corev1.Pod) bool {
	_, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return !mirror && !pod.Spec.HostNetwork && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
}

// pods finds what a pod loses when it is deleted from its node and created again on another.
func (p *Plan) pods(o *Objects) {
	var alone, jobs, local, six []string
	for i := range o.Pods {
		pod := &o.Pods[i]
		if !slices.Contains(p.Change, pod.Spec.NodeName) || !HasAddress(pod) {
			continue
		}
		name := pod.Namespace + "/" + pod.Name
		if !slices.ContainsFunc(pod.OwnerReferences, func(r metav1.OwnerReference) bool { return r.Controller != nil && *r.Controller }) {
			alone = append(alone, name)
		}
		if slices.ContainsFunc(pod.OwnerReferences, func(r metav1.OwnerReference) bool { return r.Kind == "Job" && r.Controller != nil && *r.Controller }) {
			jobs = append(jobs, name)
		}
		if slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
			return v.EmptyDir != nil && v.EmptyDir.Medium != corev1.StorageMediumMemory
		}) {
			local = append(local, name)
		}
		if slices.ContainsFunc(pod.Status.PodIPs, func(ip corev1.PodIP) bool { return strings.Contains(ip.IP, ":") }) {
			six = append(six, name)
		}
	}
	if len(alone) > 0 {
		p.lose(lostBarePods, "", "no controller creates %s again", some(alone))
	}
	if len(jobs) > 0 {
		p.lose(lostJobs, "wait until they have ended", "Jobs start %s again from the beginning, and may count that as a failure", some(jobs))
	}
	if len(local) > 0 {
		p.lose(lostLocalData, "", "the emptyDir volumes of %s go with the pods", some(local))
	}
	if len(six) > 0 && !p.Back {
		p.lose(lostIPv6, "", "pods get IPv4 addresses only; %s have IPv6 ones", some(six))
	}
}

// some names the first of many.
func some(names []string) string {
	slices.Sort(names)
	if len(names) <= 3 {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d others", strings.Join(names[:3], ", "), len(names)-3)
}

// policies finds policies that are no longer enforced, and those that will be.
func (p *Plan) policies(o *Objects, old *oldNetwork, after bool) {
	before := old.policy(o)
	switch {
	case before && !after:
		p.lose(lostPolicy, "the chart's value policy.enabled: true", "the old network enforces network policies (the cluster has %d), and Terway is without policy.enabled", o.Policies)
	case !before && after && o.Policies > 0:
		p.notice("%d NetworkPolicies that had no effect will be enforced: \"terwayctl policy preview\" says which connections they cut", o.Policies)
	}
	for _, r := range Resources {
		if n := o.Others[r.Name]; n > 0 {
			p.lose(r.Loss, r.Instead, "the cluster has %d %s, %s", n, r.Name, r.Why)
		}
	}
}

// Resource is a resource of the old network whose objects do something that Terway does not do.
type Resource struct {
	// Name is PLURAL.GROUP.
	Name, Version, Kind string
	Loss, Instead, Why  string
}

const (
	calicoMoves  = `"terwayctl policy migrate" writes them in the present API`
	calicoFormer = "of Calico's former API, which Terway does not read"
)

// Resources are those resources.
var Resources = []Resource{
	{"networkpolicies.crd.projectcalico.org", "v1", "NetworkPolicy", "calico-policy", calicoMoves, calicoFormer},
	{"globalnetworkpolicies.crd.projectcalico.org", "v1", "GlobalNetworkPolicy", "calico-policy", calicoMoves, calicoFormer},
	{"ciliumnetworkpolicies.cilium.io", "v2", "CiliumNetworkPolicy", "cilium-policy", "", "which Terway does not read"},
	{"ciliumclusterwidenetworkpolicies.cilium.io", "v2", "CiliumClusterwideNetworkPolicy", "cilium-policy", "", "which Terway does not read"},
	{"podnetworkings.network.alibabacloud.com", "v1beta1", "PodNetworking", "pod-networking", "", "which choose vSwitches, security groups and fixed addresses for pods; Terway has one configuration for all"},
}

// fromFlannel finds what else is lost with Flannel.
func (p *Plan) fromFlannel(old *oldNetwork) {
	if old.backend != backendAlloc {
		p.lose(lostTraffic, "", "Flannel's backend is %s: until a node has migrated, the VPC knows no way to its pods, and pods of Terway on other nodes do not reach them", cmp.Or(old.backend, "unknown"))
	}
	p.notice("programs outside the cluster see a pod's own address of the VPC, no longer its node's: security groups and lists of allowed addresses must have the Pod vSwitches' ranges")
	p.notice("the VPC's route entries for the old pod CIDR stay: delete them when no node has the old network")
}

// fromTerway finds what else is lost with the existing Terway.
func (p *Plan) fromTerway(o *Objects, old *oldNetwork) {
	if slices.ContainsFunc(old.sets, func(d appsv1.DaemonSet) bool { return d.Namespace == o.Namespace }) {
		p.problem("both Terways have a ConfigMap %s, and the existing one's is in namespace %s: install this one in another, and give --terway-namespace", config.ConfigMapName, o.Namespace)
	}
	p.lose(lostENIs, "replace nodes by new instances, which begin with Terway", "ENIs of the existing Terway stay attached to their nodes and take places of the instance type until you delete them; they have the tag creator and not the cluster's own")
	p.lose(lostLeftovers, "restart each instance when its node has migrated, or replace it", "nothing removes what the existing Terway has programmed on a node (policy rules and routes, iptables rules and eBPF programs of its policies), which stays in effect beside Terway's until the instance is restarted")
	for _, c := range []struct {
		resource  corev1.ResourceName
		loss, why string
	}{
		{"aliyun/member-eni", lostTrunks, "request member ENIs of a trunk, which are not supported"},
		{"aliyun/erdma", lostERDMA, "request eRDMA, which is not supported"},
	} {
		if pods := requesting(o, c.resource); len(pods) > 0 {
			p.lose(c.loss, "", "%s %s", some(pods), c.why)
		}
	}
	var own []string
	for _, n := range o.Nodes {
		if n.Labels["terway-config"] != "" {
			own = append(own, n.Name)
		}
	}
	if len(own) > 0 {
		p.lose(lostNodeConfig, "", "nodes have no configurations of their own; %s have the label terway-config", some(own))
	}
	if old.conversion == nil {
		p.problem("there is no ConfigMap %s beside the existing Terway, or it cannot be read: %s", config.ConfigMapName, cmp.Or(old.unread, "not found"))
		return
	}
	for _, k := range old.conversion.Keys {
		if k.Outcome == config.Unsupported {
			p.lose(k.Key, "", "%s of %s: %s", k.Key, k.Source, k.Why)
		}
	}
}

// requesting returns the pods with an address that request a resource.
func requesting(o *Objects, resource corev1.ResourceName) []string {
	var names []string
	for i := range o.Pods {
		if pod := &o.Pods[i]; HasAddress(pod) && requests(pod, resource) {
			names = append(names, pod.Namespace+"/"+pod.Name)
		}
	}
	return names
}

func requests(pod *corev1.Pod, resource corev1.ResourceName) bool {
	return slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool {
		_, limits := c.Resources.Limits[resource]
		_, requests := c.Resources.Requests[resource]
		return limits || requests
	})
}
