/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The datapaths ebpf and netkit: shortcuts past the node's host stack.
 *
 * A flow's first packet always asks the host stack: it goes the way of the datapath route,
 * through netfilter and the routing rules. If it leaves the node again with the addresses
 * and ports that it came with, nobody translated it or kept it, and the flow and its reply
 * go directly from then on. Everything that the stack has to do with (Services, NodePorts,
 * hostPorts, masquerade, the node itself) never leaves unchanged and so never becomes direct.
 *
 * What is not understood, too big, a fragment or about to expire goes to the stack, always;
 * what a pod sends with another source than its own is dropped.
 * A lost entry costs one question (docs/datapaths.md: "When a flow's entry is lost").
 */
#include "shortcut.h"

/* The agent sets its size. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct addr);
	__type(value, struct pod);
} tw_pods_1 SEC(".maps");

/* By the index of a pod's device. The agent sets its size. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct sender);
} tw_senders_1 SEC(".maps");

ALWAYS_INLINE int into_pod(struct __sk_buff *skb, const struct packet *p, const struct pod *pod,
			   const int netkit)
{
	if (p->ttl <= 1 || !fits(skb, p, pod->mtu))
		return TC_ACT_OK;
	if (decrement_ttl(skb, p) || bpf_skb_store_bytes(skb, 0, pod->macs, sizeof(pod->macs), 0))
		return TC_ACT_SHOT;
	count(TO_POD);
	if (netkit) {
		/* It is being sent, not received: it cannot change over to the peer's side. */
		skb->tc_index = TC_INDEX_DIRECT;
		return bpf_redirect(pod->ifindex, 0);
	}
	return bpf_redirect_peer(pod->ifindex, 0);
}

ALWAYS_INLINE int out_of_eni(struct __sk_buff *skb, const struct packet *p, const struct pod *pod)
{
	struct bpf_redir_neigh hop = { .nh_family = p->v4 ? AF_INET : AF_INET6 };

	if (p->ttl <= 1 || !fits(skb, p, pod->eni_mtu) || !leads_on(pod->eni))
		return TC_ACT_OK;
	if (p->v4)
		hop.ipv4_nh = pod->gateway.w[3];
	else
		__builtin_memcpy(hop.ipv6_nh, &pod->gateway, sizeof(hop.ipv6_nh));
	if (decrement_ttl(skb, p))
		return TC_ACT_SHOT;
	count(TO_ENI);
	return bpf_redirect_neigh(pod->eni, &hop, sizeof(hop), 0);
}

/*
 * What has no shortcut: the stack's, if the source is the pod's. The stack checks that too, but
 * its rules can be flushed, and it hears ARP. A device that is not in the map is not judged here,
 * and an address that is lost from tw_pods_1 still is the pod's.
 */
ALWAYS_INLINE int without_shortcut(struct __sk_buff *skb)
{
	__u32 device = skb->ifindex;
	struct sender *s = bpf_map_lookup_elem(&tw_senders_1, &device);
	struct addr src, dst;

	if (!s)
		return TC_ACT_OK;
	if (addresses(skb, &src, &dst)) {
		if (is_chatter(&src))
			return TC_ACT_SHOT;
		if (addr_equal(&src, &s->v4) || addr_equal(&src, &s->v6))
			return TC_ACT_OK;
	}
	count(SPOOFED);
	return TC_ACT_SHOT;
}

ALWAYS_INLINE int from_pod(struct __sk_buff *skb, const int netkit)
{
	struct packet p;
	struct pod *pod, *to;

	if (!read_packet(skb, &p))
		return without_shortcut(skb);
	pod = bpf_map_lookup_elem(&tw_pods_1, &p.src);
	if (!pod || pod->ifindex != skb->ifindex)
		return without_shortcut(skb);
	if (!is_direct(skb, &p))
		return TC_ACT_OK;
	to = bpf_map_lookup_elem(&tw_pods_1, &p.dst);
	return to ? into_pod(skb, &p, to, netkit) : out_of_eni(skb, &p, pod);
}

/* What a pod sends, on the node's end of its veth. */
SEC("tc")
int tw_from_pod(struct __sk_buff *skb)
{
	return from_pod(skb, 0);
}

/* What a pod with a netkit device sends, while it is being sent. */
SEC("tc")
int tw_from_netkit(struct __sk_buff *skb)
{
	int verdict;

	skb->tc_classid = 0;
	verdict = from_pod(skb, 1);
	/* Here is no tc that would do it. 0 also replaces what the pod may have sent along. */
	if (verdict == TC_ACT_OK)
		skb->tc_index = skb->tc_classid;
	return verdict;
}

/* What the VPC delivers. */
SEC("tc")
int tw_from_eni(struct __sk_buff *skb)
{
	struct packet p;
	struct pod *to;

	if (skb->pkt_type != 0 /* PACKET_HOST */ || !read_packet(skb, &p))
		return TC_ACT_UNSPEC;
	to = bpf_map_lookup_elem(&tw_pods_1, &p.dst);
	if (!to)
		return TC_ACT_UNSPEC; /* it may be another datapath's, whose filter comes next */
	if (!is_direct(skb, &p))
		return TC_ACT_OK;
	return into_pod(skb, &p, to, 0);
}

/* What the stack sends to a pod. */
SEC("tc")
int tw_to_pod(struct __sk_buff *skb)
{
	if (skb->tc_index != TC_INDEX_DIRECT)
		learn(skb);
	return TC_ACT_OK;
}

/* What leaves by an ENI; without a mark it came directly and not from the stack. */
SEC("tc")
int tw_to_eni(struct __sk_buff *skb)
{
	if (skb->mark & SLOT_MASK)
		learn(skb);
	return TC_ACT_UNSPEC;
}
