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
	const struct port *peer_port; /* 0: the peer is no ENI */
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
	if (r->group && (!j->peer_port || !in_group(j->peer_port, r->group)))
		return 0;
	if (j->sport < r->sport[0] || j->sport > r->sport[1] || j->dport < r->dport[0] || j->dport > r->dport[1])
		return 0;
	j->accept = r->accept;
	return 1;
}

ALWAYS_INLINE int judge(__u64 policy, __u32 rules, const struct port *peer_port, __u32 direction,
			const struct addr *local, const struct addr *peer, __u8 proto, __u16 sport, __u16 dport)
{
	struct judgement j = {
		.key = {.policy = policy, .direction = direction},
		.peer = *peer,
		.local = *local,
		.peer_port = peer_port,
		.proto = proto,
		.family = is_v4(local) ? 4 : 6,
	};

	/* an ICMP identifier is not a port: rules for ICMP have the range 0-65535 */
	j.sport = bpf_ntohs(sport);
	j.dport = bpf_ntohs(dport);
	bpf_loop(rules, judge_rule, &j, 0);
	return j.accept;
}

/*
 * src is the initiator. Its rules see the address that it sends to, which may be a balancer's;
 * those of the responder see the flow as it arrives.
 */
static __attribute__((noinline)) int judge_flow(const struct port *src, const struct port *dst, struct packet *p)
{
	const struct port *peer_port = dst;
	struct addr to;
	__u16 dport;

	if (!src || !dst || !p)
		return 0;
	to = p->dst;
	dport = p->dport;
	if (p->vip) {
		addr_from_v4(&to, p->vip);
		dport = p->vport;
		peer_port = 0;
	}
	if (!judge(src->policy, src->rules[EGRESS], peer_port, EGRESS, &p->src, &to, p->proto, p->sport, dport))
		return 0;
	return src->flags & PORT_BALANCER ||
	       judge(dst->policy, dst->rules[INGRESS], src, INGRESS, &p->dst, &p->src, p->proto, p->sport, p->dport);
}

/* The VPC of a flow: one that enters it from outside is one of its flows. */
ALWAYS_INLINE __u64 vpc_of(const struct port *src, const struct port *dst)
{
	return src->vpc == OUTSIDE ? dst->vpc : src->vpc;
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
static __attribute__((noinline)) int quotes_known_flow(struct __sk_buff *skb, __u64 vpc, const struct packet *p, __u64 now)
{
	struct packet q = {};
	struct flow_key key = {};
	struct ports ports;
	struct flow *f;

	if (!p)
		return 0;

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

/* One open connection less. */
ALWAYS_INLINE void release(__u64 backend)
{
	__u64 *load = bpf_map_lookup_elem(&loads, &backend);

	if (load && *load)
		__sync_fetch_and_sub(load, 1);
}

ALWAYS_INLINE void note_end(struct flow *f, const struct packet *p, int forward)
{
	__u8 closed = f->closed;

	if (p->ends & TCP_RST)
		closed = CLOSED;
	else
		closed |= forward ? CLOSED_INITIATOR : CLOSED_RESPONDER;
	if (f->load && closed == CLOSED && f->closed != CLOSED)
		release(f->load);
	f->closed = closed;
}

/* Judges a flow as its initiator's packets, of which p need not be one. */
static __attribute__((noinline)) int judge_again(const struct port *initiator, const struct port *responder,
						 const struct packet *p, const struct flow *f, int forward)
{
	struct packet q;

	if (!p || !f)
		return 0;
	q = *p;
	if (!forward) {
		q.src = p->dst;
		q.dst = p->src;
		q.sport = p->dport;
		q.dport = p->sport;
	}
	q.vip = f->vip;
	q.vport = f->vport;
	return judge_flow(initiator, responder, &q);
}

/*
 * Judges a flow without an entry, and a connection that begins; makes the entry. It records
 * whether the flow is balanced: a packet that opens a connection directly makes it one that is
 * not.
 */
static __attribute__((noinline)) int begin_flow(struct __sk_buff *skb, const struct port *src, const struct port *dst,
						struct packet *p, __u64 now)
{
	struct flow_key key = {};
	struct flow fresh = {};
	struct flow *f;

	if (!src || !dst || !p)
		return 0;
	if (is_icmp_error(p) && quotes_known_flow(skb, vpc_of(src, dst), p, now))
		return 1;
	if (!judge_flow(src, dst, p))
		return 0;
	fresh.from_b = flow_key(&key, vpc_of(src, dst), p);
	fresh.load = p->load;
	f = bpf_map_lookup_elem(&flows, &key);
	if (f && f->load && f->closed != CLOSED) {
		if (!p->load && p->nat && p->vip == f->vip && p->vport == f->vport)
			fresh.load = f->load; /* the same connection's SYN again */
		else
			release(f->load);
	}
	fresh.seen = now;
	fresh.initiator_policy = src->policy;
	fresh.responder_policy = dst->policy;
	fresh.vip = p->vip;
	fresh.vport = p->vport;
	if (src->vpc == OUTSIDE)
		fresh.client = skb->ifindex;
	bpf_map_update_elem(&flows, &key, &fresh, BPF_ANY);
	return 1;
}

/* Also finds out whether the packet is a reply of a balanced flow. */
ALWAYS_INLINE int allowed(struct __sk_buff *skb, const struct port *src, const struct port *dst,
			  struct packet *p, __u64 now)
{
	struct flow_key key = {};
	struct flow *f;
	int from_b = flow_key(&key, vpc_of(src, dst), p), forward;
	__u64 ip, rp;

	f = bpf_map_lookup_elem(&flows, &key);
	if (!f || p->syn || now - f->seen >= FLOW_TIMEOUT)
		return begin_flow(skb, src, dst, p, now);
	forward = f->from_b == from_b;
	ip = forward ? src->policy : dst->policy;
	rp = forward ? dst->policy : src->policy;
	if (f->initiator_policy != ip || f->responder_policy != rp) {
		if (!judge_again(forward ? src : dst, forward ? dst : src, p, f, forward))
			return 0;
		f->initiator_policy = ip;
		f->responder_policy = rp;
	}
	if (!forward && !f->answered)
		f->answered = 1;
	if (f->vip && !forward) {
		p->nat = NAT_FROM_BACKEND;
		p->vip = f->vip;
		p->vport = f->vport;
	}
	if (p->ends)
		note_end(f, p, forward);
	/* write a shared cache line once a second, not once a packet */
	if (now - f->seen > SECOND)
		f->seen = now;
	return 1;
}
