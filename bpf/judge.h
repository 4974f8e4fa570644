/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Network policies on the packets of a node (docs/policy.md, "Where it is enforced"; policy.h says what rules decide).
 *
 * A connection is judged where its first packet leaves the host stack, to a pod or by another device: there its
 * backend is known, whatever was translated on the way. The pod that it comes from is known by the device that it came in by
 * (ingress_ifindex), which nothing on the way changes. An entry of that 5-tuple says that it is allowed, and by which rules.
 *
 * Where packets come in, replies are recognised by that entry, before the host stack translates them back; tc_index says so
 * where they leave. If the rules have changed since, the connection is judged again, in place.
 */
#pragma once

#include "flows.h"
#include "headers.h"
#include "marks.h"
#include "policy.h"
#include "sender.h"

/*
 * Returned by functions that look at a packet, in place of a tc action: policies are to be asked first. It is not done there, because
 * both functions need too much of the stack for one to call the other.
 */
#define ON_STACK 0x100  /* then it takes the slow path */
#define ASK_FIRST 0x200 /* then it is looked at again; with the bits of judge_in */

/*
 * The priority of a pod's packets that are not known to be allowed to the address that they have, and of those on a connection that
 * the pod has opened and may not have any more. nftables drops them where the node itself receives them, the first ones
 * unless the node has opened the connection.
 */
#define PRIORITY_UNKNOWN 0x7477000c
#define PRIORITY_DENIED 0x7477000d

/* The key is the same for both directions. IPv4 addresses are mapped. Ports are in network byte order. */
struct judged_key {
	struct addr addr[2];
	__u16 port[2];
	__u8 proto;
	__u8 own;  /* at an ENI that a pod has for itself: its number is eni (own.h) */
	__u16 eni;
};

/*
 * In own: the entry says that the first fragment of a packet was allowed out, whose others follow: the host stack has made them of
 * one packet. addr are its source and destination, and port is its identification.
 */
#define JUDGED_FRAGMENTS 0x80

/* What was judged, and how it is judged again. */
enum {
	JUDGED_EGRESS = 1,     /* what the opener sends */
	JUDGED_BY_ADDRESS = 2, /* the opener's endpoint is that of its address, else that of its device: its source was translated */
	JUDGED_INGRESS = 4,    /* what the other end receives */
	JUDGED_NODE = 8,       /* the node opened it: allowed */
	JUDGED_TO_NODE = 16,   /* a pod opened it to an address of its node, which may translate it */
	JUDGED_DENIED = 32,    /* it was allowed; other rules have ended it */
};

struct judged {
	__u32 epoch;  /* of the rules by which it is allowed or denied */
	__u32 device; /* the opener's, if it is a pod that is known by it */
	__u8 opener;  /* 1: the second address of the key */
	__u8 flags;
	__u8 icmp_type, icmp_code; /* of its first packet */
	__u32 seen;   /* when a packet of it was last seen, in ticks; not of TCP */
};

/* The agent sets its size. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct judged_key);
	__type(value, struct judged);
} tw_judged_1 SEC(".maps");

/*
 * Of the node: an address of its own, except those of IPVS's Services (connections of pods with them have entries); or the index of a
 * device, beside pods', whose incoming packets have their tc_index from a program. The other field is 0. The value has a meaning for
 * SILENCE alone.
 */
struct own_key {
	struct addr addr;
	__u32 device;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct own_key);
	__type(value, __u32);
} tw_own_1 SEC(".maps");

/* Space that the stack does not have: a program runs to its end before another one begins on its processor. */
struct desk {
	struct tally tally;
	struct flow flow, quoted;
	struct judged_key key;
	struct judged asked; /* how judge judges it */
	struct judged_key fragments; /* of a packet, behind the first one */
	struct pol_packet packet;
	struct pol_verdict verdict;
	struct flow_event event;
	__u32 device; /* of the pod that sends a packet of the fast path, or 0 */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct desk);
} tw_desk_3 SEC(".maps");

/* Returns 1 if the sender is the second address of the key. */
ALWAYS_INLINE int judged_key(struct judged_key *k, const struct addr *src, const struct addr *dst, __u16 sport, __u16 dport,
			     __u8 proto)
{
	int second = addr_equal(src, dst) ? sport > dport : addr_less(dst, src);

	k->addr[0] = second ? *dst : *src;
	k->addr[1] = second ? *src : *dst;
	k->port[0] = second ? dport : sport;
	k->port[1] = second ? sport : dport;
	k->proto = proto;
	k->own = 0;
	k->eni = 0;
	return second;
}

ALWAYS_INLINE int key_of_flow(struct judged_key *k, const struct flow *f)
{
	return judged_key(k, &f->src, &f->dst, f->sport, f->dport, f->proto);
}

ALWAYS_INLINE __u32 epoch(void)
{
	const struct pol_head *head = pol_head();

	return head ? head->epoch : 0;
}

ALWAYS_INLINE int is_own_address(const struct addr *a)
{
	struct own_key key = { .addr = *a };

	return bpf_map_lookup_elem(&tw_own_1, &key) != NULL;
}

ALWAYS_INLINE int is_guarded(__u32 device)
{
	struct own_key key = { .device = device };

	return bpf_map_lookup_elem(&tw_own_1, &key) != NULL;
}

/* In place of a device: ticks without a packet after which a connection without a handshake is none any more. */
#define SILENCE (~0U)

ALWAYS_INLINE __u32 silence(void)
{
	struct own_key key = { .device = SILENCE };
	__u32 *ticks = bpf_map_lookup_elem(&tw_own_1, &key);

	return ticks ? *ticks : 0;
}

ALWAYS_INLINE struct desk *desk(void)
{
	return bpf_map_lookup_elem(&tw_desk_3, &(__u32){ 0 });
}

/* The endpoint of the pod behind a device, for the family of an address; 0: closed. */
ALWAYS_INLINE __u32 endpoint_behind(__u32 device, const struct addr *like)
{
	struct sender *s = bpf_map_lookup_elem(&tw_senders_1, &device);

	if (!s)
		return 0;
	return policy_endpoint(is_v4(like) ? &s->v4 : &s->v6);
}

/*
 * Whether the rules of one direction allow the connection on the desk, judged as the entry there says. The kernel verifies a global
 * function once, and not for each call; before Linux 5.12 they have no pointers as parameters.
 */
__noinline int judge_half(__u32 egress)
{
	struct desk *d = desk();
	struct pol_packet *p;
	struct judged *j;
	__u32 endpoint;
	int own;

	if (!d)
		return 0;
	j = &d->asked;
	p = &d->packet;
	/* The opener's address for egress, else the other. */
	own = (egress ? j->opener : !j->opener) & 1;
	p->peer = own ? d->key.addr[0] : d->key.addr[1];
	p->proto = d->key.proto;
	p->icmp_type = j->icmp_type;
	p->icmp_code = j->icmp_code;
	p->zero = 0;
	p->source = bpf_ntohs(j->opener & 1 ? d->key.port[1] : d->key.port[0]);
	p->destination = bpf_ntohs(j->opener & 1 ? d->key.port[0] : d->key.port[1]);
	if (egress && !(j->flags & JUDGED_BY_ADDRESS))
		endpoint = endpoint_behind(j->device, &p->peer);
	else
		endpoint = policy_endpoint(own ? &d->key.addr[1] : &d->key.addr[0]);
	policy_decide(endpoint, egress, p, &d->verdict);
	d->event.rule[egress & 1] = d->verdict.rule;
	d->event.log[egress & 1] = d->verdict.log;
	return d->verdict.action == POL_ALLOW;
}

/* Whether the rules that hold allow the connection on the desk; else the direction that denies it. */
#define ALLOWED (-1)
ALWAYS_INLINE int judge(struct desk *d)
{
	if (d->asked.flags & JUDGED_NODE)
		return ALLOWED;
	if (d->asked.flags & JUDGED_EGRESS && !judge_half(1))
		return 1;
	if (d->asked.flags & JUDGED_INGRESS && !judge_half(0))
		return 0;
	return ALLOWED;
}

/* Tells what judge has said of the connection on the desk, and whether it is a running one (FLOW_RUNNING). */
__noinline int report(int by, int flags)
{
	struct desk *d = desk();
	struct flow_event *e;
	struct sender *s;
	__u32 device;

	if (!d || d->asked.flags & JUDGED_NODE)
		return 0;
	e = &d->event;
	if (by != ALLOWED)
		flags |= FLOW_DENIED;
	if (d->asked.flags & JUDGED_EGRESS)
		flags |= FLOW_EGRESS;
	else
		e->log[1] = 0;
	if (d->asked.flags & JUDGED_INGRESS && by != 1)
		flags |= FLOW_INGRESS;
	else
		e->log[0] = 0;
	if (d->asked.flags & JUDGED_TO_NODE)
		flags |= FLOW_TO_NODE;
	e->flags = flags;
	e->src = d->asked.opener & 1 ? d->key.addr[1] : d->key.addr[0];
	e->dst = d->asked.opener & 1 ? d->key.addr[0] : d->key.addr[1];
	e->sport = d->packet.source;
	e->dport = d->packet.destination;
	e->proto = d->packet.proto;
	e->icmp_type = d->packet.icmp_type;
	e->icmp_code = d->packet.icmp_code;
	__builtin_memset(&e->pod, 0, sizeof(e->pod));
	device = d->asked.device;
	s = device ? bpf_map_lookup_elem(&tw_senders_1, &device) : NULL;
	if (s)
		e->pod = is_v4(&e->src) ? s->v4 : s->v6;
	if (addr_equal(&e->pod, &e->src))
		__builtin_memset(&e->pod, 0, sizeof(e->pod));
	return tell(e, &d->tally);
}

ALWAYS_INLINE void denied(struct desk *d, int direction)
{
	if (direction)
		d->tally.denied[1]++;
	else
		d->tally.denied[0]++;
}

/* The device of the pod that sends, else 0. Volatile: else the address of the field is computed first, which the verifier refuses. */
ALWAYS_INLINE __u32 device_of(struct __sk_buff *skb, __u32 from_pod)
{
	__u32 device = *(volatile __u32 *)&skb->ifindex;

	return from_pod ? device : 0;
}

/*
 * The entry of the connection on the desk; NULL if there is none, or none any more: its packets have been missing for so long that they
 * would be another connection, or the opener's device was made anew. device is the sender's, 0 if it is no pod's or not known; with
 * now the caller takes only entries of the present epoch. An error is no packet of the connection, as for conntrack: with errors
 * alone an entry would outlive the translation of its packets.
 */
ALWAYS_INLINE struct judged *entry(struct desk *d, int second, __u32 device, const int now, const int error)
{
	struct judged *j = bpf_map_lookup_elem(&tw_judged_1, &d->key);
	__u32 ticks, limit;
	__s32 age;

	if (!j)
		return NULL;
	if (j->device) {
		if (device && j->opener == second && j->device != device)
			return NULL;
		if (!now && j->epoch != epoch() && !bpf_map_lookup_elem(&tw_senders_1, &j->device))
			return NULL;
	}
	if (d->key.proto == IPPROTO_TCP)
		return j;
	ticks = bpf_jiffies64();
	age = ticks - j->seen;
	/* Most packets of one that is busy. Another processor may have been there a tick later. */
	if (age <= 0)
		return j;
	limit = silence();
	/* As conntrack: its default is 30 s for these two, and ten minutes for what it does not know. */
	if (d->key.proto != IPPROTO_UDP && d->key.proto != IPPROTO_ICMP && d->key.proto != IPPROTO_ICMPV6)
		limit *= 20;
	if ((__u32)age >= limit)
		return NULL;
	/* A denied one ends so long after its last packet that was allowed: the ends may use their ports anew. */
	if (!error && !(j->flags & JUDGED_DENIED))
		j->seen = ticks;
	return j;
}

/* Whether a connection is allowed by the rules that hold: it is judged again if they are others. */
ALWAYS_INLINE int still_allowed(struct desk *d, struct judged *j)
{
	__u32 now = epoch();
	int by;

	if (j->epoch == now)
		return !(j->flags & JUDGED_DENIED);
	d->asked = *j;
	by = judge(d);
	if ((by != ALLOWED) != !!(j->flags & JUDGED_DENIED))
		report(by, FLOW_RUNNING);
	j->flags = by == ALLOWED ? j->flags & ~JUDGED_DENIED : j->flags | JUDGED_DENIED;
	j->epoch = now;
	return by == ALLOWED;
}

/* Describes a connection that has no entry. */
ALWAYS_INLINE void describe(struct desk *d, int opener, __u8 flags, __u32 device)
{
	d->asked.epoch = epoch();
	d->asked.device = device;
	d->asked.opener = opener;
	d->asked.flags = flags;
	d->asked.icmp_type = d->flow.type;
	d->asked.icmp_code = d->flow.code;
	d->asked.seen = bpf_jiffies64();
}

ALWAYS_INLINE void remember(struct desk *d)
{
	bpf_map_update_elem(&tw_judged_1, &d->key, &d->asked, BPF_ANY);
}

/*
 * Notes that a packet is a reply, or an error, which may leave the host stack whatever its addresses are then. What the node gets never
 * leaves it: an answer of the node may have been translated back, and the pod's next packet to that address is translated anew.
 */
ALWAYS_INLINE void note_reply(struct __sk_buff *skb, const struct judged *j)
{
	if (!(j->flags & JUDGED_NODE))
		skb->tc_index |= TC_INDEX_REPLY;
}

/* What is known of its connection, if it is on the fast path. */
#define DIRECT 1
#define DIRECT_BY_SENDER 2 /* the sender opened it */
#define DIRECT_FROM_POD 4  /* the sender is a pod of this node */
#define DIRECT_TO_POD 8    /* the receiver is */
#define DIRECT_NOT 16      /* it is not */
#define DIRECT_BITS 15

/*
 * Whether a pod's packet is allowed to the address that it has: the node may have it, by whatever route. If not the node
 * may translate it, and where it leaves it is judged by its backend.
 */
ALWAYS_INLINE int as_written(struct desk *d, struct judged *j, int second, __u32 device)
{
	int by;

	if (j && j->opener == second && !is_syn(d->flow.tcp))
		return still_allowed(d, j);
	describe(d, second, JUDGED_EGRESS | JUDGED_TO_NODE, device);
	by = judge(d);
	/* In the middle of TCP's the node may be the opener. */
	if ((d->flow.proto != IPPROTO_TCP || is_syn(d->flow.tcp)) && is_own_address(&d->flow.dst)) {
		report(by, 0);
		if (by == ALLOWED && !is_single(&d->flow))
			remember(d);
	}
	return by == ALLOWED;
}

/*
 * The entry of the connection to which an ICMP error belongs, if it is allowed: that of the packet that it quotes, whichever end or router
 * sends it. A pod is no router: about connections of others it may know nothing.
 */
ALWAYS_INLINE struct judged *allowed_quoted(struct __sk_buff *skb, struct desk *d, __u32 from_pod)
{
	struct judged *j;

	if (!read_flow(skb, d->flow.payload + 8, d->flow.end, &d->quoted) || d->quoted.fragment == LATER_FRAGMENT ||
	    !addr_equal(&d->quoted.src, &d->flow.dst) || (from_pod && !addr_equal(&d->quoted.dst, &d->flow.src)))
		return NULL;
	j = entry(d, key_of_flow(&d->key, &d->quoted), 0, 0, 1);
	return j && still_allowed(d, j) ? j : NULL;
}

/* An ICMP error comes in. */
ALWAYS_INLINE int judge_error(struct __sk_buff *skb, struct desk *d, __u32 from_pod)
{
	struct judged *j = allowed_quoted(skb, d, from_pod);

	if (!j)
		return IN_UNKNOWN;
	if (from_pod)
		skb->priority = 0;
	if (j->flags & JUDGED_TO_NODE)
		return IN_UNKNOWN;
	note_reply(skb, j);
	return IN_ALLOWED;
}

/* A packet comes in by a pod's device or by another one. With direct it is what judge_direct was asked about. */
__noinline int judge_in(struct __sk_buff *skb, __u32 from_pod, __u32 direct)
{
	struct desk *d = desk();
	int second, by, may_be_reply;
	struct judged *j;
	struct flow *f;
	__u32 flags = 0, device = device_of(skb, from_pod);

	if (from_pod)
		skb->priority = PRIORITY_UNKNOWN;
	if (skb->protocol != bpf_htons(ETH_P_IP) && skb->protocol != bpf_htons(ETH_P_IPV6))
		return IN_UNKNOWN;
	if (!d)
		return IN_DENIED;
	if (direct)
		device = d->device;
	f = &d->flow;
	if (!read_flow(skb, ETH_HLEN, skb->len, f) || f->fragment == LATER_FRAGMENT)
		return IN_UNKNOWN;
	if (is_error(f->proto, f->type, is_v4(&f->src)))
		return judge_error(skb, d, from_pod);
	second = key_of_flow(&d->key, f);
	j = is_single(f) ? NULL : entry(d, second, device, 0, 0);
	may_be_reply = f->proto == IPPROTO_TCP && !is_syn(f->tcp) && !j;
	if (from_pod && !direct && (!j || is_syn(f->tcp) || j->flags & JUDGED_TO_NODE)) {
		if (is_of_link(f) || as_written(d, j, second, device))
			skb->priority = 0;
		else if (j && !is_syn(f->tcp))
			skb->priority = PRIORITY_DENIED;
	}
	if (is_syn(f->tcp))
		return IN_UNKNOWN;
	if (j && !(j->flags & JUDGED_TO_NODE)) {
		if (still_allowed(d, j)) {
			if (from_pod)
				skb->priority = 0;
			if (j->opener != second)
				note_reply(skb, j);
			return IN_ALLOWED;
		}
		denied(d, from_pod);
		return IN_DENIED;
	}
	if (direct) {
		const int by_sender = !!(direct & DIRECT_BY_SENDER);

		if (direct & (by_sender ? DIRECT_FROM_POD : DIRECT_TO_POD))
			flags |= JUDGED_EGRESS | JUDGED_BY_ADDRESS;
		if (direct & (by_sender ? DIRECT_TO_POD : DIRECT_FROM_POD))
			flags |= JUDGED_INGRESS;
		describe(d, by_sender ? second : !second, flags, 0);
		by = judge(d);
		if (by != ALLOWED)
			d->asked.flags |= JUDGED_DENIED;
		remember(d);
		if (by != ALLOWED) {
			report(by, FLOW_RUNNING);
			denied(d, by);
			return IN_DENIED;
		}
		if (from_pod)
			skb->priority = 0;
		if (!by_sender)
			skb->tc_index |= TC_INDEX_REPLY;
		return IN_ALLOWED;
	}
	/*
	 * The middle of a connection that is not known, because its entry is lost or policies were turned on. It may be a reply, and
	 * the receiver the opener. No connection can begin by such a packet. It is not remembered: it may as well be the opener's, to
	 * an address that is translated.
	 */
	if (!may_be_reply)
		return IN_UNKNOWN;
	if (policy_endpoint(&f->dst))
		flags |= JUDGED_EGRESS | JUDGED_BY_ADDRESS;
	if (from_pod)
		flags |= JUDGED_INGRESS;
	if (!flags)
		return IN_UNKNOWN;
	describe(d, !second, flags, 0);
	if (judge(d) != ALLOWED)
		return IN_UNKNOWN;
	skb->tc_index |= TC_INDEX_REPLY;
	return IN_ALLOWED;
}

/* A packet that the node itself sends to a pod: a probe, or an answer. Returns 1 if it may. */
ALWAYS_INLINE int from_own_node(struct desk *d)
{
	struct flow *f = &d->flow;
	struct judged *j;
	int second;

	if (f->fragment == LATER_FRAGMENT || is_single(f))
		return 1;
	second = key_of_flow(&d->key, f);
	j = entry(d, second, 0, 0, 0);
	if (j && !is_syn(f->tcp)) {
		/* An answer on a connection that has been ended. */
		if (j->opener != second && f->proto == IPPROTO_TCP)
			return still_allowed(d, j);
		return 1;
	}
	/* In the middle of a connection: the pod may have opened it. Conntrack knows. */
	if (f->proto == IPPROTO_TCP && !is_syn(f->tcp))
		return 1;
	describe(d, second, JUDGED_NODE, 0);
	remember(d);
	return 1;
}

/*
 * Whether a pod's packet has been translated back: its source is neither the pod's nor the node's, by which it is masqueraded. It answers on
 * a connection that has been silent, and opens none: the other end's packets to this address are no replies, but translated anew.
 */
ALWAYS_INLINE int is_translated_back(const struct flow *f, __u32 pod)
{
	struct sender *s = bpf_map_lookup_elem(&tw_senders_1, &pod);

	return s && !is_syn(f->tcp) && !addr_equal(&f->src, &s->v4) && !addr_equal(&f->src, &s->v6) &&
	       !is_own_address(&f->src);
}

/* A packet leaves the host stack. Returns ALLOWED, or the direction that denies it. */
ALWAYS_INLINE int judge_flow(struct __sk_buff *skb, struct desk *d, const __u32 to_pod)
{
	struct flow *f = &d->flow;
	__u32 flags = 0, in = skb->ingress_ifindex, pod = 0;
	struct judged *j;
	int second, by;

	if (bpf_map_lookup_elem(&tw_senders_1, &in)) {
		flags |= JUDGED_EGRESS;
		pod = in;
	} else if (!in && policy_endpoint(&f->src)) { /* IPv6's fragments that the node makes have lost it */
		flags |= JUDGED_EGRESS | JUDGED_BY_ADDRESS;
	}
	if (to_pod)
		flags |= JUDGED_INGRESS;
	if (!flags)
		return ALLOWED;
	/* When it came in, what it quotes may have had the addresses of a Service. */
	if (is_error(f->proto, f->type, is_v4(&f->src))) {
		j = allowed_quoted(skb, d, pod);
		if (j && !(j->flags & (JUDGED_TO_NODE | JUDGED_NODE)))
			return ALLOWED;
	}
	second = key_of_flow(&d->key, f);
	j = is_syn(f->tcp) || is_single(f) ? NULL : entry(d, second, pod, 0, 0);
	if (j && j->flags & JUDGED_TO_NODE)
		j = NULL;
	/* The opener's. */
	if (j && j->opener == second && (j->flags & flags) == flags) {
		if (still_allowed(d, j))
			return ALLOWED;
		return j->flags & JUDGED_EGRESS ? 1 : 0;
	}
	/* Fragments have the bit of their first one: what it says of TCP's flags holds only here. */
	if (skb->tc_index & TC_INDEX_REPLY && !is_syn(f->tcp) && (pod || !in || is_guarded(in)))
		return ALLOWED;
	/* The other end's. It may be an answer that was on its way when the connection was denied: it opens none of its own. */
	if (j && j->opener != second)
		return still_allowed(d, j) ? ALLOWED : to_pod ? 0 : 1;
	describe(d, second, flags, pod);
	by = judge(d);
	report(by, 0);
	if (by == ALLOWED && !is_single(f) && !is_translated_back(f, pod))
		remember(d);
	return by;
}

ALWAYS_INLINE void key_of_fragments(struct desk *d)
{
	d->fragments.addr[0] = d->flow.src;
	d->fragments.addr[1] = d->flow.dst;
	d->fragments.port[0] = d->flow.id >> 16;
	d->fragments.port[1] = d->flow.id;
	d->fragments.proto = 0;
	d->fragments.own = JUDGED_FRAGMENTS;
	d->fragments.eni = 0;
}

/* Notes whether the fragments behind this first one may leave. */
ALWAYS_INLINE void fragments_follow(struct desk *d, int may)
{
	if (may)
		bpf_map_update_elem(&tw_judged_1, &d->fragments, &d->asked, BPF_ANY);
	else
		bpf_map_delete_elem(&tw_judged_1, &d->fragments);
}

/* Returns 1 if the packet may leave, to a pod or by another device. */
__noinline int judge_out(struct __sk_buff *skb, __u32 to_pod)
{
	__u32 in = skb->ingress_ifindex, made_here = !in && !skb->tc_index;
	struct desk *d = desk();
	struct flow *f;
	int by;

	if (skb->protocol != bpf_htons(ETH_P_IP) && skb->protocol != bpf_htons(ETH_P_IPV6))
		return 1;
	/* A pod's packet that turns around in the node, for its own Service. */
	if (to_pod && in == skb->ifindex)
		return 1;
	if (made_here && !to_pod)
		return 1;
	if (!d)
		return 0;
	f = &d->flow;
	if (!read_flow(skb, ETH_HLEN, skb->len, f))
		return made_here || (!to_pod && in && !bpf_map_lookup_elem(&tw_senders_1, &in));
	if (made_here)
		return from_own_node(d);
	if (f->fragment)
		key_of_fragments(d);
	if (f->fragment == LATER_FRAGMENT) {
		if (!to_pod && in && !bpf_map_lookup_elem(&tw_senders_1, &in))
			return 1;
		return bpf_map_lookup_elem(&tw_judged_1, &d->fragments) != NULL;
	}
	by = judge_flow(skb, d, to_pod);
	if (f->fragment)
		fragments_follow(d, by == ALLOWED);
	if (by == ALLOWED)
		return 1;
	denied(d, by);
	return 0;
}
