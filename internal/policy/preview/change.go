package preview

import (
	"fmt"
	"net/netip"

	"terway.dev/terway/internal/policy"
)

// A World is a set of policies and the cluster that they apply to.
type World struct {
	Set     policy.Set
	Cluster policy.Cluster
}

// A Change is traffic between two ends with another verdict than before.
type Change struct {
	From, To End
	// Family is 4 or 6, or 0 for all families that both ends have.
	Family        uint8
	Traffic       Traffic
	Before, After Verdict
}

// Cut reports whether the Change denies what was allowed. Otherwise it allows what was denied.
func (c Change) Cut() bool { return c.Before.Action == policy.Allow }

// An End is one side of connections that change alike: pods of a group, nodes, or other
// addresses.
type End struct {
	Name string
	// Pods, in order; nil for other ends.
	Pods []policy.NamespacedName
	// Hosts are addresses of nodes and of pods in the host network.
	Hosts []netip.Addr
	// Networks are outside the cluster. They do not include addresses of pods and nodes in
	// them.
	Networks []netip.Prefix
}

// A Verdict is allow or deny, and what decided it at the ends that deny before or after.
type Verdict struct {
	Action policy.Action // Allow or Deny
	// By is indexed by Direction: Egress is at the pod that opens the connection. The zero
	// value means that this end denies neither before nor after.
	By [2]By
}

// By is what decided at one end. Its fields are those of policy.Decision.
type By struct {
	Action policy.Action // 0: not set for this end
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

// Strings returns what decided, each with the direction.
func (v Verdict) Strings() (list []string) {
	for _, d := range []policy.Direction{policy.Egress, policy.Ingress} {
		if v.By[d].Action != 0 {
			list = append(list, fmt.Sprintf("%s %s", d, v.By[d]))
		}
	}
	return list
}
