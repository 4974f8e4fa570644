package inventory

import (
	"cmp"
	"slices"

	"terway.dev/terway/api/v1alpha1"
)

// PodAddress is an address that a pod has, as the agent of its node reports it, and where the
// address comes from.
type PodAddress struct {
	// Pod is "namespace/name".
	Pod     string `json:"pod"`
	Address string `json:"address"`
	// ENI and VSwitch are ids; empty if the address is on no ENI of the node.
	ENI     string `json:"eni,omitempty"`
	VSwitch string `json:"vSwitch,omitempty"`
	// Exclusive: the ENI serves this pod alone.
	Exclusive bool   `json:"exclusive,omitempty"`
	Node      string `json:"node"`
	Instance  string `json:"instance,omitempty"`
	Zone      string `json:"zone,omitempty"`
}

// Addresses returns the addresses of all pods, by pod.
func Addresses(networks []v1alpha1.NodeNetwork) []PodAddress {
	all := []PodAddress{}
	for i := range networks {
		nn := &networks[i]
		on := map[string]*v1alpha1.ENI{}
		for j := range nn.Spec.ENIs {
			for _, a := range nn.Spec.ENIs[j].Addresses {
				on[a.Address] = &nn.Spec.ENIs[j]
			}
		}
		for _, u := range nn.Status.Used {
			p := PodAddress{Pod: u.Pod, Address: u.Address, Node: nn.Name, Instance: nn.Spec.InstanceID, Zone: nn.Spec.Zone}
			if e := on[u.Address]; e != nil {
				p.ENI, p.VSwitch, p.Exclusive = e.ID, e.VSwitchID, e.Exclusive
			}
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b PodAddress) int {
		return cmp.Or(cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Address, b.Address))
	})
	return all
}
