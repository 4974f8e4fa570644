// Package flowlog keeps what programs tell of connections that were judged (bpf/flows.h): the flows of the last hour with names, for
// terwayctl, and denied and logged ones as JSON lines.
//
// A flow is all connections between two ends with one protocol, destination port and verdict by the same rules: what is kept grows with
// the flows, not with the connections. The package never touches a packet, and nothing waits for it: what it cannot keep up with it
// loses, and counts.
package flowlog
