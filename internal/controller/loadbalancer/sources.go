package loadbalancer

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"terway.dev/terway/internal/cloud"
	lb "terway.dev/terway/internal/loadbalancer"
)

// sources makes the access list of the clients that spec.loadBalancerSourceRanges lets connect, and adds it to what is
// wanted: the listeners of a CLB get it, an NLB joins it. On an error no listener may be made or changed, for it could
// be open for everybody.
func (w *work) sources(ctx context.Context) error {
	if !w.want.OwnListeners {
		return nil
	}
	err := w.fillAccess(ctx)
	switch {
	case w.want.Product == lb.NLB && (err != nil || w.want.SourcesWrong):
		w.want.SecurityGroups = slices.Clone(w.balancer.SecurityGroups) // who may connect stays as it is
	case err != nil || w.want.SourcesWrong: // then all listeners are Wrong, too
	case w.want.Product == lb.NLB && len(w.want.Sources) > 0:
		w.want.SecurityGroups = []string{w.access.ID}
	case w.want.Product == lb.CLB:
		for _, l := range w.want.Listeners {
			if l.Attributes["AclStatus"] = "off"; len(w.want.Sources) > 0 {
				l.Attributes["AclStatus"], l.Attributes["AclType"], l.Attributes["AclId"] = "on", "white", w.access.ID
			}
		}
	}
	return err
}

// fillAccess makes the access list have the sources that are wanted, if there are some.
func (w *work) fillAccess(ctx context.Context) error {
	if w.want.SourcesWrong {
		return nil
	}
	// A predecessor may have left one that nothing uses any more, so that the first look is always at it.
	if len(w.want.Sources) == 0 && w.access == nil && !w.restricted() && !w.accessRead.IsZero() {
		return nil
	}
	if !w.accessRead.Equal(w.read) {
		found, err := w.findAccess(ctx, w.api)
		if err != nil {
			return err
		}
		if w.access, w.accessRead = nil, w.read; len(found) > 0 {
			w.access = &found[0]
		}
	}
	if len(w.want.Sources) == 0 {
		return nil
	}
	if w.access == nil {
		vpc, err := w.inVPC(ctx)
		if err != nil {
			return err
		}
		// A list that a killed predecessor made is found by its tag.
		id, err := w.api.CreateAccess(ctx, cloud.NewAccess{
			Token: fmt.Sprintf("%d-%s", w.Now().UnixNano(), w.svc.UID[:min(36, len(w.svc.UID))]), Name: "terway." + string(w.svc.UID), VPC: vpc, Tags: w.tags(vpc),
		})
		if err != nil {
			return w.reread(err)
		}
		w.access = &cloud.AccessList{ID: id}
	}
	without := func(a, b []netip.Prefix) []netip.Prefix {
		return slices.DeleteFunc(slices.Clone(a), func(p netip.Prefix) bool { return slices.Contains(b, p) })
	}
	add, remove := without(w.want.Sources, w.access.Sources), without(w.access.Sources, w.want.Sources)
	if len(add)+len(remove) == 0 {
		return nil
	}
	if err := w.api.ChangeAccess(ctx, w.access.ID, add, remove); err != nil {
		return w.reread(err)
	}
	w.access.Sources = slices.Clone(w.want.Sources)
	return nil
}

// restricted reports whether a listener, or the load balancer, has an access list.
func (w *work) restricted() bool {
	return len(w.balancer.SecurityGroups) > 0 || slices.ContainsFunc(w.listeners, func(l cloud.Listener) bool { return l.Settings["AclStatus"] == "on" })
}

// findAccess returns the access lists of this Service.
func (w *work) findAccess(ctx context.Context, api cloud.BalancerAPI) ([]cloud.AccessList, error) {
	vpc, err := w.inVPC(ctx)
	if err != nil {
		return nil, err
	}
	return api.FindAccess(ctx, vpc, TagService, string(w.svc.UID))
}

// deleteAccess deletes the access list if it is not wanted any more. By now no listener has it.
func (w *work) deleteAccess(ctx context.Context) error {
	if w.access == nil || len(w.want.Sources) > 0 || w.want.SourcesWrong {
		return nil
	}
	if err := w.api.DeleteAccess(ctx, w.access.ID); err != nil {
		return w.reread(err)
	}
	w.access = nil
	return nil
}
