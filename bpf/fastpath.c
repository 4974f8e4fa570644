/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The datapaths ebpf and netkit: a fast path past the host stack.
 *
 * A connection's first packet takes the slow path, as in the datapath route: through netfilter and the
 * routing rules. If it leaves the host stack with the addresses and ports that it came with, it was
 * not translated, and the connection takes the fast path in both directions. Services, NodePorts,
 * hostPorts, masquerade and the node's own addresses stay on the slow path: their packets do not leave
 * unchanged.
 *
 * Packets that are not parsed, too big, fragments or at TTL 1 take the slow path. A packet of a pod with
 * another source than the pod's is dropped.
 * A lost entry costs one packet on the slow path (docs/datapaths.md).
 */
#include "fastpath.h"

/* The agent sets its size. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct pod);
} tw_ends_1 SEC(".maps");

#ifdef POLICY
#include "direct.h"
#endif

ALWAYS_INLINE void spoofed(void)
{
	count(SPOOFED);
}
#include "stack.h"

/*
 * The class of the filter with tw_to_pod before a netkit pair. A pair forgets by which device a packet has come in
 * (skb_scrub_packet) before it runs its own programs, so policies judge before it.
 */
#define CLASS_NETKIT 1

/* Where a packet for a pod comes from, which says how to redirect it. */
enum origin {
	BY_VETH,
	BY_NETKIT, /* it is being sent, not received: bpf_redirect_peer does not work */
	BY_ENI,
};

ALWAYS_INLINE int into_pod(struct __sk_buff *skb, const struct packet *p, const struct pod *pod,
			   const enum origin by, const int v4)
{
	int failed;

	if (by == BY_ENI)
		failed = forward_in_place(skb, p, pod->macs, v4);
	else if (by == BY_NETKIT && !(pod->macs[0] | pod->macs[5])) /* netkit to netkit: there are no MACs */
		failed = decrement_ttl(skb, p, v4);
	else
		failed = forward(skb, p, pod->macs, v4);
	if (failed)
		return TC_ACT_SHOT;
	count(TO_POD);
	if (by == BY_NETKIT || pod->flags & POD_LIMITED) { /* through the queue of the device */
		skb->tc_index = TC_INDEX_DIRECT | (skb->tc_index & TC_INDEX_REPLY);
		return bpf_redirect(pod->ifindex, 0);
	}
#ifdef POLICY
	skb->tc_index = 0;
#endif
	return bpf_redirect_peer(pod->ifindex, 0);
}

ALWAYS_INLINE int out_of_eni(struct __sk_buff *skb, const struct packet *p, const struct pod *pod, const int v4)
{
	struct bpf_redir_neigh hop = { .nh_family = v4 ? AF_INET : AF_INET6 };

	if (v4)
		hop.ipv4_nh = pod->gateway.w[3];
	else
		__builtin_memcpy(hop.ipv6_nh, &pod->gateway, sizeof(hop.ipv6_nh));
	if (decrement_ttl(skb, p, v4))
		return TC_ACT_SHOT;
	count(TO_ENI);
#ifdef POLICY
	skb->tc_index = TC_INDEX_DIRECT;
#endif
	return bpf_redirect_neigh(pod->eni, &hop, sizeof(hop), 0);
}

ALWAYS_INLINE int from_pod_family(struct __sk_buff *skb, const enum origin by, enum verdict verdict, const int v4)
{
	struct pod *pod, *to;
	struct packet p;
	struct found f;
	union key k;

	if (!read_packet(skb, &p, v4) || !p.by_end)
		return without_fast_path(skb);
	key_of(&k, &p, v4);
	find(&f, &k, v4);
	pod = end(&tw_ends_1, f.c, &k, p.second, &p.src, 1, v4);
	if (!pod || pod->ifindex != skb->ifindex)
		return without_fast_path(skb);
	to = f.c ? end(&tw_ends_1, f.c, &k, !p.second, &p.dst, 0, v4) : NULL;
#ifdef POLICY
	if (verdict == IN_NOT_ASKED) {
		int known = judge_direct(skb, &p, f.c, pod->ifindex, to != NULL, v4);

		if (known)
			return ASK_FIRST | known;
	}
#endif
	if (!is_direct(skb, &p, &k, &f, v4))
		return TC_ACT_UNSPEC;
	if (verdict == IN_UNKNOWN || p.ttl <= 1 || !fits(skb, &p, to ? to->mtu : pod->eni_mtu) || (!to && !leads_on(pod->eni))) {
		onto_slow_path(skb, &p, v4);
		return TC_ACT_UNSPEC;
	}
	return to ? into_pod(skb, &p, to, by, v4) : out_of_eni(skb, &p, pod, v4);
}

#ifdef POLICY
/* As the programs without policies do, but for packets about which policies must be asked. */
__noinline int pod_sends4(struct __sk_buff *skb, int by, int verdict) { return from_pod_family(skb, by, verdict, 1); }
__noinline int pod_sends6(struct __sk_buff *skb, int by, int verdict) { return from_pod_family(skb, by, verdict, 0); }

ALWAYS_INLINE int look_at(struct __sk_buff *skb, const int pod, int by, int verdict, const int v4);

/* Looks at a packet, asks policies and looks again. */
ALWAYS_INLINE int ask_policies(struct __sk_buff *skb, const int pod, const enum origin by, const int v4)
{
	int now = look_at(skb, pod, by, IN_NOT_ASKED, v4), verdict;

	if (!(now & (ON_STACK | ASK_FIRST)) || now < 0)
		return now;
	verdict = judge_in(skb, pod, now & DIRECT_BITS);
	if (verdict == IN_DENIED)
		return TC_ACT_SHOT;
	return now & ON_STACK ? TC_ACT_UNSPEC : look_at(skb, pod, by, verdict, v4);
}
#define FROM_POD(skb, by, v4) ask_policies(skb, 1, by, v4)
#define FROM_ENI(skb, v4) ask_policies(skb, 0, BY_ENI, v4)
#else
#define FROM_POD(skb, by, v4) from_pod_family(skb, by, IN_ALLOWED, v4)
#define FROM_ENI(skb, v4) from_eni(skb, IN_ALLOWED, v4)
#endif

/*
 * The pod may have set a tc_index, which is not to be taken for a token. Packets to another MAC, and
 * broadcasts, have no fast path.
 */
ALWAYS_INLINE int from_pod(struct __sk_buff *skb, const enum origin by)
{
	skb->tc_index = TC_INDEX_IN;
#ifdef POLICY
	skb->priority = 0;
#endif
	if (by == BY_NETKIT || skb->pkt_type == 0 /* PACKET_HOST */) {
		if (skb->protocol == bpf_htons(ETH_P_IP))
			return FROM_POD(skb, by, 1);
		if (skb->protocol == bpf_htons(ETH_P_IPV6))
			return FROM_POD(skb, by, 0);
	}
	return onto_stack(skb);
}

/* Packets from a pod, at the node's end of its veth. */
SEC("tc")
int tw_from_pod(struct __sk_buff *skb)
{
	return from_pod(skb, BY_VETH);
}

/* Packets from a pod with a netkit device, while it sends. */
SEC("tc")
int tw_from_netkit(struct __sk_buff *skb)
{
	return from_pod(skb, BY_NETKIT);
}

ALWAYS_INLINE int from_eni(struct __sk_buff *skb, enum verdict verdict, const int v4)
{
	struct packet p;
	struct found f;
	struct pod *to;
	union key k;

	if (!read_packet(skb, &p, v4) || !may_be_local(&p.dst, v4))
		return ON_STACK;
	key_of(&k, &p, v4);
	find(&f, &k, v4);
	to = end(&tw_ends_1, f.c, &k, !p.second, &p.dst, 1, v4);
	/* It may be for a pod of another kind, whose filter is next. */
	if (!to)
		return ON_STACK;
#ifdef POLICY
	if (verdict == IN_NOT_ASKED) {
		int known = judge_direct(skb, &p, f.c, 0, 1, v4);

		if (known)
			return ASK_FIRST | known;
	}
#endif
	if (!is_direct(skb, &p, &k, &f, v4))
		return TC_ACT_UNSPEC;
	if (verdict == IN_UNKNOWN || p.ttl <= 1 || !fits(skb, &p, to->mtu)) {
		onto_slow_path(skb, &p, v4);
		return TC_ACT_UNSPEC;
	}
	return into_pod(skb, &p, to, BY_ENI, v4);
}

#ifdef POLICY
__noinline int eni_delivers4(struct __sk_buff *skb, int verdict) { return from_eni(skb, verdict, 1); }
__noinline int eni_delivers6(struct __sk_buff *skb, int verdict) { return from_eni(skb, verdict, 0); }

ALWAYS_INLINE int look_at(struct __sk_buff *skb, const int pod, int by, int verdict, const int v4)
{
	if (pod)
		return v4 ? pod_sends4(skb, by, verdict) : pod_sends6(skb, by, verdict);
	return v4 ? eni_delivers4(skb, verdict) : eni_delivers6(skb, verdict);
}
#endif

/* Packets from the VPC. */
SEC("tc")
int tw_from_eni(struct __sk_buff *skb)
{
#ifdef POLICY
	skb->tc_index = TC_INDEX_IN;
#endif
	if (skb->pkt_type != 0 /* PACKET_HOST */)
		return TC_ACT_UNSPEC;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return FROM_ENI(skb, 1);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return FROM_ENI(skb, 0);
	return TC_ACT_UNSPEC;
}

/* Packets from the host stack to a pod, which does not get the tc_index. */
SEC("tc")
int tw_to_pod(struct __sk_buff *skb)
{
	int direct = (skb->tc_index & ~TC_INDEX_REPLY) == TC_INDEX_DIRECT;

#ifdef POLICY
	/* netkit's packets have come in by no device. Devices without a program may let in any tc_index. */
	if ((!direct || skb->ingress_ifindex) && !judge_out(skb, 1))
		return TC_ACT_SHOT;
#endif
	if (!direct)
		learn(skb, 1);
	skb->tc_index = 0;
#ifdef POLICY
	if (skb->tc_classid == CLASS_NETKIT)
		skb->tc_index = TC_INDEX_DIRECT;
#endif
	return TC_ACT_UNSPEC;
}

/* Packets that leave by an ENI; those of the fast path have no mark. */
SEC("tc")
int tw_to_eni(struct __sk_buff *skb)
{
#ifdef POLICY
	if (skb->tc_index == TC_INDEX_DIRECT)
		return TC_ACT_UNSPEC;
	if (!judge_out(skb, 0))
		return TC_ACT_SHOT;
#endif
	if (skb->mark & slot_mask)
		learn(skb, 0);
	return TC_ACT_UNSPEC;
}

#ifdef POLICY
/* To a pod, in its netkit pair: only what has passed the filter before it. */
SEC("tc")
int tw_into_netkit(struct __sk_buff *skb)
{
	const int passed = skb->tc_index == TC_INDEX_DIRECT;

	skb->tc_index = 0;
	return passed ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}
#endif

char __license[] SEC("license") = "Dual BSD/GPL";
