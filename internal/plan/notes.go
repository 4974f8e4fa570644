package plan

import (
	"fmt"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/datapath/claims"
)

// The kubelet's default of maxPods (KubeletConfiguration), which is also the maximum that
// Kubernetes' page on large clusters recommends.
const kubeletPods = 110

// notes returns what a user should know although no rule forbids it.
func (m *measurer) notes(c Capacity) []string {
	var notes []string
	note := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	for _, name := range m.p.Nodes.InstanceTypes {
		t, known := m.types.Lookup(name)
		switch {
		case !known:
			note("%s is not in the catalogue (terwayctl instance-types): what it holds is unknown", name)
		case m.p.Network == claims.NetworkFlannel:
		case !podsOf(t, m.p.Mode, m.p.Prefixes).Known:
			note("the catalogue has no figures for %s: what it holds is unknown", name)
		case len(t.Below()) > 0:
			note("%s: nodes with %d vCPUs or more, of generation %d or later, are recommended", name, catalog.RecommendedVCPU, catalog.RecommendedGeneration)
		}
	}
	if c.PodsPerNode.Known && c.PodsPerNode.N > kubeletPods {
		note("a kubelet runs %d pods unless its maxPods says otherwise, and Kubernetes advises no more on a node", kubeletPods)
	}
	if each := c.AddressesPerNode; each.Known && each.N*m.p.Nodes.Max > privateAddresses {
		note("%d full nodes take %d private addresses; a VPC has %d unless its quota is raised (%d at most)",
			m.p.Nodes.Max, each.N*m.p.Nodes.Max, privateAddresses, privateAddressesMax)
	}
	if bits := m.p.VPC.CIDR.Bits(); bits < firstVPCMask {
		note("the VPC's range is a /%d: /%d to /%d is recommended", bits, firstVPCMask, vpcMaskMax)
	}
	if m.p.Prefixes {
		note("this version of Terway takes no prefixes yet: with it a node holds as many pods as on shared ENIs without them")
		note("a /28 prefix needs 16 free addresses in one aligned block: let nothing but these nodes' ENIs use the Pod vSwitches")
	}
	for _, v := range m.p.vSwitches() {
		if v.pods && v.CIDR.Bits() > 25 {
			note("Pod vSwitch %s is small: /19 or larger is recommended, /25 the smallest", v.Name)
		}
	}
	if m.p.Network == claims.NetworkFlannel {
		note("the block of a node is a /%d of %d addresses: network, broadcast and bridge have one each", m.p.NodeMask, 1<<(32-m.p.NodeMask))
	}
	return notes
}
