package policy

import (
	"fmt"
	"net/netip"
)

// IP numbers of the protocols that have ports, or types and codes.
const (
	ICMPProtocol   = 1
	TCPProtocol    = 6
	UDPProtocol    = 17
	ICMPv6Protocol = 58
	SCTPProtocol   = 132
)

// A Connection is what a policy decides about: its first packet, as the pod network sees it,
// with no address translated.
type Connection struct {
	// Pod is the pod at which the connection is judged: the one that opens it for Egress, the
	// one that receives it for Ingress.
	Pod       NamespacedName
	Direction Direction
	// Own is the pod's address, Peer the address of the other end. Both are of the same family.
	Own, Peer netip.Addr
	Protocol  uint8 // IP number
	// SourcePort and DestinationPort are set for TCP, UDP and SCTP.
	SourcePort, DestinationPort uint16
	// ICMPType and ICMPCode are set for ICMP and ICMPv6.
	ICMPType, ICMPCode uint8
}

// A RuleID identifies a rule.
type RuleID struct {
	Policy    Ref
	Direction Direction
	Number    int // Rule.Number
}

func (r RuleID) String() string {
	return fmt.Sprintf("%s, %s rule %d", r.Policy, r.Direction, r.Number)
}

// A Reason says what caused a Decision.
type Reason uint8

// The reasons.
const (
	// NoPolicy: no tier decided.
	NoPolicy Reason = iota
	// ByRule: a rule decided.
	ByRule
	// ByTier: a policy of the tier selects the pod, and no rule of the tier decided.
	ByTier
	// Closed: the pod fails closed because there are no tables for it. New connections are
	// denied.
	Closed
)

// A Decision is the verdict of a Set on a Connection.
type Decision struct {
	Action Action // Allow or Deny
	Reason Reason
	// Tier that decided, for ByRule and ByTier.
	Tier string
	// Rule that decided, for ByRule.
	Rule RuleID
	// Logs are the Log rules that matched before the decision, in order.
	Logs []RuleID
}
