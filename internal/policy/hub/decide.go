package hub

import (
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
)

// Decide returns what the tables say about a connection. ok is false if the hub does not know the pod, or policies
// do not concern it. It costs as much as the part of the pod's node, so it is for questions of people.
func (h *Hub) Decide(c policy.Connection) (d policy.Decision, ok bool) {
	part := h.partOf(c.Pod)
	if part == nil {
		return policy.Decision{}, false
	}
	m := part.Maps()
	row, ok := m.EndpointOf[c.Pod]
	if !ok {
		return policy.Decision{}, false
	}
	return m.Decision(m.Lookup(compile.Packet{
		Endpoint: row, Direction: c.Direction, Peer: c.Peer, Protocol: c.Protocol,
		SourcePort: c.SourcePort, DestinationPort: c.DestinationPort, ICMPType: c.ICMPType, ICMPCode: c.ICMPCode,
	})), true
}

// partOf returns the part of a pod's node; nil if the pod is not known.
func (h *Hub) partOf(pod policy.NamespacedName) *compile.Node {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if p := h.pods.told[pod]; h.synced && running(p) {
		return h.compiler.ForNode(p.Node)
	}
	return nil
}
