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
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct pod);
} tw_ends_1 SEC(".maps");

/* By the index of a pod's device. The agent sets its size. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct sender);
} tw_senders_1 SEC(".maps");

/* Where a packet for a pod comes from: that is how it changes over to the pod. */
enum origin {
	BY_VETH,
	BY_NETKIT, /* it is being sent, not received: it cannot change over to the peer's side */
	BY_ENI,
};

ALWAYS_INLINE int into_pod(struct __sk_buff *skb, const struct packet *p, const struct pod *pod,
			   const enum origin by, const int v4)
{
	int failed;

	if (p->ttl <= 1 || !fits(skb, p, pod->mtu))
		return TC_ACT_UNSPEC;
	if (by == BY_ENI)
		failed = forward_in_place(skb, p, pod->macs, v4);
	else if (by == BY_NETKIT && !(pod->macs[0] | pod->macs[5])) /* netkit to netkit: there are none */
		failed = decrement_ttl(skb, p, v4);
	else
		failed = forward(skb, p, pod->macs, v4);
	if (failed)
		return TC_ACT_SHOT;
	count(TO_POD);
	if (by == BY_NETKIT) {
		skb->tc_index = TC_INDEX_DIRECT;
		return bpf_redirect(pod->ifindex, 0);
	}
	return bpf_redirect_peer(pod->ifindex, 0);
}

ALWAYS_INLINE int out_of_eni(struct __sk_buff *skb, const struct packet *p, const struct pod *pod, const int v4)
{
	struct bpf_redir_neigh hop = { .nh_family = v4 ? AF_INET : AF_INET6 };

	if (p->ttl <= 1 || !fits(skb, p, pod->eni_mtu) || !leads_on(pod->eni))
		return TC_ACT_UNSPEC;
	if (v4)
		hop.ipv4_nh = pod->gateway.w[3];
	else
		__builtin_memcpy(hop.ipv6_nh, &pod->gateway, sizeof(hop.ipv6_nh));
	if (decrement_ttl(skb, p, v4))
		return TC_ACT_SHOT;
	count(TO_ENI);
	return bpf_redirect_neigh(pod->eni, &hop, sizeof(hop), 0);
}

/*
 * What has no shortcut: the stack's, if the source is the pod's. The stack checks that too, but
 * its rules can be flushed, and it hears ARP. A device that is not in the map is not judged here,
 * and an address that is lost from tw_pods_2 still is the pod's.
 */
static __noinline int without_shortcut(struct __sk_buff *skb)
{
	__u32 device = skb->ifindex;
	struct sender *s = bpf_map_lookup_elem(&tw_senders_1, &device);
	struct addr src = {}, dst = {};

	if (!s)
		return TC_ACT_UNSPEC;
	if (addresses(skb, &src, &dst)) {
		if (is_chatter(&src))
			return TC_ACT_SHOT;
		if (addr_equal(&src, &s->v4) || addr_equal(&src, &s->v6))
			return TC_ACT_UNSPEC;
	}
	count(SPOOFED);
	return TC_ACT_SHOT;
}

ALWAYS_INLINE int from_pod_family(struct __sk_buff *skb, const enum origin by, const int v4)
{
	struct pod *pod, *to;
	struct packet p;
	struct found f;
	union key k;

	if (!read_packet(skb, &p, v4) || !p.by_end)
		return without_shortcut(skb);
	key_of(&k, &p, v4);
	find(&f, &k, v4);
	pod = end(&tw_ends_1, f.c, &k, p.second, &p.src, 1, v4);
	if (!pod || pod->ifindex != skb->ifindex)
		return without_shortcut(skb);
	to = f.c ? end(&tw_ends_1, f.c, &k, !p.second, &p.dst, 0, v4) : NULL;
	if (!is_direct(skb, &p, &k, &f, v4))
		return TC_ACT_UNSPEC;
	return to ? into_pod(skb, &p, to, by, v4) : out_of_eni(skb, &p, pod, v4);
}

/*
 * A packet that the stack gets has a tc_index that is ours: the pod may have sent one along.
 * For somebody else's MAC, or everybody's, is nothing that goes directly.
 */
ALWAYS_INLINE int from_pod(struct __sk_buff *skb, const enum origin by)
{
	skb->tc_index = 0;
	if (by == BY_NETKIT || skb->pkt_type == 0 /* PACKET_HOST */) {
		if (skb->protocol == bpf_htons(ETH_P_IP))
			return from_pod_family(skb, by, 1);
		if (skb->protocol == bpf_htons(ETH_P_IPV6))
			return from_pod_family(skb, by, 0);
	}
	return without_shortcut(skb);
}

/* What a pod sends, on the node's end of its veth. */
SEC("tc")
int tw_from_pod(struct __sk_buff *skb)
{
	return from_pod(skb, BY_VETH);
}

/* What a pod with a netkit device sends, while it is being sent. */
SEC("tc")
int tw_from_netkit(struct __sk_buff *skb)
{
	return from_pod(skb, BY_NETKIT);
}

ALWAYS_INLINE int from_eni(struct __sk_buff *skb, const int v4)
{
	struct packet p;
	struct found f;
	struct pod *to;
	union key k;

	if (!read_packet(skb, &p, v4) || !may_be_local(&p.dst, v4))
		return TC_ACT_UNSPEC;
	key_of(&k, &p, v4);
	find(&f, &k, v4);
	to = end(&tw_ends_1, f.c, &k, !p.second, &p.dst, 1, v4);
	/* It may be for a pod of another kind, whose filter comes next. */
	if (!to || !is_direct(skb, &p, &k, &f, v4))
		return TC_ACT_UNSPEC;
	return into_pod(skb, &p, to, BY_ENI, v4);
}

/* What the VPC delivers. */
SEC("tc")
int tw_from_eni(struct __sk_buff *skb)
{
	if (skb->pkt_type != 0 /* PACKET_HOST */)
		return TC_ACT_UNSPEC;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return from_eni(skb, 1);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return from_eni(skb, 0);
	return TC_ACT_UNSPEC;
}

/* What the stack sends to a pod, which need not know what its packet was asked. */
SEC("tc")
int tw_to_pod(struct __sk_buff *skb)
{
	if (skb->tc_index != TC_INDEX_DIRECT)
		learn(skb, 1);
	skb->tc_index = 0;
	return TC_ACT_UNSPEC;
}

/* What leaves by an ENI; without a mark it came directly and not from the stack. */
SEC("tc")
int tw_to_eni(struct __sk_buff *skb)
{
	if (skb->mark & slot_mask)
		learn(skb, 0);
	return TC_ACT_UNSPEC;
}

char __license[] SEC("license") = "Dual BSD/GPL";
