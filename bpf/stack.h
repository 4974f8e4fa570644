/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What packets without a fast path meet before and behind the host stack; with policies also where no pod has one. Before it there is
 * spoofed, which counts a packet that is dropped for a source that is not the pod's.
 */
#pragma once

#include "marks.h"
#include "packet.h"
#include "sender.h"
#ifdef POLICY
#include "own.h"
#endif

/* The end of a packet of a pod's device that is not in tw_senders_1: nobody knows by which policies to judge it. */
#ifdef POLICY
#define NO_SENDER TC_ACT_SHOT
#else
#define NO_SENDER TC_ACT_UNSPEC
#define ON_STACK TC_ACT_UNSPEC
#endif

/*
 * A packet without a fast path: it takes the slow path if the source is the pod's. The host stack checks
 * that too, but its rules can be flushed, and it accepts ARP. The sources of a device that is not in
 * the map are not checked; an address that is missing in tw_pods_2 is still the pod's.
 */
static __noinline int without_fast_path(struct __sk_buff *skb)
{
	__u32 device = skb->ifindex;
	struct sender *s = bpf_map_lookup_elem(&tw_senders_1, &device);
	struct addr src = {}, dst = {};

	if (!s)
		return NO_SENDER;
	if (addresses(skb, &src, &dst)) {
		if (is_chatter(&src))
			return TC_ACT_SHOT;
		if (addr_equal(&src, &s->v4) || addr_equal(&src, &s->v6))
			return ON_STACK;
#ifdef POLICY
		/* It came for the pod by its own ENI, and was judged there; the node translates it, and gives it to the pod. */
		if (addr_equal(&dst, &s->v4) || addr_equal(&dst, &s->v6))
			return ON_STACK;
#endif
	}
	spoofed();
	return TC_ACT_SHOT;
}

/* The end of a pod's packet that has no fast path. */
ALWAYS_INLINE int onto_stack(struct __sk_buff *skb)
{
	int end = without_fast_path(skb);

#ifdef POLICY
	if (end != TC_ACT_SHOT)
		end = judge_in(skb, 1, 0) == IN_DENIED ? TC_ACT_SHOT : TC_ACT_UNSPEC;
#endif
	return end;
}

#ifdef POLICY
/* Packets from any other device. */
SEC("tc")
int tw_from_other(struct __sk_buff *skb)
{
	skb->tc_index = TC_INDEX_IN;
	if (skb->pkt_type == 0 /* PACKET_HOST */ && judge_in(skb, 0, 0) == IN_DENIED)
		return TC_ACT_SHOT;
	return TC_ACT_UNSPEC;
}

/* Packets that leave by any other device. */
SEC("tc")
int tw_to_other(struct __sk_buff *skb)
{
	return judge_out(skb, 0) ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

/* Packets in both directions at an ENI that a pod has for itself, in the pod's network namespace. */
SEC("tc")
int tw_own(struct __sk_buff *skb)
{
	return judge_own(skb, skb->tc_classid) ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}
#endif
