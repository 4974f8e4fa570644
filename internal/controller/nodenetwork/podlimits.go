package nodenetwork

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/controller/podlimits"
)

// PodLimits are the limits of pods' bandwidth in their annotations; podlimits.Watcher implements it and
// documents each call.
type PodLimits interface {
	Get(pod types.NamespacedName) (p podlimits.Pod, limited, known bool)
	Read(ctx context.Context, pod types.NamespacedName) (p podlimits.Pod, limited bool, err error)
}

// indexPod indexes NodeNetworks by the pods that have their addresses.
const indexPod = "terway.pod"

func podsOf(o client.Object) (pods []string) {
	for _, u := range o.(*v1alpha1.NodeNetwork).Status.Used {
		if u.Pod != "" { // the runtime named it
			pods = append(pods, u.Pod)
		}
	}
	return pods
}

// PodLimitsChanged requests a reconcile of the nodes that have these pods. A controller that starts names all
// limited pods at once. A node that reports a pod later is reconciled then.
func (r *Reconciler) PodLimitsChanged(ctx context.Context, pods []types.NamespacedName) {
	woken := map[string]bool{}
	for _, pod := range pods {
		var of v1alpha1.NodeNetworkList
		if err := r.Client.List(ctx, &of, client.MatchingFields{indexPod: pod.String()}, client.UnsafeDisableDeepCopy); err != nil {
			r.Log.Error("find the node of a pod whose bandwidth limits have changed", "pod", pod, "error", err)
			continue
		}
		for i := range of.Items {
			r.wakeOnce(ctx, woken, &of.Items[i].ObjectMeta)
		}
	}
}

// wakeOnce requests a reconcile of a node that is not in woken yet. It waits while the queue is full.
func (r *Reconciler) wakeOnce(ctx context.Context, woken map[string]bool, nn *metav1.ObjectMeta) {
	if woken[nn.Name] {
		return
	}
	woken[nn.Name] = true
	select {
	case r.wake <- event.GenericEvent{Object: &v1alpha1.NodeNetwork{ObjectMeta: *nn}}:
	case <-ctx.Done():
	}
}

// limitPods writes the limits of the node's pods into the spec: of those that have annotations now, and
// 0 for those that the agent limits and that have none any more. A pod with wrong annotations, which
// it can only have got while no webhook answered, keeps what it has.
func (w *work) limitPods(ctx context.Context) {
	if w.PodLimits == nil {
		return
	}
	was, list := map[string]v1alpha1.PodLimits{}, map[string]v1alpha1.PodLimits{}
	for _, l := range w.nn.Spec.PodLimits {
		was[l.UID] = l
	}
	for _, u := range w.nn.Status.Used {
		namespace, name, ok := strings.Cut(u.Pod, "/")
		if !ok {
			continue // the runtime did not name the pod
		}
		pod := types.NamespacedName{Namespace: namespace, Name: name}
		p, limited, known := w.PodLimits.Get(pod)
		if !known {
			w.whenKnown()
			return
		}
		if !limited && u.Limits != nil {
			// The watch may be behind this pod: only the API server itself takes a limit away.
			var err error
			if p, limited, err = w.PodLimits.Read(ctx, pod); err != nil {
				w.Log.Warn("it is not known whether a pod has lost its bandwidth limits", "node", w.name, "pod", pod, "error", err)
				w.again(w.Retry)
				if l, had := was[u.Limits.UID]; had {
					list[u.Limits.UID] = l
				}
				continue
			}
		}
		uid := string(p.UID)
		switch {
		case limited && p.Err != nil:
			w.warnPod(pod, p.UID, "BandwidthLimitInvalid", "%v; the pod keeps the limit that it has", p.Err)
			if l, had := was[uid]; had {
				list[uid] = l
			}
		case limited:
			list[uid] = v1alpha1.PodLimits{UID: uid, Ingress: int64(p.Limits.Ingress), Egress: int64(p.Limits.Egress)}
			w.compareLimits(pod, p)
		case u.Limits != nil && uid == u.Limits.UID:
			list[uid] = v1alpha1.PodLimits{UID: uid}
		}
	}
	w.nn.Spec.PodLimits = nil
	for _, l := range list {
		w.nn.Spec.PodLimits = append(w.nn.Spec.PodLimits, l)
	}
	slices.SortFunc(w.nn.Spec.PodLimits, func(a, b v1alpha1.PodLimits) int { return cmp.Compare(a.UID, b.UID) })
}

// whenKnown reconciles a node with limited pods again, as not all pods were read yet: nothing else tells of annotations
// that were removed while no controller ran.
func (w *work) whenKnown() {
	if slices.ContainsFunc(w.nn.Status.Used, func(u v1alpha1.UsedAddress) bool { return u.Limits != nil }) {
		w.again(w.Retry)
	}
}

// compareLimits warns of limits that the instance cannot reach.
func (w *work) compareLimits(pod types.NamespacedName, p podlimits.Pod) {
	if w.Bandwidth == nil {
		return
	}
	most, known := w.Bandwidth(w.nn.Spec.InstanceType)
	if limit := max(p.Limits.Ingress, p.Limits.Egress); known && limit > most {
		w.warnPod(pod, p.UID, "BandwidthLimitAboveType", "the pod's bandwidth limit of %s is more than its instance, of type %s, has: %s",
			bandwidth.Rate(limit), w.nn.Spec.InstanceType, bandwidth.Rate(most))
	}
}

// warnPod records a warning event on a pod, once.
func (w *work) warnPod(pod types.NamespacedName, uid types.UID, reason, format string, args ...any) {
	w.once(reason+" "+string(uid), fmt.Sprintf(format, args...), func(message string) {
		w.Log.Warn(message, "node", w.name, "pod", pod, "reason", reason)
		w.warn(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: uid}}, reason, message)
	})
}
