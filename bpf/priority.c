// SPDX-License-Identifier: Apache-2.0
/*
 * Network priority: says to which class of an ENI's queue a packet belongs (internal/datapath/shaping).
 *
 * It goes by the source, where the packet leaves by the ENI, just before the queue. On its way there a veth pair, the host stack
 * (ip_forward, by the TOS) and policies (judge.h) have set its priority, or the pod has: none of that counts.
 */
#include "packet.h"

/* The class of a pod's address; device is the pod's on the node. */
struct rank {
	__u32 class;
	__u32 device;
};

/* The agent sets its size. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct addr);
	__type(value, struct rank);
} tw_ranks_1 SEC(".maps");

/* The class of all other packets. */
const volatile __u32 usual_class;

/* Packets that leave by an ENI. */
SEC("tc")
int tw_priority(struct __sk_buff *skb)
{
	struct addr src = {}, dst = {};
	struct rank *r = NULL;

	if (addresses(skb, &src, &dst))
		r = bpf_map_lookup_elem(&tw_ranks_1, &src);
	skb->priority = r ? r->class : usual_class;
	return TC_ACT_UNSPEC;
}

char __license[] SEC("license") = "Dual BSD/GPL";
