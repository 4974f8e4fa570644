/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Policies at an ENI that a pod has for itself, in the pod's network namespace: both directions, by the addresses that a packet
 * has there, as nothing translates between there and the other end. What the pod exchanges by its node is judged there (judge.h).
 *
 * Connections at such an ENI have entries of their own: a pod may forge its sources there, which the VPC drops, and
 * must not make an entry for another pod by that. The filter's class has the ENI's number.
 */
#pragma once

#include "judge.h"

/* The filter is for what the ENI sends. */
#define CLASS_SENDS 0x8000

#define ICMPV6_ND_FIRST 133

/* Neighbour discovery on the ENI's link, also to unicast addresses: nothing has forwarded it (RFC 4861, 7.1). */
ALWAYS_INLINE int is_neighbours(const struct flow *f)
{
	return f->proto == IPPROTO_ICMPV6 && f->type >= ICMPV6_ND_FIRST && f->type <= ICMPV6_ND_LAST && f->hop_limit == 255;
}

/*
 * The entry at the ENI of the connection on the desk, or else one of the node: a pod of the node reaches this one by the node, and
 * gets its replies by the ENI.
 */
ALWAYS_INLINE struct judged *entry_own(struct desk *d, int second, __u16 eni, const int error)
{
	struct judged *j;

	d->key.own = 1;
	d->key.eni = eni;
	j = entry(d, second, 0, 0, error);
	if (j)
		return j;
	d->key.own = 0;
	d->key.eni = 0;
	j = entry(d, second, 0, 0, error);
	return j && !(j->flags & JUDGED_TO_NODE) ? j : NULL;
}

/* Whether it is an error about a connection that is allowed, as judge_error. */
ALWAYS_INLINE int is_allowed_error(struct __sk_buff *skb, struct desk *d, __u16 eni, __u32 sends)
{
	struct judged *j;

	if (!is_error(d->flow.proto, d->flow.type, is_v4(&d->flow.src)))
		return 0;
	if (!read_flow(skb, d->flow.payload + 8, d->flow.end, &d->quoted) || d->quoted.fragment == LATER_FRAGMENT ||
	    !addr_equal(&d->quoted.src, &d->flow.dst) || (sends && !addr_equal(&d->quoted.dst, &d->flow.src)))
		return 0;
	j = entry_own(d, key_of_flow(&d->key, &d->quoted), eni, 1);
	return j && still_allowed(d, j);
}

/* Returns ALLOWED, or the direction that denies the packet. */
ALWAYS_INLINE int judge_own_flow(struct __sk_buff *skb, struct desk *d, __u16 eni, __u32 sends)
{
	const __u8 own = sends ? JUDGED_EGRESS | JUDGED_BY_ADDRESS : JUDGED_INGRESS;
	const __u8 other = sends ? JUDGED_INGRESS : JUDGED_EGRESS | JUDGED_BY_ADDRESS;
	struct flow *f = &d->flow;
	struct judged *j;
	int second, by, turned;

	if (is_of_link(f) || is_neighbours(f) || is_allowed_error(skb, d, eni, sends))
		return ALLOWED;
	second = key_of_flow(&d->key, f);
	j = is_single(f) || is_syn(f->tcp) ? NULL : entry_own(d, second, eni, 0);
	/*
	 * What the node has translated for the pod is the opener's. The other end may have answered after a silence, by an entry as if
	 * it were the opener: with that the pod's packets would be answers.
	 */
	turned = sends && skb->tc_index == TC_INDEX_TURNED;
	if (turned && j && j->opener != second)
		j = NULL;
	/* By the node nobody has opened what goes by the ENI. */
	if (j && (d->key.own || j->opener != second))
		return still_allowed(d, j) ? ALLOWED : sends;
	d->key.own = 1;
	d->key.eni = eni;
	/* In the middle of a connection that is not known it may be a reply. */
	if (f->proto == IPPROTO_TCP && !is_syn(f->tcp) && !turned) {
		describe(d, !second, other, 0);
		if (judge(d) == ALLOWED)
			return ALLOWED;
	}
	describe(d, second, own, 0);
	by = judge(d);
	report(by, 0);
	if (by == ALLOWED && !is_single(f))
		remember(d);
	return by;
}

/* Returns 1 if the packet may pass the ENI. */
__noinline int judge_own(struct __sk_buff *skb, __u32 class)
{
	const __u32 sends = !!(class & CLASS_SENDS);
	struct desk *d = desk();
	struct flow *f;
	__u16 type;
	int by;

	/* Of a packet socket's frame skb->protocol is what the pod says. */
	if (skb->vlan_present || bpf_skb_load_bytes(skb, 2 * ETH_ALEN, &type, sizeof(type)) || type != skb->protocol)
		return 0;
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return 1;
	if (skb->protocol != bpf_htons(ETH_P_IP) && skb->protocol != bpf_htons(ETH_P_IPV6))
		return 0;
	if (!d)
		return 0;
	f = &d->flow;
	if (!read_flow(skb, ETH_HLEN, skb->len, f))
		return 0;
	if (f->fragment)
		key_of_fragments(d);
	/* Those that arrive, in any order, are nothing without the first one. */
	if (f->fragment == LATER_FRAGMENT)
		return !sends || bpf_map_lookup_elem(&tw_judged_1, &d->fragments) != NULL;
	by = judge_own_flow(skb, d, class & ~CLASS_SENDS, sends);
	if (f->fragment && sends)
		fragments_follow(d, by == ALLOWED);
	if (by == ALLOWED)
		return 1;
	denied(d, by);
	return 0;
}
