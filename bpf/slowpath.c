/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The programs of policed.c for a node whose pods have no fast path: they have its names, and its maps but those of the
 * fast path, and do what it does with packets of pods that it does not know. Either set may replace the other, one program at a time.
 */
#define POLICY
#include "judge.h"

ALWAYS_INLINE void spoofed(void)
{
	struct desk *d = desk();

	if (d)
		d->tally.spoofed++;
}
#include "stack.h"

/* Packets from a pod, at the node's end of its veth. */
SEC("tc")
int tw_from_pod(struct __sk_buff *skb)
{
	skb->tc_index = TC_INDEX_IN;
	skb->priority = 0;
	return onto_stack(skb);
}

/* Packets from the VPC. */
SEC("tc")
int tw_from_eni(struct __sk_buff *skb)
{
	return tw_from_other(skb);
}

/* Packets from the host stack to a pod, which does not get the tc_index. */
SEC("tc")
int tw_to_pod(struct __sk_buff *skb)
{
	if (!judge_out(skb, 1))
		return TC_ACT_SHOT;
	skb->tc_index = 0;
	return TC_ACT_UNSPEC;
}

/* Packets that leave by an ENI; those of ipvlan's pods are judged by its program, which is next. */
SEC("tc")
int tw_to_eni(struct __sk_buff *skb)
{
	return skb->tc_index == TC_INDEX_DIRECT ? TC_ACT_UNSPEC : tw_to_other(skb);
}

char __license[] SEC("license") = "Dual BSD/GPL";
