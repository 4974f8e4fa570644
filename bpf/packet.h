/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading a packet, once for every kind of pod: its connection's addresses and ports, what it
 * does to the connection, and what is to be known to forward it. What is not understood here is
 * the host stack's: fragments, IP options, extension headers, VLAN tags, other protocols.
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

struct packet {
	/*
	 * Ends of the connection, in the direction of this packet. Of IPv4 only the last word is
	 * set. An ICMP error's are those of the connection that it is about, as if the end that
	 * could not be reached had sent it. ICMP echo: both ports are the id.
	 */
	struct addr src, dst;
	__u16 sport, dport;
	__u8 proto;
	__u8 second;  /* the sender is the second address of the key (connection.h) */
	__u8 syn;     /* the first of a TCP connection */
	__u8 syn_ack; /* and its answer */
	__u8 fin, rst;
	__u8 error;   /* an ICMP error */
	__u8 by_end;  /* 0: an ICMP error of a router, not of the end itself */
	__u8 ttl;
	__u16 check;  /* of the IPv4 header */
	__u8 outer;   /* protocol in the IP header: an error's is not its connection's */
	__u32 ip[2];   /* the first bytes of the IP header: up to the TTL, or with the hop limit */
	__u32 headers; /* bytes up to the payload, for the size of a segment */
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

ALWAYS_INLINE int same_addr(const struct addr *a, const struct addr *b, const int v4)
{
	return v4 ? a->w[3] == b->w[3] : addr_equal(a, b);
}

/* Ends and protocol of an IP header without options and fragments, else 0. */
ALWAYS_INLINE int read_ip(struct __sk_buff *skb, __u32 at, const int v4, struct addr *src, struct addr *dst,
			  struct packet *p)
{
	if (v4) {
		struct iphdr *ip = bytes_at(skb, at, sizeof(*ip));

		if (!ip || *(__u8 *)ip != 0x45 || (ip->frag_off & bpf_htons(IP_FRAGMENT)))
			return 0;
		src->w[3] = ip->saddr;
		dst->w[3] = ip->daddr;
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
	__builtin_memcpy(src, &ip->saddr, sizeof(*src));
	__builtin_memcpy(dst, &ip->daddr, sizeof(*dst));
	p->proto = ip->nexthdr;
	p->ttl = ip->hop_limit;
	p->ip[0] = ((__u32 *)ip)[0];
	p->ip[1] = ((__u32 *)ip)[1];
	/* To the maps they would be IPv4's; nobody has such an address on a wire. */
	return !is_v4(src) && !is_v4(dst);
}

/* The ports behind an IP header that is read; 0 if there are none. */
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

/* An error belongs to the connection of the packet that it quotes, whose direction it turns. */
ALWAYS_INLINE int read_error(struct __sk_buff *skb, struct packet *p, const int v4)
{
	const __u32 ip = v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr), quoted = ETH_HLEN + ip + 8;
	struct packet outer = *p;
	__u16 port;

	if (!readable(skb, quoted + ip + 8) || !read_ip(skb, quoted, v4, &p->dst, &p->src, p) ||
	    !same_addr(&p->dst, &outer.dst, v4) || !read_ports(skb, quoted + ip, p))
		return 0;
	port = p->sport;
	p->sport = p->dport;
	p->dport = port;
	p->ttl = outer.ttl;
	p->check = outer.check;
	p->ip[0] = outer.ip[0];
	p->ip[1] = outer.ip[1];
	p->error = 1;
	p->by_end = same_addr(&p->src, &outer.src, v4);
	return 1;
}

/* 1 if the packet has a connection that may go directly. The compiler makes one for each family. */
ALWAYS_INLINE int read_packet(struct __sk_buff *skb, struct packet *p, const int v4)
{
	const __u32 ip = v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr), at = ETH_HLEN + ip;
	struct tcphdr *tcp;
	__u8 *type;

	__builtin_memset(p, 0, sizeof(*p));
	if (skb->vlan_present)
		return 0;
	if (!readable(skb, at + sizeof(*tcp)) && !readable(skb, at + 8))
		return 0;
	if (!read_ip(skb, ETH_HLEN, v4, &p->src, &p->dst, p))
		return 0;
	p->headers = ip + 8;
	p->by_end = 1;
	p->outer = p->proto;
	if (p->proto == IPPROTO_TCP) {
		tcp = bytes_at(skb, at, sizeof(*tcp));
		if (!tcp)
			return 0;
		p->sport = tcp->source;
		p->dport = tcp->dest;
		p->syn = tcp->syn && !tcp->ack;
		p->syn_ack = tcp->syn && tcp->ack;
		p->fin = tcp->fin;
		p->rst = tcp->rst;
		p->headers = ip + tcp->doff * 4;
		return 1;
	}
	type = bytes_at(skb, at, 1);
	if (!type)
		return 0;
	if (is_error(p->proto, *type, v4))
		return read_error(skb, p, v4);
	return read_ports(skb, at, p);
}

/* The addresses alone, of fragments and unknown protocols too, IPv4 mapped; else 0. */
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

/* Whether the packet, or each segment of it, passes a device of this MTU. */
ALWAYS_INLINE int fits(struct __sk_buff *skb, const struct packet *p, __u32 mtu)
{
	if (skb->gso_size)
		return skb->gso_size + p->headers <= mtu;
	return skb->len - ETH_HLEN <= mtu;
}

/* What stands behind the TTL in an IPv4 header, and the TTL, one less. */
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

/* The node is a hop, as it is for the first packet, which the stack routed. */
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
 * As decrement_ttl, with new MACs, in one call. For what a pod sends: no device has summed that
 * up (CHECKSUM_COMPLETE), so the sum need not follow.
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
 * As forward, in place. Nobody else has what a device has just received, so it need not be made
 * writable first; what a pod's TCP sends is shared with its queue.
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
