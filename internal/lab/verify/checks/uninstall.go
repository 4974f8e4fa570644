package checks

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

var uninstalled = verify.Check{
	Name:    "uninstall",
	About:   "helm uninstall is refused while a pod runs, which answers all the time, and its rights are taken away; without pods one node is cleaned alone, by terwayd teardown, and helm uninstall leaves nothing on the nodes, in the cluster and in the cloud; installed again, pods reach each other",
	Trouble: true, Slow: true, Once: true,
	Run: run(func(ctx context.Context, e *env) (_ string, err error) {
		if err := e.asInstalled(); err != nil {
			return "", err
		}
		na, nb, err := e.TwoNodes()
		if err != nil {
			return "", err
		}
		pods, err := e.PodOn(ctx, na, nb)
		if err != nil {
			return "", err
		}
		before, err := e.traces(ctx)
		if err != nil {
			return "", err
		}
		if kind := e.lacks(before); kind != "" {
			return "", fmt.Errorf("before: no %s of Terway's: what is not seen now cannot be seen to be gone", kind)
		}
		defer func() { err = errors.Join(err, e.restoreSurely(ctx)) }()
		began := time.Now()
		named := e.Namespace + "/" + pods[0].Name
		if err := e.Lab.Uninstall(ctx); err == nil || !strings.Contains(err.Error(), named) {
			return "", fmt.Errorf("helm uninstall while pod %s runs: want a refusal that names it, got %v", named, err)
		}
		refused := time.Since(began)
		if now, err := e.traces(ctx); err != nil || e.lacks(now) != "" {
			return "", errors.Join(fmt.Errorf("after the refusal there are %v, before %v", numbers(now), numbers(before)), err)
		}
		if err := e.noRights(ctx); err != nil {
			return "", fmt.Errorf("after the refusal: %w", err)
		}
		if _, err := e.Curl(ctx, pods[0].Name, instruments.URL(pods[1].Status.PodIP, instruments.HTTPPort, "hostname")); err != nil {
			return "", fmt.Errorf("after the refusal: %w", err)
		}
		if err := e.noPods(ctx, pods); err != nil {
			return "", err
		}
		if err := e.cleanAlone(ctx, na); err != nil {
			return "", err
		}
		began = time.Now()
		if err := e.Lab.Uninstall(ctx); err != nil {
			return "", err
		}
		took := time.Since(began)
		// Kubernetes deletes what other objects own some time later.
		var left map[string][]string
		if err := e.within(ctx, time.Minute, "nothing of Terway's to be left", func(ctx context.Context) (bool, error) {
			now, err := e.traces(ctx)
			if err == nil {
				left = now
			}
			return len(now) == 0, err
		}); err != nil {
			return "", fmt.Errorf("helm uninstall left %q; before there were %v: %w", left, numbers(before), err)
		}
		began = time.Now()
		if err := e.restoreSurely(ctx); err != nil {
			return "", fmt.Errorf("install again: %w", err)
		}
		again, err := e.PodOn(ctx, na, nb)
		if err != nil {
			return "", fmt.Errorf("installed again: %w", err)
		}
		if _, err := e.Curl(ctx, again[0].Name, instruments.URL(again[1].Status.PodIP, instruments.HTTPPort, "hostname")); err != nil {
			return "", fmt.Errorf("installed again: %w", err)
		}
		return fmt.Sprintf("refused in %.1f s, which named %s; then %v gone in %.1f s; installed again, two pods answered after %.1f s",
			refused.Seconds(), named, numbers(before), took.Seconds(), time.Since(began).Seconds()), nil
	}),
}

// asInstalled returns an error if the nodes were moved to exclusive ENIs: the chart, installed again, has the mode of "up", and the
// cluster's DNS would request ENIs that no node offers.
func (e *env) asInstalled() error {
	if e.AllExclusive() && e.Lab.Options.Mode != claims.ModeExclusive {
		return instruments.NothingToTest("the chart has the lab's mode, which is not exclusive: terway-lab up --mode exclusive")
	}
	return nil
}

// noRights returns an error if the job's rights are still there.
func (e *env) noRights(ctx context.Context) error {
	for _, kind := range []string{"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"} {
		o := &metav1.PartialObjectMetadata{}
		o.SetGroupVersionKind(rbacv1.SchemeGroupVersion.WithKind(kind))
		err := e.Objects.Get(ctx, client.ObjectKey{Namespace: metav1.NamespaceSystem, Name: uninstallName}, o)
		if err == nil {
			return fmt.Errorf("there is %s %s", kind, uninstallName)
		}
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("read %s %s: %w", kind, uninstallName, err)
		}
	}
	return nil
}

// teardown and teardownFlannel are the commands of docs/uninstall.md that clean a node.
const (
	teardown        = "terwayd teardown --cni-conf-dir /etc/cni/net.d --cni-bin-dir /opt/cni/bin --host-root /"
	teardownFlannel = "terwayd teardown --cni-conf-dir /etc/cni/net.d --cni-bin-dir /opt/cni/bin --flannel POD_CIDR"
)

// cleanAlone cleans a node without the job, as for one that goes to another cluster (docs/uninstall.md), and leaves it ignored.
func (e *env) cleanAlone(ctx context.Context, m lab.Machine) error {
	if _, err := edit(ctx, e.Client.CoreV1().Nodes(), m.Name, func(n *corev1.Node) error {
		metav1.SetMetaDataLabel(&n.ObjectMeta, claims.LabelIgnore, "true")
		return note(&n.ObjectMeta, "")
	}); err != nil {
		return err
	}
	if err := e.Poll(ctx, "the agent of the ignored node to end", func() (bool, error) {
		pods, err := e.Client.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{LabelSelector: "app=" + e.agents(), FieldSelector: "spec.nodeName=" + m.Name})
		return err == nil && len(pods.Items) == 0, err
	}); err != nil {
		return err
	}
	command := strings.Fields(teardown)
	if e.flannel() {
		command = append(strings.Fields(strings.Replace(teardownFlannel, "POD_CIDR", e.Lab.Options.Plan.PodCIDR.String(), 1)), "--plugin-dir", filepath.Join(e.Lab.Options.Cache, "cni"))
	}
	command[0] = filepath.Join(e.Lab.Options.Cache, "terway", command[0])
	if _, err := e.onNode(m.Name, command...); err != nil {
		return err
	}
	left, err := e.nodeTraces(m)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("terwayd teardown left %q on %s", left, m.Name)
	}
	return err
}

func (e *env) flannel() bool { return e.Lab.Options.Network == lab.NetworkFlannel }

// agents is the name of the DaemonSet of the chart that runs on nodes, and its pods' label app.
func (e *env) agents() string {
	if e.flannel() {
		return "kube-flannel"
	}
	return agentName
}

// heedAgain takes away what cleanAlone has set.
func (e *env) heedAgain(ctx context.Context) error {
	var errs []error
	for _, m := range e.Lab.Machines {
		n, err := e.Client.CoreV1().Nodes().Get(ctx, m.Name, metav1.GetOptions{})
		if err == nil && n.Labels[claims.LabelIgnore] != "" {
			_, err = edit(ctx, e.Client.CoreV1().Nodes(), m.Name, func(n *corev1.Node) error {
				before := ""
				ok, err := noted(&n.ObjectMeta, &before)
				if ok {
					delete(n.Labels, claims.LabelIgnore)
				}
				return err
			})
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

const dnsName = "coredns"

// uninstallName is the name of the chart's job that uninstalls it, and of its rights.
const uninstallName = "terway-uninstall"

// noPods ends the pods of the check and those of the cluster's DNS, and waits until no agent, or with Flannel no bridge, has one of them.
func (e *env) noPods(ctx context.Context, pods []corev1.Pod) error {
	for _, p := range pods {
		if err := e.DeletePod(ctx, p.Name); err != nil {
			return err
		}
	}
	if _, err := edit(ctx, e.Client.AppsV1().Deployments(metav1.NamespaceSystem), dnsName, func(d *appsv1.Deployment) error {
		if err := note(&d.ObjectMeta, *d.Spec.Replicas); err != nil {
			return err
		}
		*d.Spec.Replicas = 0
		return nil
	}); err != nil {
		return err
	}
	return e.Poll(ctx, "no pod to have an address", func() (bool, error) {
		if e.flannel() {
			for _, m := range e.Lab.Machines {
				if ports, err := e.onNode(m.Name, "ip", "-o", "link", "show", "master", flannelBridge); err != nil || strings.TrimSpace(ports) != "" {
					return false, err
				}
			}
			return true, nil
		}
		var list v1alpha1.NodeNetworkList
		if err := e.Objects.List(ctx, &list); err != nil {
			return false, fmt.Errorf("list NodeNetworks: %w", err)
		}
		used := 0
		for i := range list.Items {
			used += len(list.Items[i].Status.Used)
		}
		return used == 0, nil
	})
}

// restoreSurely installs this tree's chart again, if it is not there or is another version, and gives the cluster's DNS its pods; also
// after a failure or an interrupt.
func (e *env) restoreSurely(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), 4*time.Minute, errors.New("not done within four minutes"))
	defer cancel()
	_, err := edit(ctx, e.Client.AppsV1().Deployments(metav1.NamespaceSystem), dnsName, func(d *appsv1.Deployment) error {
		var before int32
		ok, err := noted(&d.ObjectMeta, &before)
		if ok {
			d.Spec.Replicas = &before
		}
		return err
	})
	err = errors.Join(err, e.heedAgain(ctx))
	there, ofThis := e.ofThisTree(ctx)
	if ofThis != nil || there {
		return errors.Join(err, ofThis)
	}
	// The job of an uninstallation that was refused stays, with its failed pod.
	background := metav1.DeletePropagationBackground
	job := e.Client.BatchV1().Jobs(metav1.NamespaceSystem).Delete(ctx, uninstallName, metav1.DeleteOptions{PropagationPolicy: &background})
	return errors.Join(err, client.IgnoreNotFound(job), e.Lab.Restore(ctx))
}

// ofThisTree reports whether the chart is installed as "up" installs it, no uninstallation of it was refused, and agents and controller
// are this tree's.
func (e *env) ofThisTree(ctx context.Context) (bool, error) {
	now, err := e.Lab.Release()
	if err != nil || now.Status != "deployed" {
		return false, err
	}
	set, err := e.Client.AppsV1().DaemonSets(metav1.NamespaceSystem).Get(ctx, e.agents(), metav1.GetOptions{})
	if err != nil {
		return false, client.IgnoreNotFound(err)
	}
	d, err := e.Client.AppsV1().Deployments(metav1.NamespaceSystem).Get(ctx, controllerName, metav1.GetOptions{})
	if err != nil {
		return false, client.IgnoreNotFound(err)
	}
	return set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType && slices.ContainsFunc(set.Spec.Template.Spec.Containers, func(c corev1.Container) bool { return c.Image == lab.ImageTerway }) && d.Spec.Template.Spec.Containers[0].Image == lab.ImageTerway, nil
}

// traceKinds are what exists in every lab with a network while pods run. Queueing disciplines exist with some datapaths and with policies.
var traceKinds = map[string][]string{
	lab.NetworkTerway:  {"device", "rule", "route", "nft table", "file", "ENI in the cloud", "NodeNetwork", "mark on a Node", "Lease", "object of the chart"},
	lab.NetworkFlannel: {"device", "address", "route", "nft table", "file", "route entry in the cloud", "mark on a Node", "Lease", "object of the chart"},
}

// lacks returns a kind of which there is nothing, "" if there is none. The numbers may change: free ENIs are given back.
func (e *env) lacks(traces map[string][]string) string {
	for _, kind := range traceKinds[e.Lab.Options.Network] {
		if len(traces[kind]) == 0 {
			return kind
		}
	}
	return ""
}

// numbers returns how many there are of each kind.
func numbers(traces map[string][]string) map[string]int {
	n := map[string]int{}
	for kind, list := range traces {
		n[kind] = len(list)
	}
	return n
}

// traces returns what there is of Terway on the nodes, in the cluster and in the cloud, by kind. Kinds of which there is nothing are left out.
func (e *env) traces(ctx context.Context) (map[string][]string, error) {
	n := map[string][]string{}
	found := func(kind string, names ...string) {
		if len(names) > 0 {
			n[kind] = append(n[kind], names...)
		}
	}
	objects, err := e.chartObjects(ctx)
	if err != nil {
		return nil, err
	}
	found("object of the chart", objects...)
	for _, m := range e.Lab.Machines {
		onNode, err := e.nodeTraces(m)
		if err != nil {
			return nil, err
		}
		for kind, lines := range onNode {
			for _, line := range lines {
				found(kind, m.Name+": "+line)
			}
		}
		enis, err := e.Lab.Cloud.ENIs(ctx, m.InstanceID)
		if err != nil {
			return nil, err
		}
		for _, i := range enis {
			if i.Type != "Primary" {
				found("ENI in the cloud", i.ID)
			}
		}
		node, err := e.Client.CoreV1().Nodes().Get(ctx, m.Name, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("read Node %s: %w", m.Name, err)
		}
		found("mark on a Node", marks(node)...)
	}
	// Detached ENIs are on no instance.
	enis, err := e.Lab.Cloud.ENIs(ctx, "")
	if err != nil {
		return nil, err
	}
	for _, i := range enis {
		if i.Type != "Primary" && i.Status != "InUse" {
			found("ENI in the cloud", i.ID)
		}
	}
	routes, err := e.Lab.Cloud.Routes(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		if r.Name == "terway-"+lab.ClusterID {
			found("route entry in the cloud", r.To.String())
		}
	}
	var networks v1alpha1.NodeNetworkList
	err = e.Objects.List(ctx, &networks)
	if err != nil && !meta.IsNoMatchError(err) && !apierrors.IsNotFound(err) { // the kind is gone
		return nil, fmt.Errorf("list NodeNetworks: %w", err)
	}
	for _, i := range networks.Items {
		found("NodeNetwork", i.Name)
	}
	var leases coordinationv1.LeaseList
	if err := e.Objects.List(ctx, &leases, client.InNamespace(metav1.NamespaceSystem)); err != nil {
		return nil, fmt.Errorf("list Leases: %w", err)
	}
	for _, l := range leases.Items {
		if l.Name == controllerName || l.Labels[claims.LabelLease] != "" {
			found("Lease", l.Name)
		}
	}
	return n, nil
}

// nodeTraces returns what there is of Terway on a node, by kind. Kinds of which there is nothing are left out. An eBPF program of Terway's lives as
// long as its qdisc clsact, or its device.
func (e *env) nodeTraces(m lab.Machine) (map[string][]string, error) {
	n := map[string][]string{}
	for _, look := range []struct {
		kind    string
		command []string
		ours    func(line string) bool
	}{
		{"device", []string{"ip", "-o", "link"}, ourDevice},
		{"address", []string{"ip", "-o", "address"}, func(l string) bool { return ourAddress(l, m.Address) }},
		{"rule", []string{"ip", "rule"}, ourRule},
		{"rule", []string{"ip", "-6", "rule"}, ourRule},
		{"route", []string{"ip", "route", "show", "table", "all"}, ourRoute},
		{"route", []string{"ip", "-6", "route", "show", "table", "all"}, ourRoute},
		{"qdisc", []string{"tc", "qdisc", "show"}, func(l string) bool { return strings.Contains(l, " clsact ") }},
		{"nft table", []string{"nft", "list", "tables"}, ourTable},
		{"file", []string{"sh", "-c", "ls -d " + strings.Join(nodeFiles[e.Lab.Options.Network], " ") + " 2>/dev/null; true"}, func(l string) bool { return l != "" }},
	} {
		out, err := e.onNode(m.Name, look.command...)
		if err != nil {
			return nil, err
		}
		for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
			if look.ours(line) {
				n[look.kind] = append(n[look.kind], line)
			}
		}
	}
	return n, nil
}

// chartKinds are the kinds of which the chart, or what it starts, makes objects.
var chartKinds = []schema.GroupVersionKind{
	{Version: "v1", Kind: "ServiceAccount"}, {Version: "v1", Kind: "ConfigMap"}, {Version: "v1", Kind: "Secret"}, {Version: "v1", Kind: "Service"}, {Version: "v1", Kind: "Pod"},
	{Group: "apps", Version: "v1", Kind: "DaemonSet"}, {Group: "apps", Version: "v1", Kind: "Deployment"}, {Group: "batch", Version: "v1", Kind: "Job"},
	{Group: "policy", Version: "v1", Kind: "PodDisruptionBudget"}, {Group: "discovery.k8s.io", Version: "v1", Kind: "EndpointSlice"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRole"}, {Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRoleBinding"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "Role"}, {Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "RoleBinding"},
	{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "MutatingWebhookConfiguration"},
	{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "ValidatingAdmissionPolicy"},
	{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "ValidatingAdmissionPolicyBinding"},
	{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"},
}

// chartObjects returns the chart's objects, and those that are made by what it starts.
func (e *env) chartObjects(ctx context.Context) (names []string, err error) {
	for _, kind := range chartKinds {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(kind)
		if err := e.Objects.List(ctx, list); err != nil {
			return nil, fmt.Errorf("list %s: %w", kind.Kind, err)
		}
		for i := range list.Items {
			if ofChart(&list.Items[i].ObjectMeta) {
				names = append(names, kind.Kind+" "+list.Items[i].Name)
			}
		}
	}
	return names, nil
}

// ofChart tells an object of the chart by its name or label. The kinds of policies have neither, and stay.
func ofChart(o *metav1.ObjectMeta) bool {
	return strings.HasPrefix(o.Name, "terway") || strings.HasSuffix(o.Name, "."+v1alpha1.GroupVersion.Group) || o.Labels["app.kubernetes.io/part-of"] == "terway"
}

// nodeFiles are those of a network on a node. The lab itself installs plugins where there is no Flannel.
var nodeFiles = map[string][]string{
	lab.NetworkTerway: {"/etc/cni/net.d/*terway*", "/opt/cni/bin/terway", "/sys/fs/bpf/*terway*", "/sys/fs/bpf/tw_*", "/run/terway/*.sock", "/run/terway/state/*.db", "/var/lib/terway/*",
		"/etc/NetworkManager/conf.d/*terway*", "/etc/systemd/network/*terway*", "/etc/systemd/networkd.conf.d/*terway*"},
	lab.NetworkFlannel: {"/etc/cni/net.d/*flannel*", "/opt/cni/bin/bridge", "/opt/cni/bin/host-local", "/opt/cni/bin/portmap", "/var/lib/cni/networks/*", "/run/flannel/*"},
}

// flannelBridge is the device that connects a node's pods with Flannel.
const flannelBridge = "cni0"

// ourDevice tells a line of "ip -o link".
func ourDevice(line string) bool {
	f := strings.Fields(line)
	return len(f) > 1 && (strings.HasPrefix(f[1], claims.DevicePrefix) || f[1] == flannelBridge+":" || strings.Contains(line, " master "+flannelBridge+" "))
}

// ourTable tells a line of "nft list tables".
func ourTable(line string) bool {
	return slices.ContainsFunc([]string{"terway", "flannel"}, func(name string) bool { return strings.Contains(line, name) })
}

// ourAddress tells a line of "ip -o address": a node without Terway has one address, beside those of loopback and of its links alone.
func ourAddress(line string, own netip.Addr) bool {
	f := strings.Fields(line)
	if len(f) < 4 || f[1] == "lo" {
		return false
	}
	p, err := netip.ParsePrefix(f[3])
	return err == nil && p.Addr() != own && !p.Addr().IsLinkLocalUnicast()
}

// ourRule tells a line of "ip rule": the kernel has three of its own, and a node of the lab has no others.
func ourRule(line string) bool {
	priority, _, ok := strings.Cut(line, ":")
	return ok && priority != "0" && priority != "32766" && priority != "32767"
}

// ourRoute tells a line of "ip route show table all": in a table by its number, or to a device of ours.
func ourRoute(line string) bool {
	f := strings.Fields(line)
	for i := 1; i < len(f); i++ {
		switch f[i-1] {
		case "table":
			if f[i] != "local" && f[i] != "main" && f[i] != "default" {
				return true
			}
		case "dev":
			if strings.HasPrefix(f[i], claims.DevicePrefix) || f[i] == flannelBridge {
				return true
			}
		}
	}
	return false
}

// marks returns what the controller has added to a Node.
func marks(n *corev1.Node) (list []string) {
	for _, key := range []string{claims.AnnotationMaxPods, claims.AnnotationPodCIDR} {
		if _, ok := n.Annotations[key]; ok {
			list = append(list, n.Name+": "+key)
		}
	}
	for _, t := range n.Spec.Taints {
		if t.Key == claims.TaintNotReady {
			list = append(list, n.Name+": "+t.Key)
		}
	}
	return list
}
