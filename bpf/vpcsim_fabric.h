/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Types and maps of the simulated VPC's switch, shared with internal/vpcsim/fabric
 * (bpf2go generates Go types from the structs).
 *
 * The id of every object of the cloud (VPC, route table, security group, instance) is a
 * 64-bit hash of its name, and a policy's id is the hash of its contents. So a restarted
 * process computes the same ids and can use the existing maps.
 */
#pragma once

#include "common.h"

#define MAX_GROUPS 16
#define MAX_HOPS 16
#define MAX_RULES 4096

/* Why a frame was dropped. internal/vpcsim/fabric/counters.go names them in this order. */
enum drop_reason {
	PASS = 0,
	DROP_UNKNOWN_PORT,
	DROP_DOWN,
	DROP_SPOOFED_MAC,
	DROP_SPOOFED_IP,
	DROP_SOURCE_DEST_CHECK,
	DROP_BROADCAST,
	DROP_NOT_IP,
	DROP_NEIGHBOUR,
	DROP_MALFORMED,
	DROP_FRAGMENT,
	DROP_NO_ROUTE,
	DROP_MTU,
	DROP_SECURITY_GROUP,
	DROP_BANDWIDTH,
	DROP_REASONS,
};

enum port_flag {
	PORT_DOWN = 1 << 0,   /* the instance is stopped */
	PORT_CHECK = 1 << 1,  /* SourceDestCheck */
	PORT_LOOSE = 1 << 2,  /* any source address may be sent */
	PORT_POLICED = 1 << 3 /* the instance has a bandwidth limit */
};

enum direction { INGRESS = 0, EGRESS = 1 };

struct port {
	__u64 vpc;
	__u64 table;
	__u64 policy;
	__u64 bucket;
	__u64 groups[MAX_GROUPS]; /* ends at the first 0 */
	struct addr subnet4, mask4, subnet6, mask6;
	__u8 macs[12]; /* of the ENI, then of the fabric: the MACs of a delivered frame */
	__u16 mtu;
	__u16 flags;
	__u16 rules[2]; /* number of rules of the policy, by direction */
	__u32 pad;
};

struct addr_key {
	__u64 vpc;
	struct addr addr;
};

/*
 * The scope is a VPC (for ENIs' prefixes) or a route table. Its lowest bit is set for IPv6, so
 * that ::/0 does not match mapped IPv4 addresses. Every entry matches all bits of the scope.
 */
struct route_key {
	__u32 prefixlen;
	__u32 scope[2];
	struct addr addr;
};

/* Without hops, packets to the range are dropped. */
struct route {
	__u32 hops;
	__u32 hop[MAX_HOPS];
};

struct rule_key {
	__u64 policy;
	__u32 direction;
	__u32 index;
};

struct rule {
	struct addr peer, peer_mask;
	struct addr local, local_mask;
	__u64 group; /* the peer must be in it; 0: any peer */
	__u16 sport[2], dport[2];
	__u8 proto; /* 0: all */
	__u8 accept;
	__u8 family; /* 4, 6; 0: both */
	__u8 pad[5];
};

struct flow_key {
	__u64 vpc;
	struct addr a, b; /* a <= b */
	__u16 aport, bport;
	__u8 proto;
	__u8 pad[3];
};

/* An allowed flow, with the policies that allowed it. */
struct flow {
	__u64 seen;
	__u64 initiator_policy, responder_policy;
	__u8 from_b; /* b is the initiator */
	__u8 pad[7];
};

/* With the port, as the source is not checked yet: no port affects another's fragments. */
struct fragment_key {
	__u64 port;
	struct addr src, dst;
	__u32 id;
	__u32 proto;
};

struct fragment {
	__u16 sport, dport;
};

struct bucket_key {
	__u64 instance;
	__u64 direction;
};

struct bucket {
	struct bpf_spin_lock lock;
	__u32 pad;
	__u64 rate; /* bytes per second */
	__u64 burst;
	__u64 tokens;
	__u64 last;
};

struct counters {
	__u64 out_packets, out_bytes; /* sent by the instance */
	__u64 in_packets, in_bytes;   /* delivered to the instance */
	__u64 drops[DROP_REASONS];    /* of sent packets */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u32); /* ifindex in the switch's namespace */
	__type(value, struct port);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct addr_key);
	__type(value, __u32);
} addrs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct route_key);
	__type(value, struct route);
} routes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct rule_key);
	__type(value, struct rule);
} rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
} fragments SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct bucket_key);
	__type(value, struct bucket);
} buckets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct counters);
} stats SEC(".maps");
