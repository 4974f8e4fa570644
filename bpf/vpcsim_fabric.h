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
	DROP_ACCESS_LIST,
	DROP_HAIRPIN,
	DROP_REASONS,
};

enum port_flag {
	PORT_DOWN = 1 << 0, /* the instance is stopped */
	PORT_CHECK = 1 << 1, /* SourceDestCheck */
	PORT_LOOSE = 1 << 2, /* any source address may be sent */
	PORT_POLICED = 1 << 3, /* the instance has a bandwidth limit */
	PORT_BALANCER = 1 << 4, /* of a VPC's balancers: security groups let pass what it sends */
	PORT_PUBLIC = 1 << 5 /* its VPC has a balancer with a public address */
};

/* The VPC of the outside namespace. An id made from a name is never that small. */
#define OUTSIDE 2ULL

/* In the map addrs: the address is a balancer's, and the port is the one of its namespace. */
#define VIP 0x80000000U

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

/*
 * An allowed flow, with the policies that allowed it. If its initiator sent to a balancer's
 * address and port, these are vip and vport, and the flow's key has the backend.
 */
struct flow {
	__u64 seen;
	__u64 initiator_policy, responder_policy;
	__u64 load;   /* the backend whose open connections count this one; 0: none */
	__u32 vip;    /* 0: not balanced */
	__u32 client; /* the initiator's port, if it is outside */
	__u16 vport;
	__u8 from_b;  /* b is the initiator */
	__u8 closed;  /* ends that sent FIN, by CLOSED_* */
	__u8 answered; /* the responder has sent a packet */
	__u8 pad[3];
};

#define CLOSED_INITIATOR 1
#define CLOSED_RESPONDER 2
#define CLOSED 3

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

enum schedule { SCHEDULE_TURNS = 0, SCHEDULE_LEAST, SCHEDULE_SOURCE, SCHEDULE_TUPLE };

enum access { ACCESS_ALL = 0, ACCESS_LISTED, ACCESS_UNLISTED };

/* The VPC is the client's: of a public address there is a key for OUTSIDE too. */
struct listener_key {
	__u64 vpc;
	__u32 vip;
	__u16 port;
	__u8 proto;
	__u8 pad;
};

struct listener {
	__u64 id; /* the scope of its access list in the map routes */
	__u64 table;
	__u64 policy; /* of the balancer's security groups, if it is guarded */
	__u32 slots;
	__u32 timeout, persistence; /* seconds */
	__u16 rules;
	__u8 scheduler;
	__u8 access;
	__u8 guarded;
	__u8 proxy; /* only access is decided here */
	__u8 pad[6];
};

struct slot_key {
	__u64 table;
	__u32 index;
	__u32 pad;
};

struct slot {
	__u64 backend; /* the hash of its listener, address and port */
	__u32 addr;
	__u16 port;
	__u16 weight;
};

#define BACKEND_TAKES 1 /* new connections */
#define BACKEND_KEEPS 2 /* UDP flows: it is registered and healthy */

/* A backend that is not in the map was removed, and its TCP connections continue. */
struct backend {
	__u64 listener;
	__u64 expires; /* when its connections end; 0: they continue */
	__u32 drain;   /* seconds, as the listener says */
	__u32 flags;
};

struct conn_key {
	__u64 vpc;
	__u32 client, vip;
	__u16 cport, vport;
	__u8 proto;
	__u8 pad[3];
};

/* A connection from a client to a listener. */
struct conn {
	__u64 seen;
	__u64 backend;
	__u32 addr;
	__u16 port;
	__u8 established; /* the client sent more than SYNs */
	__u8 pad;
	__u64 timeout; /* seconds */
};

struct client_key {
	__u64 listener;
	__u32 client;
	__u32 pad;
};

/* The backend that a client was sent to last, for listeners with persistence. */
struct client {
	__u64 until;
	struct slot slot;
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

/*
 * Connections that have ended stay until others need their place. When a map becomes full for the first
 * time its oldest entries may still be in use, and the kernel then removes one of these: so this and conns
 * are large enough for 900 new connections a second in the life of a pod.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 262144);
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

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct listener_key);
	__type(value, struct listener);
} listeners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 524288);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct slot_key);
	__type(value, struct slot);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct backend);
} backends SEC(".maps");

/* How many connections each listener has assigned in turns. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u64);
} turns SEC(".maps");

/* The open connections of backends, by backend. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u64);
} loads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 262144);
	__type(key, struct conn_key);
	__type(value, struct conn);
} conns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct client_key);
	__type(value, struct client);
} clients SEC(".maps");
