package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/datapath"
)

// Desired is the validated desired state: what the node may use and how.
type Desired struct {
	// Known is false until the controller has written the spec.
	Known      bool
	Generation int64
	Datapath   string
	Cooling    time.Duration
	// Node is the node-wide part; its ENIs are filled in from the devices.
	Node datapath.Node
	ENIs []DesiredENI
	// Mode is v1alpha1's spec.mode; ExclusiveENIs is how many pods may have an exclusive ENI,
	// Offers how many of them can have one now.
	Mode                  string
	ExclusiveENIs, Offers int
	// Offered: the node has offered exclusive ENIs before, in this process or an earlier one; pods
	// may have been scheduled here for them.
	Offered bool
	// MinPool is how many free addresses the controller keeps assigned.
	MinPool int
	// Limit is how many pods the instance type allows, ENILimit how many ENIs for them.
	Limit, ENILimit int
	// Phases are how many ENIs are in each phase.
	Phases map[v1alpha1.ENIPhase]int
	// Moving: an ENI is being attached or detached.
	Moving bool
	// Limits are those of pods' bandwidth that the controller knows, by the pod's UID.
	Limits map[string]bandwidth.Limits
}

// DesiredENI is an ENI that the node may use.
type DesiredENI struct {
	datapath.ENI
	// Exclusive: it is for one pod.
	Exclusive bool
	// Ready: attached as far as the controller knows.
	Ready     bool
	Addresses []DesiredAddress
}

// DesiredAddress is an address that pods may have.
type DesiredAddress struct {
	Address   netip.Addr
	Releasing bool
	// Held: a load balancer has it as a backend.
	Held bool
	// Gone: it is no longer on the ENI, or about to be removed.
	Gone bool
}

// ParseDesired validates a NodeNetwork and the node's addresses. It leaves out what is invalid and
// names it in the error; the rest is usable.
func ParseDesired(nn *v1alpha1.NodeNetwork, nodeAddresses []netip.Addr) (Desired, error) {
	var errs []error
	w := Desired{
		// The controller creates the object before it writes the configuration into it: until then
		// datapath and mode are unknown.
		Known:         nn.Spec.Datapath != "",
		Generation:    nn.Generation,
		Datapath:      nn.Spec.Datapath,
		Cooling:       time.Duration(max(nn.Spec.Pool.CoolingSeconds, 0)) * time.Second,
		MinPool:       nn.Spec.Pool.Min,
		Mode:          nn.Spec.Mode,
		ExclusiveENIs: nn.Spec.ExclusiveENIs,
		Offers:        offers(&nn.Spec),
		Limit:         nn.Spec.Limits.MaxPods,
		ENILimit:      max(nn.Spec.Limits.ENIs-1, 0), // without the primary
		Phases:        map[v1alpha1.ENIPhase]int{},
		Node: datapath.Node{
			Addresses:         nodeAddresses,
			MasqueradeOutside: nn.Spec.MasqueradeOutside,
			ENIMbit:           max(nn.Spec.ENIMbit, 0),
		},
	}
	w.Node.VPCCIDRs = prefixes("spec.vpcCIDRs", nn.Spec.VPCCIDRs, &errs)
	w.Node.ServiceCIDRs = prefixes("spec.serviceCIDRs", nn.Spec.ServiceCIDRs, &errs)
	w.Node.HostStackCIDRs = prefixes("spec.hostStackCIDRs", nn.Spec.HostStackCIDRs, &errs)
	for _, l := range nn.Spec.PodLimits {
		if w.Limits == nil {
			w.Limits = map[string]bandwidth.Limits{}
		}
		w.Limits[l.UID] = bandwidth.Limits{Ingress: uint64(max(l.Ingress, 0)), Egress: uint64(max(l.Egress, 0))}
	}
	seen := map[netip.Addr]string{}
	for i := range nn.Spec.ENIs {
		e := &nn.Spec.ENIs[i]
		w.Phases[e.Phase]++
		w.Moving = w.Moving || e.Phase != v1alpha1.ENIReady
		if e.ID == "" || e.MAC == "" || e.Phase == v1alpha1.ENICreating {
			continue // not attached yet
		}
		at := fmt.Sprintf("spec.enis[%s]", e.ID)
		mac, err := net.ParseMAC(e.MAC)
		if err != nil || len(mac) != 6 {
			errs = append(errs, fmt.Errorf("%s.mac %q: want six bytes in hexadecimal", at, e.MAC))
			continue
		}
		out := DesiredENI{
			ENI: datapath.ENI{
				ID: e.ID, MAC: mac,
				CIDRs:    prefixes(at+".cidrs", e.CIDRs, &errs),
				Gateways: addrs(at+".gateways", e.Gateways, &errs),
			},
			Exclusive: e.Exclusive,
			Ready:     e.Phase == v1alpha1.ENIReady,
		}
		if len(out.Gateways) == 0 {
			errs = append(errs, fmt.Errorf("%s.gateways is empty: want the vSwitch's gateway", at))
			continue
		}
		for _, ad := range e.Addresses {
			a, err := netip.ParseAddr(ad.Address)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s.addresses: %q is not an address", at, ad.Address))
				continue
			}
			if other, dup := seen[a]; dup {
				errs = append(errs, fmt.Errorf("%s.addresses: %s is also on %s", at, a, other))
				continue
			}
			seen[a] = e.ID
			out.Addresses = append(out.Addresses, DesiredAddress{Address: a, Releasing: ad.Releasing || e.Phase == v1alpha1.ENIDetaching, Held: ad.Held, Gone: ad.Unassigning || e.Phase == v1alpha1.ENIDetaching})
		}
		w.ENIs = append(w.ENIs, out)
	}
	return w, errors.Join(errs...)
}

// whyNoMore returns the controller's reason for not assigning more to the node; empty if there is
// none.
func whyNoMore(nn *v1alpha1.NodeNetwork) string {
	c := meta.FindStatusCondition(nn.ControllerConditions(), v1alpha1.ConditionAddressesAvailable)
	if c == nil || c.Status != metav1.ConditionFalse {
		return ""
	}
	return fmt.Sprintf("%s: %s", c.Reason, c.Message)
}

// offers returns how many exclusive ENIs the node may advertise. A controller from before that
// field writes only how many the node may have.
func offers(s *v1alpha1.NodeNetworkSpec) int {
	if s.OfferedENIs != nil {
		return *s.OfferedENIs
	}
	return s.ExclusiveENIs
}

func prefixes(field string, in []string, errs *[]error) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range in {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			*errs = append(*errs, fmt.Errorf("%s: %q is not an address range such as 192.168.0.0/16", field, s))
			continue
		}
		out = append(out, p.Masked())
	}
	return out
}

func addrs(field string, in []string, errs *[]error) []netip.Addr {
	var out []netip.Addr
	for _, s := range in {
		a, err := netip.ParseAddr(s)
		if err != nil {
			*errs = append(*errs, fmt.Errorf("%s: %q is not an address", field, s))
			continue
		}
		out = append(out, a)
	}
	return out
}
