/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flows that may pass the host stack by, for every datapath that has such a way: a flow
 * becomes direct when the stack sends its first packet on unchanged (see shortcut.c).
 * Changing the shape of a map needs a new name for it: a new agent takes over the maps
 * that it finds by name.
 */
#pragma once

#include "common.h"

#include <linux/icmpv6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>

#define AF_INET 2
#define AF_INET6 10
/* linux/icmp.h, which drags in the C library. */
#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define IP_FRAGMENT 0x3fff /* more fragments, or an offset: not IP_DF */

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

/* internal/datapath/ebpf/counters.go names them in this order. */
enum counter {
	TO_ENI = 0,
	TO_POD,
	ASKED,
	LEARNED,
	FORGOTTEN,
	SPOOFED, /* dropped by a program; the host stack counts what it drops */
	COUNTERS,
};

/*
 * Flows without a handshake ask again after this time. It is less than conntrack's least
 * timeout for them (nf_conntrack_udp_timeout and _icmp_timeout, 30 s), so a direct flow is
 * always known to conntrack, which keeps translated ones apart from it.
 */
#define ASK_AGAIN 20000000000ULL

/* internal/datapath/claims/numbers.go: bits of the mark that name a pod's ENI. */
#define SLOT_MASK 0x0ff00000

/* The agent sets its size. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct flow_key);
	__type(value, struct flow);
} tw_flows_1 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} tw_counters_1 SEC(".maps");

/*
 * ENI devices by their index, whose gateways answer. The kernel takes one out as it takes the
 * device away, the agent one whose gateway is silent: a packet that is sent there directly
 * would vanish, where the stack says that nobody is there.
 */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u32);
} tw_enis_1 SEC(".maps");

ALWAYS_INLINE int leads_on(__u32 eni)
{
	return bpf_map_lookup_elem(&tw_enis_1, &eni) != NULL;
}

ALWAYS_INLINE void count(__u32 what)
{
	__u64 *n = bpf_map_lookup_elem(&tw_counters_1, &what);

	if (n)
		*n += 1;
}

struct packet {
	struct flow_key flow;
	struct addr src, dst; /* the outer header's; the flow of an ICMP error is the one it is about */
	__u32 headers;        /* bytes up to the payload, for the size of a segment */
	__u8 ttl;
	__u8 v4;
	__u8 syn;
	__u8 error; /* an ICMP error */
};

/* Makes the first bytes readable. The packet's pointers are to be loaded again. */
ALWAYS_INLINE int readable(struct __sk_buff *skb, __u32 bytes)
{
	if ((void *)(long)skb->data + bytes <= (void *)(long)skb->data_end)
		return 1;
	return bytes <= skb->len && !bpf_skb_pull_data(skb, bytes);
}

ALWAYS_INLINE void *bytes_at(struct __sk_buff *skb, __u32 offset, __u32 size)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	return data + offset + size <= end ? data + offset : NULL;
}

/* Addresses and protocol of an IP header without options and fragments, else 0. */
ALWAYS_INLINE int read_ip(struct __sk_buff *skb, __u32 at, int v4, struct addr *src, struct addr *dst,
			    __u8 *proto, __u8 *ttl)
{
	if (v4) {
		struct iphdr *ip = bytes_at(skb, at, sizeof(*ip));

		if (!ip || ip->version != 4 || ip->ihl != 5 || (ip->frag_off & bpf_htons(IP_FRAGMENT)))
			return 0;
		addr_from_v4(src, ip->saddr);
		addr_from_v4(dst, ip->daddr);
		*proto = ip->protocol;
		*ttl = ip->ttl;
		return 1;
	}
	struct ipv6hdr *ip = bytes_at(skb, at, sizeof(*ip));

	if (!ip || ip->version != 6)
		return 0;
	__builtin_memcpy(src, &ip->saddr, sizeof(*src));
	__builtin_memcpy(dst, &ip->daddr, sizeof(*dst));
	*proto = ip->nexthdr;
	*ttl = ip->hop_limit;
	/* To the maps they would be IPv4's; nobody has such an address on a wire. */
	return !is_v4(src) && !is_v4(dst);
}

/* The addresses alone, of fragments and unknown protocols too; else 0. */
ALWAYS_INLINE int addresses(struct __sk_buff *skb, struct addr *src, struct addr *dst)
{
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
			return 0;
		addr_from_v4(src, ip.saddr);
		addr_from_v4(dst, ip.daddr);
		return 1;
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
			return 0;
		__builtin_memcpy(src, &ip.saddr, sizeof(*src));
		__builtin_memcpy(dst, &ip.daddr, sizeof(*dst));
		return !is_v4(src) && !is_v4(dst);
	}
	return 0;
}

/* Link-local and unspecified sources of IPv6: neighbours are permanent, nobody listens. */
ALWAYS_INLINE int is_chatter(const struct addr *src)
{
	return (src->w[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000) ||
	       !(src->w[0] | src->w[1] | src->w[2] | src->w[3]);
}

/* The ports of a flow whose addresses and protocol are read; 0 if it has none. */
ALWAYS_INLINE int read_ports(struct __sk_buff *skb, __u32 at, struct flow_key *flow)
{
	__u16 *ports = bytes_at(skb, at, 8);

	if (!ports)
		return 0;
	switch (flow->proto) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
		flow->sport = ports[0];
		flow->dport = ports[1];
		return 1;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6: {
		__u8 type = *(__u8 *)ports;

		if (flow->proto == IPPROTO_ICMP ? type != ICMP_ECHO && type != ICMP_ECHOREPLY :
						  type != ICMPV6_ECHO_REQUEST && type != ICMPV6_ECHO_REPLY)
			return 0;
		flow->sport = flow->dport = ports[2];
		return 1;
	}
	}
	return 0;
}

ALWAYS_INLINE int is_error(const struct packet *p, __u8 type)
{
	if (p->v4)
		return p->flow.proto == IPPROTO_ICMP &&
		       (type == ICMP_DEST_UNREACH || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETERPROB);
	return p->flow.proto == IPPROTO_ICMPV6 && type < ICMPV6_ECHO_REQUEST;
}

/* As read_packet, once for each family: the compiler must know the header's size. */
ALWAYS_INLINE int read_family(struct __sk_buff *skb, struct packet *p, const int v4)
{
	const __u32 ip = v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr), at = ETH_HLEN + ip;
	struct tcphdr *tcp;
	__u8 *type, ttl;

	p->v4 = v4;
	if (!readable(skb, at + 8) || !read_ip(skb, ETH_HLEN, v4, &p->src, &p->dst, &p->flow.proto, &p->ttl))
		return 0;
	type = bytes_at(skb, at, 1);
	if (!type)
		return 0;
	p->headers = ip + 8;
	if (is_error(p, *type)) {
		/* It follows the flow of the packet that it quotes. */
		if (!readable(skb, at + 8 + ip + 8) ||
		    !read_ip(skb, at + 8, v4, &p->flow.src, &p->flow.dst, &p->flow.proto, &ttl))
			return 0;
		p->error = 1;
		return addr_equal(&p->flow.src, &p->dst) && read_ports(skb, at + 8 + ip, &p->flow);
	}
	p->flow.src = p->src;
	p->flow.dst = p->dst;
	if (!read_ports(skb, at, &p->flow))
		return 0;
	if (p->flow.proto == IPPROTO_TCP) {
		if (!readable(skb, at + sizeof(*tcp)))
			return 0;
		tcp = bytes_at(skb, at, sizeof(*tcp));
		if (!tcp)
			return 0;
		p->syn = tcp->syn && !tcp->ack;
		p->headers = ip + tcp->doff * 4;
	}
	return 1;
}

/* 1 if the packet has a flow that may be direct. */
ALWAYS_INLINE int read_packet(struct __sk_buff *skb, struct packet *p)
{
	__builtin_memset(p, 0, sizeof(*p));
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return read_family(skb, p, 1);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return read_family(skb, p, 0);
	return 0;
}

ALWAYS_INLINE void reverse(struct flow_key *to, const struct flow_key *from)
{
	to->src = from->dst;
	to->dst = from->src;
	to->sport = from->dport;
	to->dport = from->sport;
	to->proto = from->proto;
	to->pad[0] = to->pad[1] = to->pad[2] = 0;
}

/*
 * tc_index of a packet that goes directly and yet passes a program that learns. One that did
 * not ask has 0.
 */
#define TC_INDEX_DIRECT 1

/*
 * A packet that asks takes this with it through the stack (as tc_classid, which the
 * kernel makes its tc_index), so that its name when it leaves can be compared with the one that
 * it came with. The map alone cannot tell: a translated packet may leave with a name
 * that another flow comes with.
 */
ALWAYS_INLINE __u16 token(const struct flow_key *flow)
{
	__u32 h = flow->proto;

	/* Odd constants (xxHash's primes); the shift brings down the best bits. */
	h = (h ^ flow->src.w[0]) * 2654435761U;
	h = (h ^ h >> 15 ^ flow->src.w[1]) * 2246822519U;
	h = (h ^ h >> 15 ^ flow->src.w[2]) * 3266489917U;
	h = (h ^ h >> 15 ^ flow->src.w[3]) * 668265263U;
	h = (h ^ h >> 15 ^ flow->dst.w[0]) * 374761393U;
	h = (h ^ h >> 15 ^ flow->dst.w[1]) * 2654435761U;
	h = (h ^ h >> 15 ^ flow->dst.w[2]) * 2246822519U;
	h = (h ^ h >> 15 ^ flow->dst.w[3]) * 3266489917U;
	h = (h ^ h >> 15 ^ ((__u32)flow->sport << 16 | flow->dport)) * 668265263U;
	h ^= h >> 15;
	h >>= 16;
	return h > TC_INDEX_DIRECT ? h : TC_INDEX_DIRECT + 1;
}

/* Whether the packet may go directly. If not, it asks the stack. */
ALWAYS_INLINE int is_direct(struct __sk_buff *skb, const struct packet *p)
{
	struct flow *f = bpf_map_lookup_elem(&tw_flows_1, &p->flow);
	struct flow asked = { .state = FLOW_ASKED };
	int tcp = p->flow.proto == IPPROTO_TCP;

	if (f && f->state == FLOW_DIRECT && !p->syn &&
	    (tcp || bpf_ktime_get_ns() - f->since < ASK_AGAIN))
		return 1;
	if (p->error)
		return 0;
	if (f)
		f->state = FLOW_ASKED;
	else
		bpf_map_update_elem(&tw_flows_1, &p->flow, &asked, BPF_ANY);
	skb->tc_classid = token(&p->flow);
	count(ASKED);
	return 0;
}

/* Whether the packet, or each segment of it, passes a device of this MTU. */
ALWAYS_INLINE int fits(struct __sk_buff *skb, const struct packet *p, __u32 mtu)
{
	if (skb->gso_size)
		return skb->gso_size + p->headers <= mtu;
	return skb->len - ETH_HLEN <= mtu;
}

/* The node is a hop, as it is for the first packet, which the stack routed. */
ALWAYS_INLINE int decrement_ttl(struct __sk_buff *skb, const struct packet *p)
{
	if (p->v4) {
		struct iphdr *ip = bytes_at(skb, ETH_HLEN, sizeof(*ip));
		struct {
			__u8 ttl, proto;
			__u16 check;
		} part;
		__u32 sum;

		if (!ip)
			return -1;
		part.ttl = ip->ttl - 1;
		part.proto = ip->protocol;
		/* RFC 1624, as the kernel's ip_decrease_ttl. */
		sum = (__u32)ip->check + bpf_htons(0x0100);
		part.check = (__u16)(sum + (sum >= 0xffff));
		return bpf_skb_store_bytes(skb, ETH_HLEN + __builtin_offsetof(struct iphdr, ttl), &part, sizeof(part), 0);
	}
	__u8 hops = p->ttl - 1;

	return bpf_skb_store_bytes(skb, ETH_HLEN + __builtin_offsetof(struct ipv6hdr, hop_limit), &hops, 1,
				   BPF_F_RECOMPUTE_CSUM);
}

/* A packet leaves the stack: is it one that came in like this? */
ALWAYS_INLINE void learn(struct __sk_buff *skb)
{
	struct packet p;
	struct flow_key back;
	struct flow *f;
	struct flow direct = { .state = FLOW_DIRECT };

	if (!read_packet(skb, &p) || p.error)
		return;
	f = bpf_map_lookup_elem(&tw_flows_1, &p.flow);
	reverse(&back, &p.flow);
	if (skb->tc_index == token(&p.flow)) {
		if (!f || f->state != FLOW_ASKED)
			return; /* another packet of the flow was faster */
		direct.since = bpf_ktime_get_ns();
		f->since = direct.since;
		f->state = FLOW_DIRECT;
		bpf_map_update_elem(&tw_flows_1, &back, &direct, BPF_ANY);
		count(LEARNED);
		return;
	}
	/*
	 * It came in otherwise and was translated into this. A direct flow of the same name
	 * is an old one, whose ports are used again: its way would miss the translation.
	 */
	if (p.flow.proto == IPPROTO_TCP && !p.syn)
		return;
	if (f)
		bpf_map_delete_elem(&tw_flows_1, &p.flow);
	if (!bpf_map_delete_elem(&tw_flows_1, &back))
		count(FORGOTTEN);
}
