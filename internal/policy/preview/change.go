package preview

import (
	"fmt"
	"net/netip"

	"terway.dev/terway/internal/policy"
)

// A World is policies, and the cluster that they are about.
type World struct {
	Set     policy.Set
	Cluster policy.Cluster
}

// A Change is traffic of which the answer is another.
type Change struct {
	From, To End
	// Family is 4 or 6; 0: whichever both ends have.
	Family        uint8
	Traffic       Traffic
	Before, After Verdict
}

// Cut says whether the Change takes away what was allowed; otherwise it allows what was denied.
func (c Change) Cut() bool { return c.Before.Action == policy.Allow }

// An End is whom connections are from, or go to, as far as they change alike: pods of a group,
// nodes, or addresses of neither.
type End struct {
	Name string
	// Pods, in order; nil for other ends.
	Pods []policy.NamespacedName
	// Hosts are addresses of nodes and of pods of their network.
	Hosts []netip.Addr
	// Networks are outside. Addresses in them that are a pod's or a node's are not meant.
	Networks []netip.Prefix
}

// A Verdict is an answer, and what decides it at the ends that deny before or after.
type Verdict struct {
	Action policy.Action // Allow or Deny
	// By is indexed by Direction: Egress is at the pod that opens the connection. The zero
	// value: this end denies neither before nor after.
	By [2]By
}

// By is what decides at one end; its fields are as those of policy.Decision.
type By struct {
	Action policy.Action // 0: nothing is said of this end
	Reason policy.Reason
	Tier   string
	Rule   policy.RuleID
}

func (b By) String() string {
	switch b.Reason {
	case policy.ByRule:
		return fmt.Sprintf("%s by %s, tier %s", b.Action, b.Rule, b.Tier)
	case policy.ByTier:
		return fmt.Sprintf("%s by the end of tier %s", b.Action, b.Tier)
	case policy.Closed:
		return fmt.Sprintf("%s: too many rules", b.Action)
	}
	return fmt.Sprintf("%s by no policy", b.Action)
}

// Strings is what decides, with the end where it does.
func (v Verdict) Strings() (list []string) {
	for _, d := range []policy.Direction{policy.Egress, policy.Ingress} {
		if v.By[d].Action != 0 {
			list = append(list, fmt.Sprintf("%s %s", d, v.By[d]))
		}
	}
	return list
}
