/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parser of packets for every kind of pod: the connection's addresses and ports, TCP's flags, and
 * the fields that forwarding needs. Everything else takes the slow path: fragments, IP options,
 * extension headers, VLAN tags, other protocols.
 */
#pragma once

#include "common.h"

#include <linux/icmpv6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>

#define AF_INET 2
#define AF_INET6 10
/* From linux/icmp.h, which needs the C library. */
#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define IP_FRAGMENT 0x3fff /* more fragments, or an offset: not IP_DF */
/* Flags of TCP, in the byte that has them. */
#define TCPHDR_FIN 0x01
#define TCPHDR_SYN 0x02
#define TCPHDR_RST 0x04
#define TCPHDR_ACK 0x10

/* An address in network byte order, as the largest words of its family: few steps to copy and compare it. */
union ip {
	__u32 v4;
	__u64 v6[2];
};

/* Half of an IPv6 address at any alignment, which x86 and ARM64 can read. */
typedef __u64 __attribute__((may_alias)) half;

struct packet {
	/*
	 * Ends of the connection, in the direction of this packet. An ICMP error has those of the connection
	 * that it is about, as if the unreachable end had sent it. ICMP echo: both ports are the id.
	 */
	union ip src, dst;
	__u16 sport, dport;
	__u8 proto;
	__u8 second;  /* the sender is the second address of the key (connection.h) */
	__u8 tcp;     /* TCP's flags */
	__u8 error;   /* an ICMP error */
	__u8 by_end;  /* 0: an ICMP error of a router, not of the end itself */
	__u8 ttl;
	__u16 check;  /* of the IPv4 header */
	__u8 outer;   /* protocol in the IP header; an ICMP error's connection has another */
	__u32 ip[2];   /* the first bytes of the IP header: up to the TTL, or with the hop limit */
	__u32 headers; /* bytes up to the payload, for the size of a segment */
};

/* Makes the first bytes readable. Pointers into the packet must be loaded again. */
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

ALWAYS_INLINE int same_ip(const union ip *a, const union ip *b, const int v4)
{
	return v4 ? a->v4 == b->v4 : a->v6[0] == b->v6[0] && a->v6[1] == b->v6[1];
}

ALWAYS_INLINE int is_mapped(const union ip *a)
{
	return !a->v6[0] && (__u32)a->v6[1] == V4_MAPPED;
}

/* The first packet of a TCP connection. */
ALWAYS_INLINE int is_syn(__u32 flags)
{
	return (flags & (TCPHDR_SYN | TCPHDR_ACK)) == TCPHDR_SYN;
}

/* Ends and protocol of an IP header without options and fragments, else 0. */
ALWAYS_INLINE int read_ip(struct __sk_buff *skb, __u32 at, struct packet *p, const int v4)
{
	const half *ends;

	if (v4) {
		struct iphdr *ip = bytes_at(skb, at, sizeof(*ip));

		if (!ip || *(__u8 *)ip != 0x45 || (ip->frag_off & bpf_htons(IP_FRAGMENT)))
			return 0;
		p->src.v4 = ip->saddr;
		p->dst.v4 = ip->daddr;
		p->proto = ip->protocol;
		p->ttl = ip->ttl;
		p->check = ip->check;
		p->ip[0] = ((__u32 *)ip)[0];
		p->ip[1] = ((__u32 *)ip)[1];
		return 1;
	}
	struct ipv6hdr *ip = bytes_at(skb, at, sizeof(*ip));

	if (!ip || ip->version != 6)
		return 0;
	ends = (const half *)&ip->saddr;
	p->src.v6[0] = ends[0];
	p->src.v6[1] = ends[1];
	p->dst.v6[0] = ends[2];
	p->dst.v6[1] = ends[3];
	p->proto = ip->nexthdr;
	p->ttl = ip->hop_limit;
	p->ip[0] = ((__u32 *)ip)[0];
	p->ip[1] = ((__u32 *)ip)[1];
	/* The maps would take them for IPv4 addresses; no packet may have such addresses. */
	return !is_mapped(&p->src) && !is_mapped(&p->dst);
}

/* The ports after a parsed IP header; 0 if there are none. */
ALWAYS_INLINE int read_ports(struct __sk_buff *skb, __u32 at, struct packet *p)
{
	__u16 *ports = bytes_at(skb, at, 8);

	if (!ports)
		return 0;
	switch (p->proto) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
		p->sport = ports[0];
		p->dport = ports[1];
		return 1;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6: {
		__u8 type = *(__u8 *)ports;

		if (p->proto == IPPROTO_ICMP ? type != ICMP_ECHO && type != ICMP_ECHOREPLY :
					       type != ICMPV6_ECHO_REQUEST && type != ICMPV6_ECHO_REPLY)
			return 0;
		p->sport = p->dport = ports[2];
		return 1;
	}
	}
	return 0;
}

/* Whether it is an ICMP error of the header's family. */
ALWAYS_INLINE int is_error(__u8 proto, __u8 type, const int v4)
{
	if (v4)
		return proto == IPPROTO_ICMP &&
		       (type == ICMP_DEST_UNREACH || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETERPROB);
	return proto == IPPROTO_ICMPV6 && type < ICMPV6_ECHO_REQUEST;
}

/*
 * Makes two functions of one, for IPv4 and IPv6, with 4 and 6 behind the name, that are not inlined:
 * code that few packets run stays out of the code for the rest.
 */
#define RARELY(type, name, params, ...)                                            \
	static __noinline type name##4 params { return name(__VA_ARGS__, 1); } \
	static __noinline type name##6 params { return name(__VA_ARGS__, 0); }

/* The packet that an ICMP error quotes. */
ALWAYS_INLINE int read_quoted(struct __sk_buff *skb, struct packet *q, const int v4)
{
	const __u32 ip = v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr), at = ETH_HLEN + ip + 8;

	return readable(skb, at + ip + 8) && read_ip(skb, at, q, v4) && read_ports(skb, at + ip, q);
}
RARELY(int, read_quoted, (struct __sk_buff *skb, struct packet *q), skb, q)

/* An ICMP error belongs to the connection of the packet that it quotes, in the reverse direction. */
ALWAYS_INLINE int read_error(struct __sk_buff *skb, struct packet *p, const int v4)
{
	struct packet q;

	if (!(v4 ? read_quoted4(skb, &q) : read_quoted6(skb, &q)) || !same_ip(&q.src, &p->dst, v4))
		return 0;
	p->by_end = same_ip(&q.dst, &p->src, v4);
	p->src = q.dst;
	p->dst = q.src;
	p->sport = q.dport;
	p->dport = q.sport;
	p->proto = q.proto;
	p->error = 1;
	return 1;
}

/* How a program treats a packet. */
enum what {
	WHAT_ELSE,       /* takes the slow path */
	WHAT_CONNECTION, /* of a connection that may take the fast path */
	WHAT_ERROR,      /* an ICMP error, whose connection is not read yet */
};

ALWAYS_INLINE enum what read_headers(struct __sk_buff *skb, struct packet *p, const int v4)
{
	const __u32 ip = v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr), at = ETH_HLEN + ip;
	struct tcphdr *tcp;
	__u8 *type;

	__builtin_memset(p, 0, sizeof(*p));
	if (skb->vlan_present)
		return WHAT_ELSE;
	if (!readable(skb, at + sizeof(*tcp)) && !readable(skb, at + 8))
		return WHAT_ELSE;
	if (!read_ip(skb, ETH_HLEN, p, v4))
		return WHAT_ELSE;
	p->headers = ip + 8;
	p->by_end = 1;
	p->outer = p->proto;
	if (p->proto == IPPROTO_TCP) {
		tcp = bytes_at(skb, at, sizeof(*tcp));
		if (!tcp)
			return WHAT_ELSE;
		p->sport = tcp->source;
		p->dport = tcp->dest;
		p->tcp = ((__u8 *)tcp)[13];
		p->headers = ip + tcp->doff * 4;
		return WHAT_CONNECTION;
	}
	type = bytes_at(skb, at, 1);
	if (!type)
		return WHAT_ELSE;
	if (is_error(p->proto, *type, v4))
		return WHAT_ERROR;
	return read_ports(skb, at, p) ? WHAT_CONNECTION : WHAT_ELSE;
}

/* 1 if the packet has a connection that may take the fast path. The compiler makes one for each family. */
ALWAYS_INLINE int read_packet(struct __sk_buff *skb, struct packet *p, const int v4)
{
	enum what what = read_headers(skb, p, v4);

	return what == WHAT_ERROR ? read_error(skb, p, v4) : what == WHAT_CONNECTION;
}

/* Only the addresses, also of fragments and unknown protocols, IPv4 mapped; else 0. */
ALWAYS_INLINE int addresses(struct __sk_buff *skb, struct addr *src, struct addr *dst)
{
	if (skb->protocol == bpf_htons(ETH_P_IP) && readable(skb, ETH_HLEN + sizeof(struct iphdr))) {
		struct iphdr *ip = bytes_at(skb, ETH_HLEN, sizeof(*ip));

		if (!ip)
			return 0;
		addr_from_v4(src, ip->saddr);
		addr_from_v4(dst, ip->daddr);
		return 1;
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6) && readable(skb, ETH_HLEN + sizeof(struct ipv6hdr))) {
		struct ipv6hdr *ip = bytes_at(skb, ETH_HLEN, sizeof(*ip));

		if (!ip)
			return 0;
		__builtin_memcpy(src, &ip->saddr, sizeof(*src));
		__builtin_memcpy(dst, &ip->daddr, sizeof(*dst));
		return !is_v4(src) && !is_v4(dst);
	}
	return 0;
}

/* Link-local and unspecified sources of IPv6: neighbour entries are permanent, so such packets have no receiver. */
ALWAYS_INLINE int is_chatter(const struct addr *src)
{
	return (src->w[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000) ||
	       !(src->w[0] | src->w[1] | src->w[2] | src->w[3]);
}

/* Whether the packet, or each segment of it, passes a device of this MTU. */
ALWAYS_INLINE int fits(struct __sk_buff *skb, const struct packet *p, __u32 mtu)
{
	/* Volatile: else one instruction may read a field of skb or of p, which the verifier refuses. */
	__u32 length = *(volatile __u32 *)&skb->len;

	if (skb->gso_size)
		return skb->gso_size + p->headers <= mtu;
	return length - ETH_HLEN <= mtu;
}

/* The TTL in an IPv4 header and the fields after it. */
struct hop4 {
	__u8 ttl, proto;
	__u16 check;
};

ALWAYS_INLINE void next_hop4(struct hop4 *to, const struct packet *p)
{
	/* RFC 1624, as the kernel's ip_decrease_ttl. */
	__u32 sum = (__u32)p->check + bpf_htons(0x0100);

	to->ttl = p->ttl - 1;
	to->proto = p->outer;
	to->check = (__u16)(sum + (sum >= 0xffff));
}

/* The node is a hop on the fast path as on the slow path. */
ALWAYS_INLINE int decrement_ttl(struct __sk_buff *skb, const struct packet *p, const int v4)
{
	struct hop4 part;
	__u8 hops = p->ttl - 1;

	if (v4) {
		next_hop4(&part, p);
		return bpf_skb_store_bytes(skb, ETH_HLEN + __builtin_offsetof(struct iphdr, ttl), &part, sizeof(part), 0);
	}
	return bpf_skb_store_bytes(skb, ETH_HLEN + __builtin_offsetof(struct ipv6hdr, hop_limit), &hops, 1,
				   BPF_F_RECOMPUTE_CSUM);
}

/*
 * decrement_ttl with new MACs, in one call. For packets that a pod sends: they have no checksum of a
 * device (CHECKSUM_COMPLETE) to update.
 */
ALWAYS_INLINE int forward(struct __sk_buff *skb, const struct packet *p, const __u8 *macs, const int v4)
{
	struct {
		__u8 macs[2 * ETH_ALEN];
		__u16 type;
		__u16 ip[4];
		struct hop4 hop;
	} head;

	__builtin_memcpy(head.macs, macs, sizeof(head.macs));
	head.type = bpf_htons(v4 ? ETH_P_IP : ETH_P_IPV6);
	__builtin_memcpy(head.ip, p->ip, sizeof(head.ip));
	if (v4) {
		next_hop4(&head.hop, p);
		return bpf_skb_store_bytes(skb, 0, &head, sizeof(head), 0);
	}
	((__u8 *)head.ip)[__builtin_offsetof(struct ipv6hdr, hop_limit)] = p->ttl - 1;
	return bpf_skb_store_bytes(skb, 0, &head, sizeof(head) - sizeof(head.hop), 0);
}

/*
 * forward in place. A packet that a device has just received is not shared, so it is writable; a packet
 * that a pod's TCP sends is shared with the socket's queue.
 */
ALWAYS_INLINE int forward_in_place(struct __sk_buff *skb, const struct packet *p, const __u8 *macs, const int v4)
{
	__u8 *eth = bytes_at(skb, 0, ETH_HLEN + sizeof(struct iphdr));
	struct hop4 hop;

	if (!eth)
		return -1;
	__builtin_memcpy(eth, macs, 2 * ETH_ALEN);
	if (!v4)
		return decrement_ttl(skb, p, 0);
	next_hop4(&hop, p);
	__builtin_memcpy(eth + ETH_HLEN + __builtin_offsetof(struct iphdr, ttl), &hop, sizeof(hop));
	return 0;
}
