/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parsing a frame's headers. All reads use bpf_skb_load_bytes, which also reads from
 * page fragments, so a frame is never pulled or copied for the parser.
 */
#pragma once

#include <linux/ip.h>
#include <linux/ipv6.h>

#include "vpcsim_fabric.h"

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* linux/icmp.h needs a C library's headers for this target */
#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define ICMPV6_ECHO_REQUEST 128
#define ICMPV6_ECHO_REPLY 129

#define IP_MORE_FRAGMENTS 0x2000
#define IP_FRAGMENT_OFFSET 0x1fff

struct packet {
	struct addr src, dst;
	__u32 l4;	/* offset of the transport header */
	__u32 l4len;	/* its length, for TCP and UDP */
	__u16 sport, dport;
	__u8 proto;
	__u8 syn;	/* opens a TCP connection */
	__u8 ends;	/* TCP_FIN, TCP_RST */
	__u8 icmp_type;
	__u8 v6;
	__u8 later;	/* a fragment without a transport header */
	__u8 nat;	/* enum nat */
	/* with nat, the balancer's address and port */
	__u16 vport;
	__u32 vip;
	__u64 load;	/* the backend that was chosen by its open connections, for a new one */
};

/* What becomes of a packet's addresses: dst has been set already, src is set at the end. */
enum nat {
	NAT_NONE = 0,
	NAT_TO_BACKEND,
	NAT_FROM_BACKEND,
};

struct ports {
	__u16 sport, dport;
};

struct fragment_header {
	__u8 next, reserved;
	__u16 offset; /* and the "more" bit, lowest */
	__u32 id;
};

/* The transport header of an unfragmented packet or of a first fragment. */
ALWAYS_INLINE int parse_l4(struct __sk_buff *skb, struct packet *p)
{
	struct ports ports;
	__u8 b[2];

	switch (p->proto) {
	case IPPROTO_TCP:
		/* data offset and flags are the bytes 12 and 13 */
		if (bpf_skb_load_bytes(skb, p->l4 + 12, b, 2))
			return DROP_MALFORMED;
		p->l4len = (b[0] >> 4) * 4;
		p->syn = (b[1] & (TCP_SYN | TCP_ACK)) == TCP_SYN;
		p->ends = b[1] & (TCP_FIN | TCP_RST);
		break;
	case IPPROTO_UDP:
		p->l4len = 8;
		break;
	case IPPROTO_SCTP:
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if (bpf_skb_load_bytes(skb, p->l4, b, 1))
			return DROP_MALFORMED;
		p->icmp_type = b[0];
		if (p->proto == IPPROTO_ICMP ? b[0] == ICMP_ECHO || b[0] == ICMP_ECHOREPLY
					     : b[0] == ICMPV6_ECHO_REQUEST || b[0] == ICMPV6_ECHO_REPLY) {
			/*
			 * The identifier is the asking end's port: a request and its reply are
			 * one flow, a request of the other end with the same one is another.
			 */
			if (bpf_skb_load_bytes(skb, p->l4 + 4, &p->sport, 2))
				return DROP_MALFORMED;
			if (b[0] == ICMP_ECHOREPLY || b[0] == ICMPV6_ECHO_REPLY) {
				p->dport = p->sport;
				p->sport = 0;
			}
		}
		return PASS;
	default:
		return PASS;
	}
	if (bpf_skb_load_bytes(skb, p->l4, &ports, sizeof(ports)))
		return DROP_MALFORMED;
	p->sport = ports.sport;
	p->dport = ports.dport;
	return PASS;
}

/* Later fragments get the ports of the first one. A fragment that comes before it is dropped. */
static __attribute__((noinline)) int parse_fragment(struct __sk_buff *skb, struct packet *p, __u32 id, int first)
{
	struct fragment_key key = {};
	struct fragment value = {};
	struct fragment *known;
	int drop;

	if (!p)
		return DROP_MALFORMED;
	key.port = skb->ifindex;
	key.src = p->src;
	key.dst = p->dst;
	key.id = id;
	key.proto = p->proto;
	if (first) {
		drop = parse_l4(skb, p);
		if (drop)
			return drop;
		value.sport = p->sport;
		value.dport = p->dport;
		bpf_map_update_elem(&fragments, &key, &value, BPF_ANY);
		return PASS;
	}
	known = bpf_map_lookup_elem(&fragments, &key);
	if (!known)
		return DROP_FRAGMENT;
	p->later = 1;
	p->sport = known->sport;
	p->dport = known->dport;
	return PASS;
}

ALWAYS_INLINE int parse_v4(struct __sk_buff *skb, struct packet *p)
{
	struct iphdr ip;
	__u16 frag;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return DROP_MALFORMED;
	if (ip.version != 4 || ip.ihl < 5)
		return DROP_MALFORMED;
	addr_from_v4(&p->src, ip.saddr);
	addr_from_v4(&p->dst, ip.daddr);
	p->proto = ip.protocol;
	p->l4 = ETH_HLEN + ip.ihl * 4;
	frag = bpf_ntohs(ip.frag_off);
	if (frag & (IP_MORE_FRAGMENTS | IP_FRAGMENT_OFFSET))
		return parse_fragment(skb, p, ip.id, !(frag & IP_FRAGMENT_OFFSET));
	return parse_l4(skb, p);
}

static __attribute__((noinline)) int parse_v6(struct __sk_buff *skb, struct packet *p)
{
	struct fragment_header frag;
	struct ipv6hdr ip;
	__u8 next, b[2];
	int i;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return DROP_MALFORMED;
	if (ip.version != 6)
		return DROP_MALFORMED;
	__builtin_memcpy(&p->src, &ip.saddr, sizeof(p->src));
	__builtin_memcpy(&p->dst, &ip.daddr, sizeof(p->dst));
	/* The maps would treat them as IPv4; such addresses do not exist in packets. */
	if (is_v4(&p->src) || is_v4(&p->dst))
		return DROP_MALFORMED;
	p->v6 = 1;
	p->l4 = ETH_HLEN + sizeof(ip);
	next = ip.nexthdr;
	for (i = 0; i < 4; i++) {
		if (next == IPPROTO_FRAGMENT) {
			if (bpf_skb_load_bytes(skb, p->l4, &frag, sizeof(frag)))
				return DROP_MALFORMED;
			p->l4 += sizeof(frag);
			p->proto = frag.next;
			return parse_fragment(skb, p, frag.id, !(frag.offset & bpf_htons(0xfff8)));
		}
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS)
			break;
		if (bpf_skb_load_bytes(skb, p->l4, b, 2))
			return DROP_MALFORMED;
		next = b[0];
		p->l4 += (b[1] + 1) * 8;
	}
	p->proto = next;
	return parse_l4(skb, p);
}

/* Length of the longest IP packet of this frame: a GSO frame is several packets. */
ALWAYS_INLINE __u32 wire_length(struct __sk_buff *skb, const struct packet *p)
{
	if (skb->gso_size)
		return p->l4 - ETH_HLEN + p->l4len + skb->gso_size;
	return skb->len - ETH_HLEN;
}
