// Package netkit is the kind of pod of ebpf with netkit devices in the place of veths: the
// programs run inside the device, while the pod is still sending, and not after a queue.
// What a program finds out about a flow, the maps, the ENIs' programs and everything of
// the host stack is package ebpf's and node's; pods of all three share them.
//
// A pod's pair is in mode L3 (no MAC, no ARP, no neighbours) and its policy is blackhole:
// a pair without programs passes nothing, so a pod cannot send or receive before it is
// programmed, nor after somebody took the programs away.
//
// The package owns the programs in the pairs, and nothing else. Nothing is pinned: the
// device holds its programs and they go with it, whatever kills whom; a new agent asks
// the device what it runs and replaces another version, each program atomically.
package netkit
