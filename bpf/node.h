/* SPDX-License-Identifier: Apache-2.0 */
/* What all programs on a node have in common: its settings, what they count, and how they mark packets. */
#pragma once

#include "common.h"

/* What policies know of a packet that comes in; without them all are allowed. */
enum verdict {
	IN_NOT_ASKED,
	IN_UNKNOWN, /* it is judged where it leaves the host stack */
	IN_ALLOWED, /* its connection is allowed */
	IN_DENIED,
};

/* The agent shows these names in small letters. */
enum counter {
	TO_ENI = 0,
	TO_POD,
	ASKED,
	LEARNED,
	FORGOTTEN,
	SPOOFED, /* dropped by a program; the host stack counts its own drops */
	COUNTERS,
};

/* Settings that programs read while they run. */
struct node {
	__u64 ask_again; /* ticks after which connections without a handshake take the slow path again */
	__u64 secret;    /* random, one for each boot */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct node);
} tw_node_1 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, enum counter);
	__type(value, __u64);
} tw_counters_1 SEC(".maps");

ALWAYS_INLINE void count(enum counter what)
{
	__u64 *n = bpf_map_lookup_elem(&tw_counters_1, &what);

	if (n)
		*n += 1;
}

ALWAYS_INLINE struct node *node(void)
{
	__u32 first = 0;

	return bpf_map_lookup_elem(&tw_node_1, &first);
}

/* tc_index of a packet of the fast path that passes a learning program (netkit). */
#define TC_INDEX_DIRECT 1
#define TC_INDEX_IN 2         /* of other packets that came in by a device; those that the node makes have 0 */
#define TC_INDEX_PASSED 3     /* a program has let it into a pod (ipvlan) */
#define TC_INDEX_REPLY 0x8000 /* a bit: of a connection that policies allow. Programs may be replaced by others at any time */

/* Ticks after which connections without a handshake take the slow path again. */
ALWAYS_INLINE __u64 ask_again(void)
{
	struct node *n = node();

	return n ? n->ask_again : 0;
}
