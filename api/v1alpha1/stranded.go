package v1alpha1

// Stranded are the addresses that pods hold and that no ENI of the node has: the ENI or the
// address was taken away behind the controller's back. Such a pod has no network, and only
// being made anew helps it. It follows from the two halves of the NodeNetwork, so for a
// moment after a change of either it may name one that is not.
func (nn *NodeNetwork) Stranded() []UsedAddress {
	there := map[string]bool{}
	for i := range nn.Spec.ENIs {
		e := &nn.Spec.ENIs[i]
		for _, a := range e.Addresses {
			// What is on its way out was confirmed by the node, or is gone already.
			there[a.Address] = !a.Unassigning && e.Phase != ENIDetaching
		}
	}
	var out []UsedAddress
	for _, u := range nn.Status.Used {
		if !there[u.Address] {
			out = append(out, u)
		}
	}
	return out
}
