package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/datapath/claims"
	lb "terway.dev/terway/internal/loadbalancer"
)

// AnnotationUses is written with the finalizer, before the Service has anything in the cloud: "PRODUCT" for a load
// balancer of its own, "PRODUCT ID GROUP,GROUP" for one of the user's. By it what was made is found when the Service
// wants something else, and a Service that another controller has made a load balancer for is left alone.
const AnnotationUses = "network.terway.dev/uses-load-balancer"

// uses is the value of AnnotationUses.
type uses struct {
	product lb.Product
	id      string
	groups  []string
}

func (u uses) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s %s", u.product, u.id, strings.Join(u.groups, ",")))
}

func parseUses(text string) (u uses) {
	f := strings.Fields(text)
	if len(f) > 0 {
		u.product = lb.Product(f[0])
	}
	if len(f) > 1 {
		u.id = f[1]
	}
	if len(f) > 2 {
		u.groups = strings.Split(f[2], ",")
	}
	return u
}

// own makes the finalizer and the annotation say what the Service has in the cloud, before it has it. What it had
// before in another load balancer goes first.
func (w *work) own(ctx context.Context) error {
	now := uses{product: w.want.Product, id: w.want.ID}
	if w.want.ID != "" {
		for _, l := range w.want.Listeners {
			if l.GroupID != "" && !slices.Contains(now.groups, l.GroupID) {
				now.groups = append(now.groups, l.GroupID)
			}
		}
		slices.Sort(now.groups)
	}
	before := w.svc.Annotations[AnnotationUses]
	if before == now.String() && controllerutil.ContainsFinalizer(w.svc, Finalizer) {
		return nil
	}
	if was := parseUses(before); before != now.String() && controllerutil.ContainsFinalizer(w.svc, Finalizer) {
		if now.id != "" && now.id != was.id {
			if _, err := w.users(ctx); err != nil && was.product != "" {
				w.fail(err)
				w.stay(was)
				return nil
			} else if err != nil {
				return err
			}
		}
		if err := w.leave(ctx, was, now); err != nil {
			return err
		}
		if was.id == "" && (now.id != "" || was.product != "" && was.product != now.product) {
			if err := w.deleteOwn(ctx); err != nil {
				return err
			}
		}
		w.mu.Lock()
		w.balancer, w.groups, w.listeners, w.members, w.access = nil, map[string]*cloud.Group{}, nil, nil, nil
		w.read, w.accessRead, w.dirty = time.Time{}, time.Time{}, true
		w.mu.Unlock()
	}
	return w.patch(ctx, func(svc *corev1.Service) {
		controllerutil.AddFinalizer(svc, Finalizer)
		if svc.Annotations == nil {
			svc.Annotations = map[string]string{}
		}
		svc.Annotations[AnnotationUses] = now.String()
	})
}

// stay makes the Service want the load balancer that it has, while that which it names instead cannot be used.
func (w *work) stay(was uses) {
	svc := w.svc.DeepCopy()
	delete(svc.Annotations, lb.PrefixFormer+"id")
	svc.Annotations[lb.Prefix+"id"] = was.id
	class := lb.ClassCLB
	if was.product == lb.NLB {
		class = lb.ClassNLB
	}
	svc.Spec.LoadBalancerClass = &class
	w.want, _ = lb.Read(svc, Settings(w.Config.Get()))
	w.api = w.API(was.product)
}

// patch changes the Service's metadata, if it is as this process knows it.
func (w *work) patch(ctx context.Context, change func(*corev1.Service)) error {
	next := w.svc.DeepCopy()
	change(next)
	err := w.Client.Patch(ctx, next, client.MergeFromWithOptions(w.svc, client.MergeFromWithOptimisticLock{}))
	if err != nil {
		return fmt.Errorf("write the Service's finalizers and annotation %s: %w", AnnotationUses, err)
	}
	w.svc.ObjectMeta = next.ObjectMeta
	return nil
}

// clean removes from the cloud all that was made for the Service; then the finalizer.
func (w *work) clean(ctx context.Context) error {
	if err := w.leave(ctx, parseUses(w.svc.Annotations[AnnotationUses]), uses{}); err != nil {
		return err
	}
	if err := w.deleteOwn(ctx); err != nil {
		return err
	}
	if w.svc.DeletionTimestamp == nil && len(w.svc.Status.LoadBalancer.Ingress) > 0 {
		if err := w.setIngress(ctx, nil, "DeletedLoadBalancer", "the Service does not want a load balancer any more"); err != nil {
			return err
		}
	}
	err := w.patch(ctx, func(svc *corev1.Service) {
		controllerutil.RemoveFinalizer(svc, Finalizer)
		delete(svc.Annotations, AnnotationUses)
	})
	if err != nil && !apierrors.IsNotFound(errors.Unwrap(err)) {
		return err
	}
	w.forget(ctx, client.ObjectKeyFromObject(w.svc))
	return nil
}

// preserved reports whether the load balancer stays when the Service goes.
func preserved(svc *corev1.Service) bool {
	const name = "preserve-lb-on-delete"
	return svc.Annotations[lb.Prefix+name] != "" || svc.Annotations[lb.PrefixFormer+name] != ""
}

// deleteOwn deletes the load balancers that carry the Service's tag, of both products: a Service that is not ours any
// more does not say which it was. With preserve-lb-on-delete they stay, without protection and tags.
func (w *work) deleteOwn(ctx context.Context) error {
	for _, p := range []lb.Product{lb.CLB, lb.NLB} {
		api := w.API(p)
		found, err := w.mine(ctx, api)
		if err != nil {
			return err
		}
		keep := preserved(w.svc)
		for _, b := range found {
			if keep {
				if err := w.preserve(ctx, api, p, b.ID); err != nil {
					return err
				}
				continue
			}
			if err := api.DeleteBalancer(ctx, b.ID); err != nil {
				return err
			}
			w.Events.Eventf(w.svc, nil, corev1.EventTypeNormal, "DeletedLoadBalancer", "Reconcile", "load balancer %s", b.ID)
		}
		if keep {
			continue
		}
		lists, err := w.findAccess(ctx, api)
		if err != nil {
			return err
		}
		for _, l := range lists {
			if err := api.DeleteAccess(ctx, l.ID); err != nil {
				return err
			}
		}
		if p == lb.CLB {
			continue // its groups go with it
		}
		groups, err := api.ListGroups(ctx, "", TagService, string(w.svc.UID))
		if err != nil {
			return err
		}
		for _, g := range groups {
			if lb.IsOf(w.svc.UID, g.Name) {
				if err := api.DeleteGroup(ctx, g.ID); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// preserve takes protection and tags off a load balancer that stays, and holds its backends' addresses. The tag by which it
// is found goes with the last call.
func (w *work) preserve(ctx context.Context, api cloud.BalancerAPI, p lb.Product, id string) error {
	off := map[string]string{"DeleteProtection": "off", "ModificationProtectionStatus": "NonProtection"}
	if p == lb.NLB {
		off = map[string]string{"DeletionProtectionEnabled": "false", "ModificationProtectionStatus": "NonProtection"}
	}
	if err := api.SetBalancer(ctx, id, off); err != nil {
		return err
	}
	if err := api.SetTags(ctx, id, map[string]string{TagPreserved: w.Config.Get().ClusterID}, nil); err != nil {
		return err
	}
	if err := w.holdPreserved(ctx, api, id); err != nil {
		return err
	}
	if err := api.SetTags(ctx, id, nil, []string{claims.TagCreator, claims.TagCluster, TagServiceName, TagSecurityGroups, TagService}); err != nil {
		return err
	}
	w.Events.Eventf(w.svc, nil, corev1.EventTypeNormal, "PreservedLoadBalancer", "Reconcile", "load balancer %s stays, as the annotation preserve-lb-on-delete says", id)
	return nil
}

// leave removes the Service's listeners, groups and backends from a load balancer of the user's, but for what the
// Service uses of it now. A load balancer or group that is gone needs nothing.
func (w *work) leave(ctx context.Context, was, now uses) error {
	if was.id == "" {
		return nil
	}
	api := w.API(was.product)
	if was.id != now.id {
		if err := w.leaveBalancer(ctx, api, was.id); err != nil && cloud.ClassOf(err) != cloud.NotFound {
			return err
		}
	}
	for _, group := range was.groups {
		if was.id == now.id && slices.Contains(now.groups, group) {
			continue
		}
		if err := w.leaveGroup(ctx, api, was.product, group); err != nil && !isGone(err) {
			return err
		}
	}
	return nil
}

func (w *work) leaveBalancer(ctx context.Context, api cloud.BalancerAPI, id string) error {
	listeners, err := api.ListListeners(ctx, id)
	if err != nil {
		return err
	}
	for _, l := range listeners {
		if w.isOwn(&l) {
			if err := api.DeleteListener(ctx, l); err != nil {
				return err
			}
		}
	}
	groups, err := api.ListGroups(ctx, id, TagService, string(w.svc.UID))
	if err != nil {
		return err
	}
	for _, g := range groups {
		if !lb.IsOf(w.svc.UID, g.Name) {
			continue
		}
		// A listener of the user's may use it: then only the backends go.
		if err := api.DeleteGroup(ctx, g.ID); err != nil && cloud.Explain(err).Reason == "LoadBalancerPartInUse" {
			if err := w.leaveGroup(ctx, api, "", g.ID); err != nil {
				return err
			}
			w.Events.Eventf(w.svc, nil, corev1.EventTypeWarning, "GroupStays", "Reconcile", "server group %s stays without backends: a listener that is not of this Service uses it", g.ID)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// leaveGroup removes the Service's backends from a group.
func (w *work) leaveGroup(ctx context.Context, api cloud.BalancerAPI, p lb.Product, group string) error {
	list, err := api.ListBackends(ctx, group)
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(b cloud.Backend) bool { return !lb.IsOf(w.svc.UID, b.Description) })
	if p == "" {
		p = lb.CLB // the smaller batches
	}
	for some := range slices.Chunk(list, lb.LimitsOf(p).PerCall) {
		if err := api.RemoveBackends(ctx, group, some); err != nil {
			return err
		}
	}
	return nil
}

// isGone reports whether an error says that a group does not exist. CLB has no code for it.
func isGone(err error) bool {
	return cloud.ClassOf(err) == cloud.NotFound || cloud.CodeOf(err) == "InvalidParameter" && strings.Contains(err.Error(), "does not exist")
}
