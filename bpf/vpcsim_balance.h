/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Load balancers. A packet to a listener gets a backend as its destination; its source, and so
 * the client's address, stays. The map of connections keeps the backend of a connection. The
 * way back is in the flow (vpcsim_policy.h), which is looked up for each packet anyway: a
 * reply's source becomes the balancer's address.
 *
 * What no listener takes is delivered to the balancer's namespace, whose kernel has the address
 * and refuses or, for a proxy, accepts the packet.
 */
#pragma once

#include "vpcsim_policy.h"
#include "vpcsim_route.h"

#define UDP_TIMEOUT (90 * SECOND)
#define TIME_WAIT (60 * SECOND)
#define MAX_TRIES 16

ALWAYS_INLINE __u32 mix(__u32 h)
{
	h = (h ^ h >> 16) * 0x85ebca6bU;
	h = (h ^ h >> 13) * 0xc2b2ae35U;
	return h ^ h >> 16;
}

/* A new connection. It is in a map, as it is too large for the stack. */
struct choice {
	struct packet q; /* the packet, with a candidate as its destination */
	struct flow_key flow;
	struct client_key client;
	struct client last;
	struct slot_key key;
	struct slot slot;
	struct conn conn;
	__u64 vpc, now;
	__u64 load;
	__u32 slots, start;
	__u32 found;
	__u32 sticky; /* a client keeps its backend if it can */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct choice);
} choices SEC(".maps");

/* What bpf_loop gives to its function must be on the stack. */
struct choosing {
	struct choice *c;
};

enum taken { FREE = 0, PERHAPS_TAKEN, TAKEN };

/*
 * TAKEN: the backend would see the connection of another listener, or one that did not pass a
 * balancer, under the same addresses and ports. PERHAPS_TAKEN: that one was closed lately, and the
 * backend may still remember it, in TIME_WAIT, and then answers only when the client has sent its
 * SYN again; or the backend has not answered it, and the client may still try.
 */
ALWAYS_INLINE int is_taken(struct choice *c, const struct slot *s)
{
	struct flow *f;
	__u64 age;

	addr_from_v4(&c->q.dst, s->addr);
	c->q.dport = s->port;
	flow_key(&c->flow, c->vpc, &c->q);
	f = bpf_map_lookup_elem(&flows, &c->flow);
	if (!f || (f->vip == c->q.vip && f->vport == c->q.vport))
		return FREE;
	age = c->now - f->seen;
	if (c->q.proto == IPPROTO_TCP && (f->closed == CLOSED || !f->answered))
		return age < TIME_WAIT ? PERHAPS_TAKEN : FREE;
	return age < (c->q.proto == IPPROTO_TCP ? FLOW_TIMEOUT : UDP_TIMEOUT) ? TAKEN : FREE;
}

/* The first slot that is free, else the first one that is not taken. */
static long try_slot(__u32 i, struct choosing *of)
{
	struct choice *c = of->c;
	struct slot *s;
	int taken;

	c->key.index = c->start + i;
	if (c->key.index >= c->slots)
		c->key.index -= c->slots;
	s = bpf_map_lookup_elem(&slots, &c->key);
	if (!s)
		return 0;
	taken = is_taken(c, s);
	if (taken == TAKEN || (taken == PERHAPS_TAKEN && c->found))
		return 0;
	c->slot = *s;
	c->found = 1;
	return taken == FREE || c->sticky;
}

/* The fewest open connections for its weight. */
static long compare_slot(__u32 i, struct choosing *of)
{
	struct choice *c = of->c;
	__u64 *open, load;
	struct slot *s;

	c->key.index = i;
	s = bpf_map_lookup_elem(&slots, &c->key);
	if (!s)
		return 0;
	open = bpf_map_lookup_elem(&loads, &s->backend);
	load = open ? *open : 0;
	if (c->found && load * c->slot.weight >= c->load * s->weight)
		return 0;
	if (is_taken(c, s) == TAKEN)
		return 0;
	c->slot = *s;
	c->load = load;
	c->found = 1;
	return 0;
}

ALWAYS_INLINE int takes(__u64 backend)
{
	struct backend *b = bpf_map_lookup_elem(&backends, &backend);

	return b && b->flags & BACKEND_TAKES;
}

/* Chooses the backend of a new connection. */
ALWAYS_INLINE int choose(const struct listener *l, const struct packet *p, struct choice *c)
{
	struct choosing of = {.c = c};
	__u64 *turn, *open, one = 1;
	struct client *last;

	c->found = 0;
	c->sticky = l->scheduler == SCHEDULE_SOURCE;
	c->client.listener = l->id;
	c->client.client = p->src.w[3];
	c->key.table = l->table;
	c->slots = l->slots;
	if (!l->slots)
		return 0;
	if (l->persistence) {
		last = bpf_map_lookup_elem(&clients, &c->client);
		if (last && c->now < last->until && takes(last->slot.backend) && is_taken(c, &last->slot) != TAKEN) {
			c->slot = last->slot;
			c->found = 1;
		}
	}
	if (!c->found && l->scheduler == SCHEDULE_LEAST) {
		bpf_loop(l->slots, compare_slot, &of, 0);
	} else if (!c->found) {
		if (l->scheduler == SCHEDULE_TURNS) {
			turn = bpf_map_lookup_elem(&turns, &l->id);
			c->start = turn ? __sync_fetch_and_add(turn, 1) % l->slots : 0;
		} else {
			c->start = mix(p->src.w[3]);
			if (l->scheduler == SCHEDULE_TUPLE)
				c->start = mix(c->start ^ mix(p->dst.w[3]) ^ mix((__u32)p->sport << 16 | p->dport));
			c->start %= l->slots;
		}
		bpf_loop(MAX_TRIES, try_slot, &of, 0);
	}
	if (!c->found)
		return 0;
	c->load = 0;
	if (l->scheduler == SCHEDULE_LEAST) {
		c->load = c->slot.backend;
		open = bpf_map_lookup_elem(&loads, &c->load);
		if (open)
			__sync_fetch_and_add(open, 1);
		else
			bpf_map_update_elem(&loads, &c->load, &one, BPF_NOEXIST);
	}
	if (l->persistence) {
		c->last.until = c->now + l->persistence * SECOND;
		c->last.slot = c->slot;
		bpf_map_update_elem(&clients, &c->client, &c->last, BPF_ANY);
	}
	return 1;
}

ALWAYS_INLINE void send_to(struct packet *p, __u32 addr, __u16 port)
{
	p->vip = p->dst.w[3];
	p->vport = p->dport;
	p->nat = NAT_TO_BACKEND;
	p->dst.w[3] = addr;
	p->dport = port;
}

/* Whether the balancer's security groups accept the packet. */
static __attribute__((noinline)) int guard(const struct listener *l, const struct port *src, const struct packet *p)
{
	if (!l || !src || !p)
		return 0;
	return judge(l->policy, l->rules, src, INGRESS, &p->dst, &p->src, p->proto, p->sport, p->dport);
}

/*
 * Sets the backend of a new connection. Returns a drop reason or PASS; without a backend, the
 * packet is the balancer's namespace's.
 */
static __attribute__((noinline)) int begin_connection(const struct port *src, struct packet *p,
						      const struct conn_key *key, __u64 vpc, __u64 now)
{
	struct listener_key lkey = {};
	struct listener *l;
	struct choice *c;
	__u32 zero = 0;

	if (!src || !p || !key)
		return PASS;
	lkey.vpc = key->vpc;
	lkey.vip = key->vip;
	lkey.port = key->vport;
	lkey.proto = key->proto;
	l = bpf_map_lookup_elem(&listeners, &lkey);
	if (!l)
		return PASS;
	if (l->access != ACCESS_ALL && !lookup_route(l->id, &p->src) == (l->access == ACCESS_LISTED))
		return DROP_ACCESS_LIST;
	if (l->guarded && !guard(l, src, p))
		return DROP_SECURITY_GROUP;
	c = bpf_map_lookup_elem(&choices, &zero);
	if (l->proxy || !c)
		return PASS;
	c->q = *p;
	c->q.vip = p->dst.w[3];
	c->q.vport = p->dport;
	c->vpc = vpc;
	c->now = now;
	if (!choose(l, p, c))
		return PASS;
	if (c->slot.addr == p->src.w[3] && src->vpc != OUTSIDE)
		return DROP_HAIRPIN;
	p->load = c->load;
	c->conn.seen = now;
	c->conn.backend = c->slot.backend;
	c->conn.addr = c->slot.addr;
	c->conn.port = c->slot.port;
	c->conn.established = 0;
	c->conn.timeout = l->timeout;
	bpf_map_update_elem(&conns, key, &c->conn, BPF_ANY);
	send_to(p, c->slot.addr, c->slot.port);
	return PASS;
}

/*
 * Sets the packet's backend, or leaves it to the balancer's namespace. Returns a drop reason or
 * PASS.
 */
ALWAYS_INLINE int pick(const struct port *src, struct packet *p, __u64 vpc, __u64 now)
{
	struct conn_key key = {
		.vpc = src->vpc,
		.client = p->src.w[3],
		.vip = p->dst.w[3],
		.cport = p->sport,
		.vport = p->dport,
		.proto = p->proto,
	};
	struct backend *b;
	struct conn *c;

	if (p->proto != IPPROTO_TCP && p->proto != IPPROTO_UDP)
		return PASS;
	c = bpf_map_lookup_elem(&conns, &key);
	if (c && now - c->seen < c->timeout * SECOND) {
		b = bpf_map_lookup_elem(&backends, &c->backend);
		if (p->proto == IPPROTO_UDP) {
			if (!b || !(b->flags & BACKEND_KEEPS))
				c = 0;
		} else if (p->syn) {
			/* a SYN that is sent again keeps the backend, a new connection does not */
			if (c->established || !b || !(b->flags & BACKEND_TAKES))
				c = 0;
		} else if (b && b->expires && now > b->expires) {
			bpf_map_delete_elem(&conns, &key);
			return PASS;
		} else if (!c->established) {
			c->established = 1;
		}
		if (c) {
			if (now - c->seen > SECOND)
				c->seen = now;
			send_to(p, c->addr, c->port);
			return PASS;
		}
	}
	if (p->proto == IPPROTO_TCP && !p->syn)
		return PASS;
	return begin_connection(src, p, &key, vpc, now);
}

/*
 * Called with the balancer's port as the target; the target becomes the backend's, 0 if no ENI
 * has its address. Returns a drop reason or PASS.
 */
static __attribute__((noinline)) int balance(const struct port *src, struct packet *p, __u32 *target, __u64 now)
{
	struct port *balancer;
	int reason;

	if (!src || !p || !target)
		return DROP_NO_ROUTE;
	balancer = bpf_map_lookup_elem(&ports, target);
	if (!balancer)
		return DROP_NO_ROUTE;
	reason = pick(src, p, balancer->vpc, now);
	if (!reason && p->nat)
		*target = owner_of(balancer->vpc, &p->dst) & ~VIP;
	return reason;
}

/*
 * The port outside that a packet goes to: a reply of a balanced flow, or one of a balancer's
 * namespace. 0: none.
 */
static __attribute__((noinline)) __u32 outside_of(const struct port *src, const struct packet *p, __u64 now)
{
	struct flow_key key = {};
	struct flow *f;
	int from_b;

	if (!(src->flags & PORT_PUBLIC))
		return 0;
	if (src->flags & PORT_BALANCER)
		return owner_of(OUTSIDE, &p->dst) & ~VIP;
	from_b = flow_key(&key, src->vpc, p);
	f = bpf_map_lookup_elem(&flows, &key);
	if (!f || !f->vip || f->from_b == from_b || now - f->seen >= FLOW_TIMEOUT)
		return 0;
	return f->client;
}

/* Changes the packet's destination to the backend, or its source to the balancer. */
ALWAYS_INLINE int translate(struct __sk_buff *skb, const struct packet *p)
{
	int to = p->nat == NAT_TO_BACKEND;
	__u32 old = to ? p->vip : p->src.w[3], new = to ? p->dst.w[3] : p->vip;
	__u16 oport = to ? p->vport : p->sport, nport = to ? p->dport : p->vport;
	__u32 sum = p->l4 + (p->proto == IPPROTO_TCP ? 16 : 6);
	__u64 flags = p->proto == IPPROTO_TCP ? 0 : BPF_F_MARK_MANGLED_0;

	if (bpf_l3_csum_replace(skb, ETH_HLEN + 10, old, new, 4) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN + (to ? 16 : 12), &new, 4, 0))
		return 1;
	if (p->later)
		return 0;
	if (bpf_l4_csum_replace(skb, sum, old, new, flags | BPF_F_PSEUDO_HDR | 4))
		return 1;
	if (oport == nport)
		return 0;
	return bpf_l4_csum_replace(skb, sum, oport, nport, flags | 2) ||
	       bpf_skb_store_bytes(skb, p->l4 + (to ? 2 : 0), &nport, 2, 0);
}
