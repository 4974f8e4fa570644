/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Types and maps of the datapath ebpf, shared with internal/datapath/ebpf (bpf2go turns
 * the structs into Go types). Changing the shape of a map needs a new name for it: a new
 * agent takes over the maps that it finds by name.
 */
#pragma once

#include "common.h"

/* A flow is one direction: its reply has a flow of its own. ICMP echo: both ports are the id. */
struct flow_key {
	struct addr src;
	struct addr dst;
	__u16 sport;
	__u16 dport;
	__u8 proto;
	__u8 pad[3];
};

enum flow_state {
	FLOW_ASKED = 1, /* a packet was given to the host stack, whose answer is not seen yet */
	FLOW_DIRECT = 2 /* the stack sent it on as it came: the next need not ask */
};

struct flow {
	__u64 since; /* when it became direct, CLOCK_MONOTONIC in ns */
	__u32 state;
	__u32 pad;
};

/* A local pod's address. */
struct pod {
	__u32 ifindex;       /* the node's end of its veth */
	__u32 mtu;           /* of the pod */
	__u32 eni;           /* ifindex of its ENI; 0: there is none, the stack says so to the pod */
	__u32 eni_mtu;
	struct addr gateway; /* of the ENI's vSwitch, of the address's family */
	__u8 macs[12];       /* the pod's, then its next hop's: a delivered frame's addresses */
	__u32 pad;
};

/* internal/datapath/ebpf/counters.go names them in this order. */
enum counter {
	TO_ENI = 0,
	TO_POD,
	ASKED,
	LEARNED,
	FORGOTTEN,
	COUNTERS,
};
