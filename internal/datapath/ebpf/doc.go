// Package ebpf is the datapath route with shortcuts: eBPF programs on the node's end of
// each pod's veth and on each ENI let the packets of a flow pass the host stack by, once
// the stack has shown with the flow's first packet that it would send it on unchanged
// (bpf/shortcut.c). So whatever the stack does to a flow, kube-proxy's translation above
// all, it goes on doing; and whatever is missing here costs speed and nothing else.
//
// The package owns four programs, three maps and the tc filters that hold them
// (filters.go), and nothing else: veths, rules, routes and nftables are package route's.
//
// Nothing is pinned. A filter holds its program, a program its maps, a device its
// filters: they outlive the agent and go with the devices, whatever kills whom. A new
// agent finds the maps through the programs.
//
// The filters are of tc's old kind (clsact) on every kernel. The newer tcx waits for an
// RCU grace period (10 ms and more) under the kernel's one lock for network devices each
// time a program is attached; a pod's ADD is done in a tenth of that.
package ebpf
