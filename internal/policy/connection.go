package policy

import (
	"fmt"
	"net/netip"
)

// The protocols that rules can say more of than their number, which is the IP number.
const (
	ICMPProtocol   = 1
	TCPProtocol    = 6
	UDPProtocol    = 17
	ICMPv6Protocol = 58
	SCTPProtocol   = 132
)

// A Connection is what is judged: its first packet, as the pod's network would see it with
// no address translated on the way.
type Connection struct {
	// Pod is where it is judged; for Egress it opens the connection, for Ingress it is
	// opened to it.
	Pod       NamespacedName
	Direction Direction
	// Own is the pod's address, Peer that of the other end, of the same family.
	Own, Peer netip.Addr
	Protocol  uint8 // IP number
	// SourcePort and DestinationPort are those of TCP, UDP and SCTP.
	SourcePort, DestinationPort uint16
	// ICMPType and ICMPCode are those of ICMP and ICMPv6.
	ICMPType, ICMPCode uint8
}

// A RuleID names a rule.
type RuleID struct {
	Policy    Ref
	Direction Direction
	Number    int // Rule.Number
}

func (r RuleID) String() string {
	return fmt.Sprintf("%s, %s rule %d", r.Policy, r.Direction, r.Number)
}

// A Reason is why a Decision is what it is.
type Reason uint8

// The reasons.
const (
	// NoPolicy: no tier decided.
	NoPolicy Reason = iota
	// ByRule: a rule decided.
	ByRule
	// ByTier: a policy of the tier selects the pod, and no rule of the tier decided.
	ByTier
	// Closed: there are no tables for the pod, so nothing new passes.
	Closed
)

// A Decision is what a Set says of a Connection.
type Decision struct {
	Action Action // Allow or Deny
	Reason Reason
	// Tier decided, for ByRule and ByTier.
	Tier string
	// Rule decided, for ByRule.
	Rule RuleID
	// Logs are the Log rules on the way to the decision, in order.
	Logs []RuleID
}
