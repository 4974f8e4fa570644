/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The verdict of network policies on the first packet of a connection: what compile.Maps.Lookup does, step
 * by step, on the same rows (internal/policy/compile). internal/datapath/policymap writes them.
 *
 * There are two of each map, the halves, and the head says which half holds. The agent writes the other
 * one and then replaces the head: a decision reads one half from its beginning to its end, so it
 * sees the rules before a change or after it.
 *
 * Whatever is missing, a half, an endpoint or a row, gives verdict 0: denied, because the endpoint is closed.
 */
#pragma once

#include "packet.h"

enum pol_class { POL_TCP, POL_UDP, POL_SCTP, POL_ICMP, POL_ICMPV6, POL_OTHER, POL_CLASSES };

enum pol_kind { POL_NOTHING, POL_VERDICT, POL_SOURCES, POL_LINE, POL_MISSING };

/* A row is missing; no atom and no table has this number. */
#define POL_LOST (~0U)

/* The most steps of a search: as many ranges as 2 to this, and a span for each number. */
#define POL_RANGE_STEPS 20
#define POL_SPAN_STEPS 16

#define POL_FINAL 0 /* the level that wins against every other */
#define POL_ALLOW 1 /* policy.Allow */
#define POL_DENY 2  /* policy.Deny */

/* What holds: a half, and how many of its ranges are in use. */
struct pol_head {
	__u32 half;
	__u32 ranges[2]; /* IPv4, IPv6 */
	__u32 epoch;     /* another one with each change */
};

struct pol_endpoint {
	__u32 rule_sets[2][2];   /* direction, family; 0: closed */
	__u32 defaults[2][2][2]; /* and kind: tables */
	__u32 flags;
	__u32 zero;
};

struct pol_address {
	__u32 atom, base, kind;
	__u32 endpoint; /* that has the address, or 0 */
};

/* The kind of an address that is an endpoint's alone: the ranges have its atom. */
#define POL_IN_RANGES 2

/* IPv4 addresses are mapped, and their ranges come first. */
struct pol_range {
	__u64 from[2];
	__u32 atom, zero;
};

struct pol_peer {
	__u32 rule_set, atom;
};

/*
 * A table is a row for each class: nothing, or a line, which is from + 1 rows from value on, of spans in order. A span has a verdict by its
 * number, or the number of a line by source port.
 */
struct pol_span {
	__u16 from, kind;
	__u32 value;
};

struct pol_verdict {
	__u8 action; /* policy.Allow, policy.Deny */
	__u8 logs;
	__u16 level;
	__u32 rule;
	__u32 log;
	__u32 zero;
};

/* What is asked. Ports are in host byte order. */
struct pol_packet {
	struct addr peer;
	__u16 source, destination;
	__u8 proto;
	__u8 icmp_type, icmp_code;
	__u8 zero;
};

#define POL_MAP(name, kind, flags, key_type, value_type, elements)        \
	struct name##_half {                                              \
		__uint(type, kind);                                       \
		__uint(max_entries, 1);                                   \
		__uint(map_flags, flags);                                 \
		__uint(key_size, sizeof(key_type));                       \
		__uint(value_size, sizeof(value_type));                   \
	};                                                                \
	struct {                                                          \
		__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);                 \
		__uint(max_entries, elements);                            \
		__type(key, __u32);                                       \
		__array(values, struct name##_half);                      \
	} name SEC(".maps")
/* Halves have different sizes. */
#define POL_ARRAY(name, value_type, elements) POL_MAP(name, BPF_MAP_TYPE_ARRAY, BPF_F_INNER_MAP, __u32, value_type, elements)
#define POL_HASH(name, key_type, value_type) POL_MAP(name, BPF_MAP_TYPE_HASH, BPF_F_NO_PREALLOC, key_type, value_type, 2)

/* The element behind the halves of tw_pol_verd_3 is a map of one row, the head, which is as long as a verdict. */
#define POL_HEAD 2
_Static_assert(sizeof(struct pol_head) == sizeof(struct pol_verdict), "the head is in the map of verdicts");

POL_ARRAY(tw_pol_ends_3, struct pol_endpoint, 2);
POL_HASH(tw_pol_addrs_3, struct addr, struct pol_address);
POL_ARRAY(tw_pol_rng_3, struct pol_range, 2);
POL_HASH(tw_pol_peers_3, struct pol_peer, __u32); /* a table; 0: none, and none of the base */
POL_ARRAY(tw_pol_spans_3, struct pol_span, 2);
POL_ARRAY(tw_pol_verd_3, struct pol_verdict, 3);

ALWAYS_INLINE void *pol_row(void *map, __u32 half, const void *key)
{
	void *rows = bpf_map_lookup_elem(map, &half);

	return rows ? bpf_map_lookup_elem(rows, key) : NULL;
}

ALWAYS_INLINE const struct pol_head *pol_head(void)
{
	return pol_row(&tw_pol_verd_3, POL_HEAD, &(__u32){ 0 });
}

/*
 * Searches for the last row that begins at or before what is searched for. It is one of n rows from low
 * on, and the first of them begins at 0. The rows that are left include it after each step. NULL: a row is missing.
 */
#define POL_SEARCH(rows, low, n, steps, row, begins)      \
	for (int step = 0; step < (steps) && n > 1; step++) { \
		__u32 half_of_n = n / 2, middle = low + half_of_n; \
                                                          \
		row = bpf_map_lookup_elem(rows, &middle);         \
		if (!row) {                                       \
			low = POL_LOST;                           \
			break;                                    \
		}                                                 \
		if (begins)                                       \
			low = middle;                             \
		n -= half_of_n;                                   \
	}                                                         \
	row = bpf_map_lookup_elem(rows, &low)

/* The atom of the range that has an address, among n from low on. */
__noinline __u32 pol_atom(__u32 half, __u32 low, __u32 n, __u64 high, __u64 rest)
{
	struct pol_range *row;
	void *rows = bpf_map_lookup_elem(&tw_pol_rng_3, &half);

	if (!rows)
		return POL_LOST;
	POL_SEARCH(rows, low, n, POL_RANGE_STEPS, row, row->from[0] < high || (row->from[0] == high && row->from[1] <= rest));
	return row ? row->atom : POL_LOST;
}

/* The kind of the span of a line that has a number, and its value in the lower half. */
__noinline __u64 pol_span(__u32 half, __u32 line, __u32 number)
{
	struct pol_span *row;
	void *rows = bpf_map_lookup_elem(&tw_pol_spans_3, &half);
	__u32 low, n;

	if (!rows)
		return (__u64)POL_MISSING << 32;
	row = bpf_map_lookup_elem(rows, &line);
	if (!row)
		return (__u64)POL_MISSING << 32;
	if (row->kind != POL_LINE)
		return POL_NOTHING;
	low = row->value;
	n = row->from + 1;
	POL_SEARCH(rows, low, n, POL_SPAN_STEPS, row, row->from <= number);
	return row ? (__u64)row->kind << 32 | row->value : (__u64)POL_MISSING << 32;
}

/* What a table says of a number of a class: POL_NOTHING, or POL_VERDICT with its number. source is a port. */
ALWAYS_INLINE enum pol_kind pol_find(__u32 half, __u32 table, __u32 class, __u32 number, __u32 source, __u32 *verdict)
{
	__u64 span = pol_span(half, table + class, number);

	if (span >> 32 == POL_SOURCES)
		span = pol_span(half, span, source);
	*verdict = span;
	return span >> 32;
}

/* What a line counts by. */
ALWAYS_INLINE enum pol_class pol_class(const struct pol_packet *p, __u32 *number)
{
	switch (p->proto) {
	case IPPROTO_TCP:
		*number = p->destination;
		return POL_TCP;
	case IPPROTO_UDP:
		*number = p->destination;
		return POL_UDP;
	case IPPROTO_SCTP:
		*number = p->destination;
		return POL_SCTP;
	case IPPROTO_ICMP:
		*number = (__u32)p->icmp_type << 8 | p->icmp_code;
		return POL_ICMP;
	case IPPROTO_ICMPV6:
		*number = (__u32)p->icmp_type << 8 | p->icmp_code;
		return POL_ICMPV6;
	}
	*number = p->proto;
	return POL_OTHER;
}

/* The table that a rule set has for an address beside its default table; 0: none. */
__noinline __u32 pol_table(__u32 half, __u32 rule_set, __u32 atom, __u32 base)
{
	struct pol_peer key = { rule_set, atom };
	void *rows = bpf_map_lookup_elem(&tw_pol_peers_3, &half);
	__u32 *table;

	if (!rows)
		return POL_LOST;
	table = bpf_map_lookup_elem(rows, &key);
	if (!table && atom != base) {
		key.atom = base;
		table = bpf_map_lookup_elem(rows, &key);
	}
	return table ? *table : 0;
}

/*
 * The verdict on a packet at an endpoint, by its number; direction: 0 ingress, 1 egress. Returns the number of the
 * verdict's row, which has a meaning only until the rules change, and a copy of the row.
 */
static __noinline __u32 policy_decide(__u32 endpoint, __u32 direction, const struct pol_packet *p, struct pol_verdict *out)
{
	const struct pol_head *head = pol_head();
	const struct pol_verdict *own = NULL, *other = NULL;
	__u32 half, family, rule_set, table, class, number, verdict = 0, by_default = 0;
	const struct pol_endpoint *e;
	struct pol_address at, *known;
	enum pol_kind says;
	void *addresses;

	__builtin_memset(out, 0, sizeof(*out));
	out->action = POL_DENY;
	if (!head)
		return 0;
	half = head->half;
	e = pol_row(&tw_pol_ends_3, half, &endpoint);
	addresses = bpf_map_lookup_elem(&tw_pol_addrs_3, &half);
	if (!e || !addresses)
		return 0;
	direction &= 1;
	family = !is_v4(&p->peer);
	rule_set = e->rule_sets[direction][family];
	if (!rule_set)
		return 0;
	known = bpf_map_lookup_elem(addresses, &p->peer);
	if (known && known->kind != POL_IN_RANGES) {
		at = *known;
	} else {
		at.atom = at.base = pol_atom(half, family ? head->ranges[0] : 0, family ? head->ranges[1] : head->ranges[0],
					     (__u64)bpf_ntohl(p->peer.w[0]) << 32 | bpf_ntohl(p->peer.w[1]),
					     (__u64)bpf_ntohl(p->peer.w[2]) << 32 | bpf_ntohl(p->peer.w[3]));
		at.kind = 0;
	}
	class = pol_class(p, &number);
	table = pol_table(half, rule_set, at.atom, at.base);
	if (at.atom == POL_LOST || table == POL_LOST)
		return 0;
	if (table) {
		says = pol_find(half, table, class, number, p->source, &verdict);
		if (says == POL_VERDICT)
			own = pol_row(&tw_pol_verd_3, half, &verdict);
		if (!own && says != POL_NOTHING)
			return 0;
		if (own && own->level == POL_FINAL) {
			*out = *own;
			return verdict;
		}
	}
	says = pol_find(half, e->defaults[direction][family][at.kind & 1], class, number, p->source, &by_default);
	if (says == POL_VERDICT)
		other = pol_row(&tw_pol_verd_3, half, &by_default);
	if (!other)
		return 0;
	if (own && own->level < other->level) {
		*out = *own;
		return verdict;
	}
	*out = *other;
	return by_default;
}

/* The number of the endpoint with this address, or 0, which is closed. Programs that measure do not ask for it. */
__attribute__((unused)) static __noinline __u32 policy_endpoint(const struct addr *own)
{
	const struct pol_head *head = pol_head();
	const struct pol_address *known = head ? pol_row(&tw_pol_addrs_3, head->half, own) : NULL;

	return known ? known->endpoint : 0;
}
