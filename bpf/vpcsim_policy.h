/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Security groups. A flow is judged once, from its initiator's side: the initiator's
 * egress rules and the responder's ingress rules must both accept it. The flow table
 * stores the verdict with both policies. If one end has another policy when a packet
 * (of either direction) comes, the flow is judged again. So a change of rules applies
 * to established flows at their next packet, and flows that the new rules accept too
 * continue.
 */
#pragma once

#include "vpcsim_packet.h"

#define SECOND 1000000000ULL
#define FLOW_TIMEOUT (910 * SECOND) /* how long the service remembers an idle session */

struct judgement {
	struct rule_key key;
	struct addr peer, local;
	const struct port *peer_port;
	__u16 sport, dport; /* host byte order */
	__u8 proto;
	__u8 family;
	__u8 accept;
};

ALWAYS_INLINE int in_group(const struct port *port, __u64 group)
{
	int i;

#pragma unroll
	for (i = 0; i < MAX_GROUPS; i++) {
		if (port->groups[i] == group)
			return 1;
	}
	return 0;
}

/* Callback of bpf_loop: rules are sorted by priority, and the first match decides. */
static long judge_rule(__u32 index, struct judgement *j)
{
	struct rule *r;

	j->key.index = index;
	r = bpf_map_lookup_elem(&rules, &j->key);
	if (!r)
		return 1; /* a policy that is being replaced: accept stays 0 */
	if ((r->proto && r->proto != j->proto) || (r->family && r->family != j->family))
		return 0;
	if (!addr_in(&j->peer, &r->peer, &r->peer_mask) || !addr_in(&j->local, &r->local, &r->local_mask))
		return 0;
	if (r->group && !in_group(j->peer_port, r->group))
		return 0;
	if (j->sport < r->sport[0] || j->sport > r->sport[1] || j->dport < r->dport[0] || j->dport > r->dport[1])
		return 0;
	j->accept = r->accept;
	return 1;
}

ALWAYS_INLINE int judge(const struct port *port, const struct port *peer_port, __u32 direction,
			const struct addr *local, const struct addr *peer, __u8 proto, __u16 sport, __u16 dport)
{
	struct judgement j = {
		.key = {.policy = port->policy, .direction = direction},
		.peer = *peer,
		.local = *local,
		.peer_port = peer_port,
		.proto = proto,
		.family = is_v4(local) ? 4 : 6,
	};

	/* an ICMP identifier is not a port: rules for ICMP have the range 0-65535 */
	j.sport = bpf_ntohs(sport);
	j.dport = bpf_ntohs(dport);
	bpf_loop(port->rules[direction & 1], judge_rule, &j, 0);
	return j.accept;
}

/* src is the initiator. */
static __attribute__((noinline)) int judge_flow(const struct port *src, const struct port *dst, struct packet *p)
{
	if (!src || !dst || !p)
		return 0;
	return judge(src, dst, EGRESS, &p->src, &p->dst, p->proto, p->sport, p->dport) &&
	       judge(dst, src, INGRESS, &p->dst, &p->src, p->proto, p->sport, p->dport);
}

ALWAYS_INLINE int flow_key(struct flow_key *key, __u64 vpc, const struct packet *p)
{
	int swap = addr_less(&p->dst, &p->src) || (addr_equal(&p->dst, &p->src) && p->dport < p->sport);

	key->vpc = vpc;
	key->proto = p->proto;
	key->a = swap ? p->dst : p->src;
	key->b = swap ? p->src : p->dst;
	key->aport = swap ? p->dport : p->sport;
	key->bport = swap ? p->sport : p->dport;
	return swap; /* the sender is b */
}

ALWAYS_INLINE int is_icmp_error(const struct packet *p)
{
	if (p->proto == IPPROTO_ICMP)
		return p->icmp_type == ICMP_DEST_UNREACH || p->icmp_type == ICMP_TIME_EXCEEDED ||
		       p->icmp_type == ICMP_PARAMETERPROB;
	return p->proto == IPPROTO_ICMPV6 && p->icmp_type < 128;
}

/* An ICMP error belongs to the flow of the packet that it quotes. */
ALWAYS_INLINE int quotes_known_flow(struct __sk_buff *skb, __u64 vpc, const struct packet *p, __u64 now)
{
	struct packet q = {};
	struct flow_key key = {};
	struct ports ports;
	struct flow *f;

	q.l4 = p->l4 + 8;
	if (p->v6) {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, q.l4, &ip, sizeof(ip)))
			return 0;
		__builtin_memcpy(&q.src, &ip.saddr, sizeof(q.src));
		__builtin_memcpy(&q.dst, &ip.daddr, sizeof(q.dst));
		q.proto = ip.nexthdr;
		q.l4 += sizeof(ip);
	} else {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, q.l4, &ip, sizeof(ip)))
			return 0;
		addr_from_v4(&q.src, ip.saddr);
		addr_from_v4(&q.dst, ip.daddr);
		q.proto = ip.protocol;
		q.l4 += ip.ihl * 4;
	}
	if (q.proto == IPPROTO_TCP || q.proto == IPPROTO_UDP || q.proto == IPPROTO_SCTP) {
		if (bpf_skb_load_bytes(skb, q.l4, &ports, sizeof(ports)))
			return 0;
		q.sport = ports.sport;
		q.dport = ports.dport;
	} else if (q.proto == IPPROTO_ICMP || q.proto == IPPROTO_ICMPV6) {
		/* an error quotes only requests, never replies (RFC 1122, 3.2.2) */
		if (bpf_skb_load_bytes(skb, q.l4 + 4, &q.sport, 2))
			return 0;
	}
	flow_key(&key, vpc, &q);
	f = bpf_map_lookup_elem(&flows, &key);
	return f && now - f->seen < FLOW_TIMEOUT;
}

ALWAYS_INLINE int allowed(struct __sk_buff *skb, const struct port *src, const struct port *dst,
			  struct packet *p, __u64 now)
{
	struct flow_key key = {};
	struct flow fresh = {};
	struct flow *f;
	int from_b = flow_key(&key, src->vpc, p);

	f = bpf_map_lookup_elem(&flows, &key);
	if (f && !p->syn && now - f->seen < FLOW_TIMEOUT) {
		int forward = f->from_b == from_b;
		__u64 ip = forward ? src->policy : dst->policy;
		__u64 rp = forward ? dst->policy : src->policy;

		if (f->initiator_policy != ip || f->responder_policy != rp) {
			struct packet q = *p;

			if (!forward) {
				q.src = p->dst;
				q.dst = p->src;
				q.sport = p->dport;
				q.dport = p->sport;
			}
			if (!judge_flow(forward ? src : dst, forward ? dst : src, &q))
				return 0;
			f->initiator_policy = ip;
			f->responder_policy = rp;
		}
		/* write a shared cache line once a second, not once a packet */
		if (now - f->seen > SECOND)
			f->seen = now;
		return 1;
	}
	if (is_icmp_error(p) && quotes_known_flow(skb, src->vpc, p, now))
		return 1;
	if (!judge_flow(src, dst, p))
		return 0;
	fresh.seen = now;
	fresh.initiator_policy = src->policy;
	fresh.responder_policy = dst->policy;
	fresh.from_b = from_b;
	bpf_map_update_elem(&flows, &key, &fresh, BPF_ANY);
	return 1;
}
