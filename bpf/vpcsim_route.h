/* SPDX-License-Identifier: Apache-2.0 */
/* Which port has an address, and where route tables lead. */
#pragma once

#include "vpcsim_packet.h"

static __attribute__((noinline)) struct route *lookup_route(__u64 scope, const struct addr *a)
{
	struct route_key key = {
		.prefixlen = 64 + 128,
		.scope = {(__u32)scope | !is_v4(a), (__u32)(scope >> 32)},
		.addr = *a,
	};

	return bpf_map_lookup_elem(&routes, &key);
}

/*
 * The port with the address, as a single address or inside a prefix; with VIP, the address is a
 * balancer's. 0: none.
 */
ALWAYS_INLINE __u32 owner_of(__u64 vpc, const struct addr *a)
{
	struct addr_key key = {.vpc = vpc, .addr = *a};
	__u32 *ifindex = bpf_map_lookup_elem(&addrs, &key);
	struct route *r;

	if (ifindex)
		return *ifindex;
	r = lookup_route(vpc, a);
	return r && r->hops ? r->hop[0] : 0;
}

/* Of several hops, all packets of a flow use the same one, in both directions. */
ALWAYS_INLINE __u32 next_hop(__u64 table, const struct packet *p)
{
	struct route *r = lookup_route(table, &p->dst);
	__u32 i;

	if (!r || !r->hops)
		return 0;
	i = (p->src.w[3] ^ p->dst.w[3]) * 2654435761U ^ (__u32)(p->sport ^ p->dport) * 40503U;
	i = (i >> 8) % r->hops;
	if (i >= MAX_HOPS)
		return 0;
	return r->hop[i];
}

/* Whether the port's route table routes the address to this port: a router may send from it. */
ALWAYS_INLINE int routes_for(__u32 ifindex, const struct port *port, const struct addr *a)
{
	struct route *r = lookup_route(port->table, a);
	int i;

	if (!r)
		return 0;
#pragma unroll
	for (i = 0; i < MAX_HOPS; i++) {
		if (i < r->hops && r->hop[i] == ifindex)
			return 1;
	}
	return 0;
}
