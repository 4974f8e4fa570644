// Package netkit is the kind of pod of ebpf with netkit devices instead of veths: the programs run
// inside the device, in the sender's context, and not after a queue. The fast path, the maps and
// the ENIs' programs are package ebpf's, the host stack's part is package node's; pods of all three
// kinds share them.
//
// A pod's pair is in mode L3 (no MAC, no ARP, no neighbours) and its policy is blackhole: a pair
// without programs passes nothing, so a pod cannot send or receive before it is programmed, nor
// after somebody removed the programs.
//
// The package owns the programs in the pairs, and nothing else. Nothing is pinned: the device holds
// its programs, which are freed with it, whichever process is killed; a new agent reads from the
// device which programs run and replaces those of another version, each atomically.
package netkit
