// Package ebpf is the kind of pod of route with a fast path: eBPF programs on the node's end of
// each pod's veth and on each ENI forward a connection's packets past the host stack, after the
// host stack has forwarded its first packet unchanged (bpf/fastpath.c). What the host stack
// changes, such as kube-proxy's NAT, stays on the slow path. A missing program or entry costs speed
// and nothing else.
//
// The package owns the programs of bpf/fastpath.c, their maps and the tc filters on veths and ENIs
// (package tcfilter). Veths, rules, routes and nftables belong to package node.
package ebpf
