package inventory

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/api/v1alpha1"
)

// The kinds of a Finding.
const (
	// Leak: something is kept that nobody uses.
	Leak = "Leak"
	// Double: something that only one may have has two owners.
	Double = "Double"
	// Missing: somebody counts on something that is not there.
	Missing = "Missing"
)

// Finding is a difference between two records of the same ENI or address.
type Finding struct {
	Kind string `json:"kind"`
	// ENI, Address, Nodes and Pods ("namespace/name") are what it is about; some are empty.
	ENI     string   `json:"eni,omitempty"`
	Address string   `json:"address,omitempty"`
	Nodes   []string `json:"nodes,omitempty"`
	Pods    []string `json:"pods,omitempty"`
	// Message is a sentence for people.
	Message string `json:"message"`
}

// about is the same of the same difference whenever it is found: what its message says of it, such as the
// status of an ENI in the cloud, may change.
func (f Finding) about() string {
	return strings.Join([]string{f.Kind, f.ENI, f.Address, strings.Join(f.Nodes, ","), strings.Join(f.Pods, ",")}, " ")
}

// Records are what each place says about ENIs and addresses: the controller and the agents
// (NodeNetworks), the kubelets (pods) and the cloud.
type Records struct {
	Networks []v1alpha1.NodeNetwork
	Pods     []Pod
	// Cloud: the cloud was asked. ENIs are those with the cluster's tags, and those that a NodeNetwork
	// has and that exist, without those that are being deleted.
	Cloud bool
	ENIs  []CloudENI
}

// CloudENI is an ENI as the cloud has it.
type CloudENI struct {
	ID string
	// Status is the cloud's word; Instance is where the ENI is attached, if it is.
	Status, Instance, VSwitch string
	// Node and Token are its tags.
	Node, Token string
	// Addresses are those with IPv4; Primary is one of them.
	Primary   string
	Addresses []string
}

// Compare returns the differences, in order. Records are not read at one moment, so a difference may
// be a change that was under way: only one that is still found later is real (Lasting).
func (r *Records) Compare() []Finding {
	c := comparison{found: []Finding{}}
	c.nodes(r.Networks)
	c.pods(r.Networks, r.Pods)
	if r.Cloud {
		c.cloud(r.Networks, r.ENIs)
	}
	slices.SortStableFunc(c.found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Message, b.Message))
	})
	return c.found
}

// Lasting returns the findings of a later comparison that an earlier one has, too.
func Lasting(earlier, later []Finding) []Finding {
	before := map[string]bool{}
	for _, f := range earlier {
		before[f.about()] = true
	}
	return slices.DeleteFunc(slices.Clone(later), func(f Finding) bool { return !before[f.about()] })
}

type comparison struct{ found []Finding }

func (c *comparison) find(f Finding, format string, args ...any) {
	f.Message = fmt.Sprintf(format, args...)
	c.found = append(c.found, f)
}

// nodes compares NodeNetworks with each other, and each one's spec with its status.
func (c *comparison) nodes(networks []v1alpha1.NodeNetwork) {
	enis, addresses := map[string][]string{}, map[string][]string{} // the nodes that have them
	for i := range networks {
		nn := &networks[i]
		for _, e := range nn.Spec.ENIs {
			if e.ID != "" {
				enis[e.ID] = append(enis[e.ID], nn.Name)
			}
			for _, a := range e.Addresses {
				addresses[a.Address] = append(addresses[a.Address], nn.Name)
			}
		}
		for _, u := range nn.Stranded() {
			c.find(Finding{Kind: Missing, Address: u.Address, Nodes: []string{nn.Name}, Pods: []string{u.Pod}},
				"pod %s has address %s, which is on no ENI of node %s: it cannot be reached; delete it, so that it is recreated with another", u.Pod, u.Address, nn.Name)
		}
		for _, id := range nn.Status.MissingENIs {
			c.find(Finding{Kind: Missing, ENI: id, Nodes: []string{nn.Name}},
				"node %s has no device of %s, which is attached to it according to the controller", nn.Name, id)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(enis)) {
		if of := enis[id]; len(of) > 1 {
			c.find(Finding{Kind: Double, ENI: id, Nodes: of}, "%s is in the NodeNetworks of %s", id, strings.Join(of, " and "))
			for a := range addressesOf(networks, id) {
				delete(addresses, a) // the same trouble
			}
		}
	}
	for _, a := range slices.Sorted(maps.Keys(addresses)) {
		if of := addresses[a]; len(of) > 1 {
			c.find(Finding{Kind: Double, Address: a, Nodes: of}, "address %s is on an ENI of %s", a, strings.Join(of, " and on one of "))
		}
	}
}

func addressesOf(networks []v1alpha1.NodeNetwork, id string) map[string]bool {
	all := map[string]bool{}
	for i := range networks {
		for _, e := range networks[i].Spec.ENIs {
			for _, a := range e.Addresses {
				if e.ID == id {
					all[a.Address] = true
				}
			}
		}
	}
	return all
}

// pods compares what agents report with the pods of the API server.
func (c *comparison) pods(networks []v1alpha1.NodeNetwork, pods []Pod) {
	known := map[string]Pod{}
	holders := map[string]map[string]bool{} // address → pods
	hold := func(address, pod string) {
		if holders[address] == nil {
			holders[address] = map[string]bool{}
		}
		holders[address][pod] = true
	}
	for _, p := range pods {
		known[p.id()] = p
		if p.Address != "" && !p.HostNetwork && !p.ended() {
			hold(p.Address, p.id())
		}
	}
	reports := map[string]map[string]bool{} // node → "address of pod"
	for i := range networks {
		nn := &networks[i]
		reports[nn.Name] = map[string]bool{}
		for _, u := range nn.Status.Used {
			reports[nn.Name][u.Address+" "+u.Pod] = true
			hold(u.Address, u.Pod)
			p, exists := known[u.Pod]
			why := ""
			switch {
			case !exists:
				why = "which does not exist"
			case p.ended():
				why = "which has ended"
			case p.Node != nn.Name:
				why = "which is on node " + cmp.Or(p.Node, "none")
			case p.differs(u.Address):
				why = "which has address " + p.Address
			default:
				continue
			}
			c.find(Finding{Kind: Leak, Address: u.Address, Nodes: []string{nn.Name}, Pods: []string{u.Pod}},
				"node %s keeps address %s for pod %s, %s", nn.Name, u.Address, u.Pod, why)
		}
	}
	for _, p := range pods {
		of, ours := reports[p.Node]
		if ours && p.Phase == string(corev1.PodRunning) && p.Address != "" && !p.HostNetwork && !of[p.Address+" "+p.id()] {
			c.find(Finding{Kind: Missing, Address: p.Address, Nodes: []string{p.Node}, Pods: []string{p.id()}},
				"pod %s has address %s, which the agent of node %s has not given to it: another network plugin has, or its journal is lost; delete the pod, so that it is recreated", p.id(), p.Address, p.Node)
		}
	}
	for _, a := range slices.Sorted(maps.Keys(holders)) {
		if of := slices.Sorted(maps.Keys(holders[a])); len(of) > 1 {
			c.find(Finding{Kind: Double, Address: a, Pods: of}, "address %s is that of %d pods: %s", a, len(of), strings.Join(of, ", "))
		}
	}
}

func (p Pod) id() string { return p.Namespace + "/" + p.Name }

func (p Pod) ended() bool {
	return p.Phase == string(corev1.PodSucceeded) || p.Phase == string(corev1.PodFailed)
}

// differs reports whether the pod has another address of the same family.
func (p Pod) differs(address string) bool {
	has, err := netip.ParseAddr(p.Address)
	if err != nil {
		return false // it has none yet
	}
	want, err := netip.ParseAddr(address)
	return err != nil || has.Is4() == want.Is4() && has != want
}

// cloud compares NodeNetworks with the cloud.
func (c *comparison) cloud(networks []v1alpha1.NodeNetwork, enis []CloudENI) {
	there := map[string]CloudENI{}
	for _, e := range enis {
		there[e.ID] = e
	}
	ids, tokens, goneENIs, goneAddresses := map[string]*v1alpha1.ENI{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	for i := range networks {
		nn := &networks[i]
		for j := range nn.Spec.ENIs {
			e := &nn.Spec.ENIs[j]
			if e.ID == "" {
				tokens[e.Token] = true // it may exist already
				continue
			}
			ids[e.ID] = e
			if e.Phase == v1alpha1.ENIReady {
				c.attached(nn, e, there)
			}
		}
		// The cloud's lists may still have these.
		for _, t := range nn.Spec.TakenAway {
			goneENIs[t.ENI] = goneENIs[t.ENI] || len(t.Addresses) == 0
			for _, a := range t.Addresses {
				goneAddresses[t.ENI+" "+a] = true
			}
		}
	}
	for _, e := range enis {
		spec := ids[e.ID]
		switch {
		case goneENIs[e.ID]:
		case spec == nil && !tokens[e.Token]:
			c.find(Finding{Kind: Leak, ENI: e.ID, Nodes: []string{e.Node}},
				"%s (%s, vSwitch %s) has the tags of node %s, whose NodeNetwork does not have it", e.ID, e.where(), e.VSwitch, e.Node)
		case spec != nil:
			c.unknown(e, spec, goneAddresses)
		}
	}
}

func (e CloudENI) where() string {
	if e.Instance != "" {
		return e.Status + " at " + e.Instance
	}
	return e.Status
}

// attached checks that the cloud has what a node uses.
func (c *comparison) attached(nn *v1alpha1.NodeNetwork, e *v1alpha1.ENI, there map[string]CloudENI) {
	of := Finding{Kind: Missing, ENI: e.ID, Nodes: []string{nn.Name}}
	has, exists := there[e.ID]
	switch {
	case !exists:
		c.find(of, "%s of node %s does not exist in the cloud", e.ID, nn.Name)
		return
	case has.Instance != nn.Spec.InstanceID:
		c.find(of, "%s of node %s is not attached to %s: the cloud says %s", e.ID, nn.Name, nn.Spec.InstanceID, has.where())
		return
	}
	on := map[string]bool{}
	for _, a := range has.Addresses {
		on[a] = true
	}
	for _, a := range e.Addresses {
		// The cloud's answer has the IPv4 addresses.
		if ip, err := netip.ParseAddr(a.Address); err == nil && ip.Is4() && !a.Unassigning && !on[a.Address] {
			of.Address = a.Address
			c.find(of, "address %s of node %s is not on %s in the cloud", a.Address, nn.Name, e.ID)
		}
	}
}

// unknown finds addresses that the cloud has on an ENI and its NodeNetwork has not.
func (c *comparison) unknown(e CloudENI, spec *v1alpha1.ENI, gone map[string]bool) {
	if spec.Phase != v1alpha1.ENIReady {
		return // its addresses are written down when it is attached
	}
	known := map[string]bool{spec.PrimaryAddress: true}
	for _, a := range spec.Addresses {
		known[a.Address] = true
	}
	for _, a := range e.Addresses {
		if a != e.Primary && !known[a] && !gone[e.ID+" "+a] {
			c.find(Finding{Kind: Leak, ENI: e.ID, Address: a, Nodes: []string{e.Node}},
				"address %s is on %s in the cloud, and not in the NodeNetwork of node %s", a, e.ID, e.Node)
		}
	}
}
