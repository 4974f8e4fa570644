package nodenetwork

import (
	"context"
	"net/netip"
	"slices"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/ipam"
)

// indexAddress indexes NodeNetworks by the addresses of their ENIs.
const indexAddress = "terway.address"

func addressesOf(o client.Object) (addresses []string) {
	for _, e := range o.(*v1alpha1.NodeNetwork).Spec.ENIs {
		for _, a := range e.Addresses {
			addresses = append(addresses, a.Address)
		}
	}
	return addresses
}

// hold marks the addresses that load balancers have. Each version of the spec that is written has the marks,
// so an address that the cloud has just assigned is not offered before it has its own. What is not known stays
// as the predecessor left it, and is looked at again.
func (w *work) hold() {
	for i := range w.nn.Spec.ENIs {
		for j := range w.nn.Spec.ENIs[i].Addresses {
			a := &w.nn.Spec.ENIs[i].Addresses[j]
			if w.Held == nil {
				a.Held = false
			} else if held, known := w.Held(parse(a.Address)); held || known {
				a.Held = held
			} else if a.Held {
				w.again(w.Retry) // HeldChanged tells only of what load balancers have
			}
		}
	}
}

// HeldChanged requests a reconcile of the nodes that have these addresses.
func (r *Reconciler) HeldChanged(ctx context.Context, addresses []netip.Addr) {
	woken := map[string]bool{}
	for _, a := range addresses {
		var of v1alpha1.NodeNetworkList
		if err := r.Client.List(ctx, &of, client.MatchingFields{indexAddress: a.String()}, client.UnsafeDisableDeepCopy); err != nil {
			r.Log.Error("find the node of an address whose load balancers have changed", "address", a, "error", err)
			continue
		}
		for i := range of.Items {
			r.wakeOnce(ctx, woken, &of.Items[i].ObjectMeta)
		}
	}
}

// held counts the marked addresses of a spec.
func held(s *v1alpha1.NodeNetworkSpec) (n int) {
	for _, e := range s.ENIs {
		for _, a := range e.Addresses {
			if a.Held {
				n++
			}
		}
	}
	return n
}

// heldOnly counts the addresses that only load balancers have.
func heldOnly(s *ipam.State) int {
	n := 0
	for _, e := range s.ENIs {
		for _, a := range e.Addresses {
			if a.Held && a.Use != ipam.Used {
				n++
			}
		}
	}
	return n
}

// ENIOf returns the ENI that has an address for pods, and keeps it; "" if there is none. An address that a pod
// took before its node saw that it should be given back stays as long as the pod.
func (r *Reconciler) ENIOf(ctx context.Context, address netip.Addr) string {
	var of v1alpha1.NodeNetworkList
	if err := r.Client.List(ctx, &of, client.MatchingFields{indexAddress: address.String()}, client.UnsafeDisableDeepCopy); err != nil {
		r.Log.Error("find the ENI of an address", "address", address, "error", err)
		return ""
	}
	for i := range of.Items {
		nn := &of.Items[i]
		used := slices.ContainsFunc(nn.Status.Used, func(u v1alpha1.UsedAddress) bool { return u.Address == address.String() })
		for _, e := range nn.Spec.ENIs {
			for _, a := range e.Addresses {
				if a.Address == address.String() && (used || !a.Releasing) && !a.Unassigning {
					return e.ID
				}
			}
		}
	}
	return ""
}
