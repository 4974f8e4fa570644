package v1alpha1

// Stranded returns the addresses that pods hold and that are on no ENI of the node: somebody else
// removed the ENI or the address. Such a pod has no network and must be recreated. It compares
// spec and status, so for a moment after a change of either it may return an address wrongly.
func (nn *NodeNetwork) Stranded() []UsedAddress {
	there := map[string]bool{}
	for i := range nn.Spec.ENIs {
		e := &nn.Spec.ENIs[i]
		for _, a := range e.Addresses {
			// An address that is being removed was confirmed by the node, or is gone already.
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
