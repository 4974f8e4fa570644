package checks

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

var uninstalled = verify.Check{
	Name:    "uninstall",
	About:   "helm uninstall is refused while a pod runs, which answers all the time; without pods it leaves nothing on the nodes, in the cluster and in the cloud; installed again, pods reach each other",
	NotFor:  map[string]string{lab.NetworkFlannel: "the chart has no job that uninstalls it"},
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
		if kind := lacks(before); kind != "" {
			return "", fmt.Errorf("before: no %s of Terway's: what is not seen now cannot be seen to be gone", kind)
		}
		defer func() { err = errors.Join(err, e.restoreSurely(ctx)) }()
		began := time.Now()
		named := e.Namespace + "/" + pods[0].Name
		if err := e.Lab.Uninstall(ctx); err == nil || !strings.Contains(err.Error(), named) {
			return "", fmt.Errorf("helm uninstall while pod %s runs: want a refusal that names it, got %w", named, err)
		}
		refused := time.Since(began)
		if now, err := e.traces(ctx); err != nil || lacks(now) != "" {
			return "", errors.Join(fmt.Errorf("after the refusal there are %v, before %v", now, before), err)
		}
		if _, err := e.Curl(ctx, pods[0].Name, instruments.URL(pods[1].Status.PodIP, instruments.HTTPPort, "hostname")); err != nil {
			return "", fmt.Errorf("after the refusal: %w", err)
		}
		if err := e.noPods(ctx, pods); err != nil {
			return "", err
		}
		began = time.Now()
		if err := e.Lab.Uninstall(ctx); err != nil {
			return "", err
		}
		took := time.Since(began)
		left, err := e.traces(ctx)
		if err != nil {
			return "", err
		}
		if len(left) > 0 {
			return "", fmt.Errorf("helm uninstall left %v; before there were %v", left, before)
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
			refused.Seconds(), named, before, took.Seconds(), time.Since(began).Seconds()), nil
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

const dnsName = "coredns"

// noPods ends the pods of the check and those of the cluster's DNS, and waits until no agent has one of them.
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
	there, ofThis := e.ofThisTree(ctx)
	if ofThis != nil || there {
		return errors.Join(err, ofThis)
	}
	// The job of an uninstallation that was refused stays, with its failed pod.
	background := metav1.DeletePropagationBackground
	job := e.Client.BatchV1().Jobs(metav1.NamespaceSystem).Delete(ctx, "terway-uninstall", metav1.DeleteOptions{PropagationPolicy: &background})
	return errors.Join(err, client.IgnoreNotFound(job), e.Lab.Restore(ctx))
}

// ofThisTree reports whether the chart is installed as "up" installs it, no uninstallation of it was refused, and agents and controller
// are this tree's.
func (e *env) ofThisTree(ctx context.Context) (bool, error) {
	_, status, err := e.Lab.Revision(ctx)
	if err != nil || status != "deployed" {
		return false, err
	}
	set, err := e.Client.AppsV1().DaemonSets(metav1.NamespaceSystem).Get(ctx, agentName, metav1.GetOptions{})
	if err != nil {
		return false, client.IgnoreNotFound(err)
	}
	d, err := e.Client.AppsV1().Deployments(metav1.NamespaceSystem).Get(ctx, controllerName, metav1.GetOptions{})
	if err != nil {
		return false, client.IgnoreNotFound(err)
	}
	return set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType && set.Spec.Template.Spec.Containers[0].Image == lab.ImageTerway && d.Spec.Template.Spec.Containers[0].Image == lab.ImageTerway, nil
}

// traceKinds are what exists in every lab with Terway while pods run. Queueing disciplines exist with some datapaths and with policies.
var traceKinds = []string{"device", "rule", "route", "nft table", "file", "ENI in the cloud", "NodeNetwork", "mark on a Node", "Lease"}

// lacks returns a kind of which there is nothing, "" if there is none. The numbers may change: free ENIs are given back.
func lacks(traces map[string]int) string {
	for _, kind := range traceKinds {
		if traces[kind] == 0 {
			return kind
		}
	}
	return ""
}

// traces counts what there is of Terway on the nodes, in the cluster and in the cloud. Kinds of which there is nothing are left out.
func (e *env) traces(ctx context.Context) (map[string]int, error) {
	n := map[string]int{}
	count := func(kind string, k int) {
		if k > 0 {
			n[kind] += k
		}
	}
	for _, m := range e.Lab.Machines {
		for kind, look := range map[string]struct {
			command []string
			ours    func(line string) bool
		}{
			"device":    {[]string{"ip", "-o", "link"}, ourDevice},
			"rule":      {[]string{"ip", "rule"}, ourRule},
			"route":     {[]string{"ip", "route", "show", "table", "all"}, ourRoute},
			"qdisc":     {[]string{"tc", "qdisc", "show"}, func(l string) bool { return strings.Contains(l, " clsact ") }},
			"nft table": {[]string{"nft", "list", "tables"}, func(l string) bool { return strings.Contains(l, "terway") }},
			"file":      {[]string{"sh", "-c", "ls -d " + strings.Join(nodeFiles, " ") + " 2>/dev/null; true"}, func(l string) bool { return l != "" }},
		} {
			out, err := e.onNode(m.Name, look.command...)
			if err != nil {
				return nil, err
			}
			for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
				if look.ours(line) {
					count(kind, 1)
				}
			}
		}
		enis, err := e.Lab.Cloud.ENIs(ctx, m.InstanceID)
		if err != nil {
			return nil, err
		}
		count("ENI in the cloud", len(enis)-1) // its primary one
		node, err := e.Client.CoreV1().Nodes().Get(ctx, m.Name, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("read Node %s: %w", m.Name, err)
		}
		count("mark on a Node", marks(node))
	}
	// Detached ENIs are on no instance.
	enis, err := e.Lab.Cloud.ENIs(ctx, "")
	if err != nil {
		return nil, err
	}
	for _, i := range enis {
		if i.Type != "Primary" && i.Status != "InUse" {
			count("ENI in the cloud", 1)
		}
	}
	var networks v1alpha1.NodeNetworkList
	err = e.Objects.List(ctx, &networks)
	if err != nil && !meta.IsNoMatchError(err) && !apierrors.IsNotFound(err) { // the kind is gone
		return nil, fmt.Errorf("list NodeNetworks: %w", err)
	}
	count("NodeNetwork", len(networks.Items))
	var leases coordinationv1.LeaseList
	if err := e.Objects.List(ctx, &leases, client.InNamespace(metav1.NamespaceSystem)); err != nil {
		return nil, fmt.Errorf("list Leases: %w", err)
	}
	for _, l := range leases.Items {
		if l.Name == controllerName || l.Labels[claims.LabelLease] != "" {
			count("Lease", 1)
		}
	}
	return n, nil
}

// nodeFiles are Terway's on a node.
var nodeFiles = []string{"/etc/cni/net.d/*terway*", "/opt/cni/bin/terway", "/run/terway/*.sock", "/run/terway/state/*.db", "/var/lib/terway/*",
	"/etc/NetworkManager/conf.d/*terway*", "/etc/systemd/network/*terway*", "/etc/systemd/networkd.conf.d/*terway*"}

// ourDevice tells a line of "ip -o link".
func ourDevice(line string) bool {
	f := strings.Fields(line)
	return len(f) > 1 && strings.HasPrefix(f[1], claims.DevicePrefix)
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
			if strings.HasPrefix(f[i], claims.DevicePrefix) {
				return true
			}
		}
	}
	return false
}

// marks counts what the controller has added to a Node.
func marks(n *corev1.Node) (count int) {
	if _, ok := n.Annotations[claims.AnnotationMaxPods]; ok {
		count++
	}
	for _, t := range n.Spec.Taints {
		if t.Key == claims.TaintNotReady {
			count++
		}
	}
	return count
}
