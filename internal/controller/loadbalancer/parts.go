package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/internal/cloud"
	lb "terway.dev/terway/internal/loadbalancer"
)

// reread makes the next reconcile read what the cloud has: a call has failed.
func (w *work) reread(err error) error {
	if err != nil {
		w.dirty = true
	}
	return err
}

// attributes makes the settings of an own load balancer what the Service wants.
func (w *work) attributes(ctx context.Context) error {
	b := w.balancer
	set, refused := lb.Differences(w.want.Product, lb.OfLoadBalancer, w.want.Attributes, b.Settings)
	w.refuse(refused)
	if len(set) > 0 {
		if err := w.api.SetBalancer(ctx, b.ID, set); err != nil {
			return w.reread(err)
		}
		maps.Copy(b.Settings, set)
	}
	vpc, err := w.inVPC(ctx)
	if err != nil {
		return err
	}
	missing := map[string]string{}
	for k, v := range w.tags(vpc) {
		if is, has := b.Tags[k]; !has || is != v {
			missing[k] = v
		}
	}
	if len(missing) > 0 {
		if err := w.api.SetTags(ctx, b.ID, missing, nil); err != nil {
			return w.reread(err)
		}
		maps.Copy(b.Tags, missing)
	}
	if w.want.Product != lb.NLB {
		return nil
	}
	if want := zones(w.want.Zones); len(want) > 0 && !maps.Equal(want, b.Zones) {
		if err := w.api.SetZones(ctx, b.ID, want); err != nil {
			return w.reread(err)
		}
		b.Zones = want
	}
	return w.securityGroups(ctx)
}

// securityGroups makes an NLB join the security groups that are wanted, and leave those that it has joined for the Service
// and that are not wanted any more. Those that somebody else has made it join are left alone.
func (w *work) securityGroups(ctx context.Context) error {
	b := w.balancer
	joined := strings.Split(b.Tags[TagSecurityGroups], ",")
	if w.access != nil {
		joined = append(joined, w.access.ID)
	}
	ours := slices.DeleteFunc(slices.Clone(b.SecurityGroups), func(id string) bool { return !slices.Contains(joined, id) })
	join, leave := missingFrom(w.want.SecurityGroups, b.SecurityGroups), missingFrom(ours, w.want.SecurityGroups)
	if err := w.tagJoined(ctx, append(slices.Clone(ours), join...)); err != nil {
		return err
	}
	if len(join)+len(leave) > 0 {
		if err := w.api.SetSecurityGroups(ctx, b.ID, join, leave); err != nil {
			return w.reread(err)
		}
		b.SecurityGroups = append(missingFrom(b.SecurityGroups, leave), join...)
		if err := w.tagJoined(ctx, append(missingFrom(ours, leave), join...)); err != nil {
			return err
		}
	}
	var err error
	if others := missingFrom(b.SecurityGroups, w.want.SecurityGroups); len(w.want.Sources) > 0 && len(others) > 0 {
		err = fmt.Errorf("load balancer %s is in the security groups %s, too, whose rules let in others than spec.loadBalancerSourceRanges: make it leave them, as Terway has not made it join them", b.ID, strings.Join(others, ", "))
	}
	w.warn("OtherSecurityGroups", err)
	return nil
}

// tagJoined notes on an NLB, before and after it joins and leaves, which security groups are ours to leave.
func (w *work) tagJoined(ctx context.Context, joined []string) error {
	slices.Sort(joined)
	value := strings.Join(slices.Compact(joined), ",")
	if w.balancer.Tags[TagSecurityGroups] == value {
		return nil
	}
	add, remove := map[string]string{TagSecurityGroups: value}, []string(nil)
	if value == "" {
		add, remove = nil, []string{TagSecurityGroups}
	}
	if err := w.api.SetTags(ctx, w.balancer.ID, add, remove); err != nil {
		return w.reread(err)
	}
	w.balancer.Tags[TagSecurityGroups] = value
	return nil
}

// missingFrom returns what is in a and not in b.
func missingFrom(a, b []string) (list []string) {
	for _, x := range a {
		if !slices.Contains(b, x) {
			list = append(list, x)
		}
	}
	return list
}

// makeGroups makes the groups that the listeners need, with their backends, and sets what differs in those that are
// there.
func (w *work) makeGroups(ctx context.Context) {
	for _, l := range w.want.Listeners {
		name := lb.Name(w.svc.UID, l)
		if l.GroupID != "" || l.Wrong {
			continue
		}
		g := w.groups[name]
		if g == nil {
			id, err := w.makeGroup(ctx, name, l)
			if err != nil {
				w.fail(fmt.Errorf("listener %d: %w", l.Port, w.reread(err)))
				continue
			}
			w.groups[name] = &cloud.Group{ID: id, Name: name, Settings: maps.Clone(l.Group)}
			w.fill(ctx, id, []cloud.Backend{})
			w.meanwhile(ctx)
			continue
		}
		set, refused := lb.Differences(w.want.Product, lb.OfGroup, l.Group, g.Settings)
		w.refuse(refused)
		if len(set) > 0 {
			if err := w.api.SetGroup(ctx, g.ID, set); err != nil {
				w.fail(fmt.Errorf("listener %d: %w", l.Port, w.reread(err)))
				continue
			}
			maps.Copy(g.Settings, set)
			w.meanwhile(ctx)
		}
	}
}

// meanwhile makes the groups have the backends that are wanted by now: a change of something else may take seconds,
// and there may be many.
func (w *work) meanwhile(ctx context.Context) {
	ctx = cloud.WithPriority(ctx, cloud.PodsWait)
	targets, err := w.targets(ctx)
	if err != nil {
		w.fail(err)
		return
	}
	w.backends(ctx, targets)
}

// makeGroup makes a group. Its token is of this moment: a group that a killed predecessor made is found by its
// name and tag.
func (w *work) makeGroup(ctx context.Context, name string, l lb.Listener) (string, error) {
	vpc, err := w.inVPC(ctx)
	if err != nil {
		return "", err
	}
	return w.api.CreateGroup(ctx, w.balancer.ID, cloud.NewGroup{
		Token: fmt.Sprintf("%d-%s", w.Now().UnixNano(), w.svc.UID[:min(36, len(w.svc.UID))]), Name: name, Protocol: groupProtocol(l), VPC: vpc, Tags: w.tags(vpc), Settings: l.Group,
	})
}

func groupProtocol(l lb.Listener) string {
	if l.Protocol == lb.UDP {
		return "UDP"
	}
	return "TCP"
}

// isOwn reports whether a listener is the Service's.
func (w *work) isOwn(l *cloud.Listener) bool { return lb.IsOf(w.svc.UID, l.Description) }

// makeListeners makes the listeners that the Service wants, and deletes those of its own that it does not want. What
// fails concerns one listener.
func (w *work) makeListeners(ctx context.Context) {
	kept := w.listeners[:0:0]
	for i := range w.listeners {
		l := w.listeners[i]
		wanted := slices.ContainsFunc(w.want.Listeners, func(x lb.Listener) bool {
			return int(x.Port) == l.Port && (x.Wrong || string(x.Protocol) == l.Protocol)
		})
		if wanted || !w.isOwn(&l) {
			kept = append(kept, l)
			continue
		}
		if err := w.api.DeleteListener(ctx, l); err != nil {
			w.fail(fmt.Errorf("listener %d: %w", l.Port, w.reread(err)))
			kept = append(kept, l)
		}
		w.meanwhile(ctx)
	}
	w.listeners = kept
	for _, x := range w.want.Listeners {
		if err := w.makeListener(ctx, x); err != nil {
			w.fail(fmt.Errorf("listener %d: %w", x.Port, w.reread(err)))
		}
	}
}

func (w *work) makeListener(ctx context.Context, x lb.Listener) error {
	group, name := w.group(x), lb.Name(w.svc.UID, x)
	if x.Wrong || group == "" {
		return nil
	}
	at := slices.IndexFunc(w.listeners, func(l cloud.Listener) bool {
		return l.Port == int(x.Port) && ((l.Protocol == "UDP") == (x.Protocol == lb.UDP) || w.want.Product == lb.NLB)
	})
	if at < 0 {
		if err := w.api.CreateListener(ctx, w.balancer.ID, cloud.Listener{Port: int(x.Port), Protocol: string(x.Protocol), Group: group, Description: name, Settings: x.Attributes}); err != nil {
			return err
		}
		w.meanwhile(ctx)
		listeners, err := w.api.ListListeners(ctx, w.balancer.ID) // for its id
		if err == nil {
			w.listeners = listeners
		}
		return err
	}
	l := &w.listeners[at]
	if !w.isOwn(l) && w.want.ID != "" && w.want.OwnListeners && !lb.IsOfAny(l.Description) {
		// The annotation force-override-listeners says so.
	} else if !w.isOwn(l) {
		return fmt.Errorf("load balancer %s has a listener on this port that is not of this Service, described as %q: delete it, or use another port", w.balancer.ID, l.Description)
	}
	if l.Protocol != string(x.Protocol) {
		return fmt.Errorf("load balancer %s has a listener of protocol %s on this port: delete it, or use another port", w.balancer.ID, l.Protocol)
	}
	set, refused := lb.Differences(w.want.Product, lb.OfListener, x.Attributes, l.Settings)
	w.refuse(refused)
	if len(set) > 0 || l.Group != group || l.Description != name {
		l.Group, l.Description = group, name
		if err := w.api.SetListener(ctx, *l, set); err != nil {
			return err
		}
		maps.Copy(l.Settings, set)
		w.meanwhile(ctx)
	}
	if !l.Running {
		if err := w.api.StartListener(ctx, *l); err != nil {
			return err
		}
		l.Running = true
	}
	return nil
}

// deleteGroups deletes the Service's groups that no listener of its needs.
func (w *work) deleteGroups(ctx context.Context) {
	used := func(id string) bool {
		return slices.ContainsFunc(w.listeners, func(l cloud.Listener) bool { return l.Group == id })
	}
	for name, g := range w.groups {
		wanted := slices.ContainsFunc(w.want.Listeners, func(l lb.Listener) bool { return l.GroupID == "" && lb.Name(w.svc.UID, l) == name })
		if wanted || used(g.ID) {
			continue
		}
		if err := w.api.DeleteGroup(ctx, g.ID); err != nil {
			w.fail(w.reread(err))
			continue
		}
		delete(w.groups, name)
		w.fill(ctx, g.ID, nil)
	}
	w.extra = slices.DeleteFunc(w.extra, func(id string) bool {
		if used(id) {
			return false
		}
		if err := w.api.DeleteGroup(ctx, id); err != nil {
			w.fail(w.reread(err))
			return false
		}
		w.fill(ctx, id, nil)
		return true
	})
}

// publish makes the listeners that exist known to others. Of a load balancer of the user's they are those that have a
// group of the Service, whatever their port.
func (w *work) publish() {
	members := []Member{}
	var unused []string
	for _, x := range w.want.Listeners {
		group, found := w.group(x), false
		for _, l := range w.listeners {
			if group == "" || l.Group != group || w.want.OwnListeners && l.Port != int(x.Port) {
				continue
			}
			found = true
			if !slices.ContainsFunc(members, func(m Member) bool { return m.Listener.Port == l.Port && m.Listener.Protocol == l.Protocol }) {
				members = append(members, Member{API: w.api, Listener: l, Port: x.Port, Checked: w.checked(x, l)})
			}
		}
		if found || w.want.OwnListeners && x.Wrong {
			continue
		}
		if !w.want.OwnListeners && group != "" {
			unused = append(unused, fmt.Sprintf("port %d: no listener of load balancer %s has server group %s: create one, or set the annotation %sforce-override-listeners", x.Port, w.balancer.ID, group, lb.Prefix))
		}
		// It will come.
		members = append(members, Member{API: w.api, Listener: cloud.Listener{Balancer: w.balancer.ID, Port: int(x.Port), Protocol: string(x.Protocol)}, Port: x.Port, Checked: true})
	}
	var err error
	if len(unused) > 0 {
		err = errors.New(strings.Join(unused, "; "))
	}
	w.warn("NoListener", err)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.members = members
}

// checked reports whether the load balancer checks the backends of a listener. Of a user's NLB it is not known: it
// does, if nobody has said otherwise.
func (w *work) checked(x lb.Listener, l cloud.Listener) bool {
	off := func(m map[string]string) bool {
		return m["HealthCheck"] == "off" || m["HealthCheckSwitch"] == "off" || m["HealthCheckConfig.HealthCheckEnabled"] == "false"
	}
	if !w.want.OwnListeners {
		return !off(l.Settings)
	}
	return !off(x.Attributes) && !off(x.Group)
}

// published reports whether a Service's status has the address of a load balancer.
func published(svc *corev1.Service, b *cloud.Balancer) bool {
	return slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(in corev1.LoadBalancerIngress) bool {
		return b.Host != "" && in.Hostname == b.Host || b.Address.IsValid() && in.IP == b.Address.String()
	})
}

// status writes the load balancer's address to the Service, once a listener is there.
func (w *work) status(ctx context.Context) error {
	if len(w.listeners) == 0 && w.want.OwnListeners {
		return nil
	}
	in := corev1.LoadBalancerIngress{Hostname: w.balancer.Host}
	if w.balancer.Address.IsValid() {
		in.IP = w.balancer.Address.String()
	}
	if is := w.svc.Status.LoadBalancer.Ingress; len(is) == 1 && published(w.svc, w.balancer) {
		return nil
	}
	return w.setIngress(ctx, []corev1.LoadBalancerIngress{in}, "EnsuredLoadBalancer", fmt.Sprintf("load balancer %s, %s", w.balancer.ID, strings.TrimSpace(in.IP+in.Hostname)))
}

func (w *work) setIngress(ctx context.Context, ingress []corev1.LoadBalancerIngress, reason, note string) error {
	next := w.svc.DeepCopy()
	next.Status.LoadBalancer.Ingress = ingress
	if err := w.Client.Status().Patch(ctx, next, client.MergeFrom(w.svc)); err != nil {
		return fmt.Errorf("write the address to the Service's status: %w", err)
	}
	w.svc.ResourceVersion, w.svc.Status = next.ResourceVersion, next.Status
	w.Events.Eventf(w.svc, nil, corev1.EventTypeNormal, reason, "Reconcile", "%s", note)
	return nil
}
