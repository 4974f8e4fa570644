// Package ebpf is the kind of pod of route with shortcuts: eBPF programs on the node's end of
// each pod's veth and on each ENI let the packets of a flow pass the host stack by, once
// the stack has shown with the flow's first packet that it would send it on unchanged
// (bpf/shortcut.c). So whatever the stack does to a flow, kube-proxy's translation above
// all, it goes on doing; and whatever is missing here costs speed and nothing else.
//
// The package owns the programs of bpf/shortcut.c, their maps and the tc filters
// that hold them on veths and ENIs (package tcfilter), and nothing else: veths, rules,
// routes and nftables are package node's.
package ebpf
