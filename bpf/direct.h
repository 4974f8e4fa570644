/* SPDX-License-Identifier: Apache-2.0 */
/* Policies on packets that may take the fast path. */
#pragma once

#include "connection.h"
#include "judge.h"

/*
 * Whether judge_in must be asked about a packet that may take the fast path: 0, or what it is to be told. Mostly the connection is
 * allowed by the rules that hold. An ICMP error has the ends of its connection. from_pod is the device of the pod that sends, or 0.
 */
ALWAYS_INLINE int judge_direct(struct __sk_buff *skb, const struct packet *p, const struct connection *c, __u32 from_pod,
			       const __u32 to_pod, const int v4)
{
	struct desk *d = desk();
	struct judged *j = NULL;
	int second;

	if (!d)
		return DIRECT_NOT;
	d->device = from_pod;
	if (v4) {
		addr_from_v4(&d->flow.src, p->src.v4);
		addr_from_v4(&d->flow.dst, p->dst.v4);
	} else {
		__builtin_memcpy(&d->flow.src, &p->src, sizeof(d->flow.src));
		__builtin_memcpy(&d->flow.dst, &p->dst, sizeof(d->flow.dst));
	}
	second = judged_key(&d->key, &d->flow.src, &d->flow.dst, p->sport, p->dport, p->proto);
	if (!is_syn(p->tcp))
		j = entry(d, second, from_pod, 1, p->error);
	if (j && !(j->flags & (JUDGED_TO_NODE | JUDGED_DENIED)) && j->epoch == epoch()) {
		if (p->error || j->opener != second)
			note_reply(skb, j);
		return 0;
	}
	if (c && c->state == STATE_DIRECT && !p->error && (p->proto == IPPROTO_TCP ? c->seen & SEEN_OPENER : !is_old(c)))
		return DIRECT | (c->opener == p->second ? DIRECT_BY_SENDER : 0) | (from_pod ? DIRECT_FROM_POD : 0) |
			 (to_pod ? DIRECT_TO_POD : 0);
	return DIRECT_NOT;
}
