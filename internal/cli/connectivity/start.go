package connectivity

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cli/agents"
	"terway.dev/terway/internal/connectivity"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/inventory"
	"terway.dev/terway/internal/pages"
)

// start makes the pods and Services, and returns those that have started.
func (r *run) start(ctx context.Context, sample []*corev1.Node, networks []v1alpha1.NodeNetwork) (*connectivity.World, error) {
	// Pods are refused until the namespace has its service account.
	err := r.until(ctx, making, func() (bool, error) {
		err := r.reader.Get(ctx, client.ObjectKey{Namespace: r.namespace, Name: "default"}, &corev1.ServiceAccount{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return nil, agents.Explain(r.reader.Host, "get the service account of namespace "+r.namespace, err)
	}
	exclusive := map[string]bool{}
	for _, nn := range networks {
		exclusive[nn.Name] = nn.Spec.Mode == claims.ModeExclusive
	}
	w := &connectivity.World{Port: port, ServicePort: servicePort, Outside: r.outside}
	for i, n := range sample {
		site := connectivity.Site{Node: connectivity.Node{Name: n.Name, Address: internalIP(n), KubeletPort: int(n.Status.DaemonEndpoints.KubeletEndpoint.Port)}}
		a, b := fmt.Sprintf("a%d", i+1), fmt.Sprintf("b%d", i+1)
		for _, name := range []string{a, b} {
			if err := r.create(ctx, newPod(r.namespace, name, n.Name, r.image, exclusive[n.Name], r.wait+life), "pod "+name); err != nil {
				return nil, err
			}
		}
		s := newService(r.namespace, fmt.Sprintf("to-%d", i+1), b)
		if err := r.create(ctx, s, "Service "+s.Name); err != nil {
			return nil, err
		}
		site.A, site.B, site.Service = connectivity.Pod{Name: a, Node: n.Name}, connectivity.Pod{Name: b, Node: n.Name}, s.Spec.ClusterIP
		w.Sites = append(w.Sites, site)
	}
	fmt.Fprintf(r.say, "waiting for %d pods on %d nodes in namespace %s\n", 2*len(sample), len(sample), r.namespace)
	if err := r.started(ctx, w); err != nil {
		return nil, err
	}
	return w, r.dns(ctx, w)
}

func internalIP(n *corev1.Node) string {
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return a.Address
		}
	}
	return ""
}

// until asks again until something is so, or the time is over, which is no error.
func (r *run) until(ctx context.Context, most time.Duration, is func() (bool, error)) error {
	for began := time.Now(); ; {
		if ok, err := is(); err != nil || ok || time.Since(began) > most {
			return err
		}
		select {
		case <-time.After(r.poll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// started waits for the pods, and adds addresses and ENIs of those that have started. Each other is a
// finding.
func (r *run) started(ctx context.Context, w *connectivity.World) error {
	pods := map[string]*corev1.Pod{}
	in := client.InNamespace(r.namespace)
	err := r.until(ctx, r.wait, func() (bool, error) {
		var list corev1.PodList
		if err := r.reader.List(ctx, &list, in); err != nil {
			return false, r.reader.Explain("pods in "+r.namespace, err)
		}
		settled := len(list.Items) == 2*len(w.Sites)
		for i := range list.Items {
			p := &list.Items[i]
			pods[p.Name] = p
			settled = settled && (ready(p) || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded)
		}
		return settled, nil
	})
	if err != nil {
		return err
	}
	var events corev1.EventList
	for i := range w.Sites {
		for _, p := range []*connectivity.Pod{&w.Sites[i].A, &w.Sites[i].B} {
			switch of := pods[p.Name]; {
			case of != nil && ready(of):
				p.Address = of.Status.PodIP
				continue
			case of == nil:
				of = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: p.Name}}
				fallthrough
			default:
				if events.Items == nil {
					if err := r.reader.List(ctx, &events, in); err != nil {
						return r.reader.Explain("events in "+r.namespace, err)
					}
				}
				r.report.Findings = append(r.report.Findings, connectivity.Finding{
					Hops: []connectivity.Hop{{Kind: connectivity.HopStart, Name: p.Name, Node: p.Node}}, Told: true,
					Message: fmt.Sprintf("a pod on node %s has not started in %s: %s", p.Node, r.wait, why(of, events.Items)),
					Next:    "terwayctl status, and the log of the node's agent",
				})
			}
		}
	}
	return r.until(ctx, reported, func() (bool, error) {
		networks, err := r.reader.Networks(ctx)
		if err != nil {
			return false, err
		}
		enis, all := enisOf(networks), true
		for i := range w.Sites {
			for _, p := range []*connectivity.Pod{&w.Sites[i].A, &w.Sites[i].B} {
				if p.Address != "" {
					p.ENI = enis[p.Address].ENI
					all = all && p.ENI != ""
				}
			}
		}
		return all, nil
	})
}

// enisOf returns the pods' addresses, by address.
func enisOf(networks []v1alpha1.NodeNetwork) map[string]inventory.PodAddress {
	all := map[string]inventory.PodAddress{}
	for _, a := range inventory.Addresses(networks) {
		all[a.Address] = a
	}
	return all
}

// dns finds what DNS must know, and some of the pods that serve it.
func (r *run) dns(ctx context.Context, w *connectivity.World) error {
	w.Name = "kubernetes.default.svc"
	var api corev1.Service
	switch err := r.reader.Get(ctx, client.ObjectKey{Namespace: metav1.NamespaceDefault, Name: "kubernetes"}, &api); {
	case err == nil:
		w.NameIs = api.Spec.ClusterIP
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		r.lack("which address DNS should know is not known: %v", err)
	}
	networks, err := r.reader.Networks(ctx)
	if err != nil {
		return err
	}
	enis := enisOf(networks)
	var servers []connectivity.Pod
	for page, err := range pages.Of(ctx, r.reader.Reader, &discoveryv1.EndpointSliceList{}, client.InNamespace(metav1.NamespaceSystem), client.MatchingLabels{discoveryv1.LabelServiceName: "kube-dns"}) {
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.lack("the pods that serve DNS, one by one: %v", err)
			break
		}
		for _, slice := range page.Items {
			for _, e := range slice.Endpoints {
				if len(e.Addresses) == 0 || e.Conditions.Ready == nil || !*e.Conditions.Ready {
					continue
				}
				// Pods of other networks take other ways.
				if a, ours := enis[e.Addresses[0]]; ours {
					servers = append(servers, connectivity.Pod{Name: a.Pod, Node: a.Node, Address: a.Address, ENI: a.ENI})
				}
			}
		}
	}
	slices.SortFunc(servers, func(a, b connectivity.Pod) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Name, b.Name))
	})
	w.DNSPods = servers[:min(dnsPods, len(servers))]
	return nil
}
