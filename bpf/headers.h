/* SPDX-License-Identifier: Apache-2.0 */
/* Reads a packet's headers for policies: fragments, extension headers and what an ICMP error quotes too, unlike packet.h. */
#pragma once

#include "packet.h"

#define ICMPV6_MLD_QUERY 130
#define ICMPV6_ND_LAST 137
#define ICMPV6_MLD2_REPORT 143

/* A packet, whatever it is: fragments, IP options and unknown protocols too. */
struct flow {
	struct addr src, dst;
	__u16 sport, dport; /* in network byte order; ICMP echo: both are the id */
	__u8 proto, type, code;
	__u8 tcp;      /* TCP's flags */
	__u8 fragment; /* the first one, or a later one without ports */
	__u8 echo;
	__u8 hop_limit; /* of IPv6 */
	__u8 zero;
	__u32 id;      /* of its fragments */
	__u32 payload; /* where the header after IP begins */
	__u32 end;     /* where the packet ends; what the frame has behind it is nobody's */
};

enum { WHOLE, FIRST_FRAGMENT, LATER_FRAGMENT };

/* Reads a part of the packet; not 0 if the packet ends before. */
ALWAYS_INLINE int read_part(struct __sk_buff *skb, const struct flow *f, __u32 at, void *to, const __u32 size)
{
	return at + size > f->end || bpf_skb_load_bytes(skb, at, to, size);
}

ALWAYS_INLINE int read_flow4(struct __sk_buff *skb, __u32 at, struct flow *f)
{
	struct iphdr ip;
	__u32 offset, size;

	if (read_part(skb, f, at, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return 0;
	addr_from_v4(&f->src, ip.saddr);
	addr_from_v4(&f->dst, ip.daddr);
	f->proto = ip.protocol;
	offset = bpf_ntohs(ip.frag_off) & 0x1fff;
	f->id = ip.id;
	f->fragment = offset ? LATER_FRAGMENT : bpf_ntohs(ip.frag_off) & 0x2000 ? FIRST_FRAGMENT : WHOLE;
	f->payload = at + ip.ihl * 4;
	size = bpf_ntohs(ip.tot_len);
	/* 0: the kernel has put together segments to more than the field can say. */
	if (size && at + size < f->end)
		f->end = at + size;
	return size || skb->gso_size;
}

/* Extension headers of a packet: more than any has. */
#define EXTENSIONS 8

ALWAYS_INLINE int is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS || next == IPPROTO_FRAGMENT ||
	       next == IPPROTO_AH;
}

ALWAYS_INLINE int read_flow6(struct __sk_buff *skb, __u32 at, struct flow *f)
{
	struct ipv6hdr ip;
	__u8 head[8], next;
	__u32 size;

	if (read_part(skb, f, at, &ip, sizeof(ip)) || ip.version != 6)
		return 0;
	__builtin_memcpy(&f->src, &ip.saddr, sizeof(f->src));
	__builtin_memcpy(&f->dst, &ip.daddr, sizeof(f->dst));
	if (is_v4(&f->src) || is_v4(&f->dst))
		return 0;
	f->hop_limit = ip.hop_limit;
	next = ip.nexthdr;
	at += sizeof(ip);
	size = bpf_ntohs(ip.payload_len);
	/* With a hop-by-hop header 0 may mean that the field is too small. */
	if ((size || next != IPPROTO_HOPOPTS) && at + size < f->end)
		f->end = at + size;
	for (int i = 0; i < EXTENSIONS; i++) {
		if (!is_extension(next))
			break;
		if (read_part(skb, f, at, head, sizeof(head)))
			return 0;
		if (next == IPPROTO_FRAGMENT) {
			__u16 offset = (__u16)head[2] << 8 | head[3];

			__builtin_memcpy(&f->id, head + 4, sizeof(f->id));
			f->fragment = offset & 0xfff8 ? LATER_FRAGMENT : offset & 1 ? FIRST_FRAGMENT : WHOLE;
			at += 8;
		} else {
			at += next == IPPROTO_AH ? (head[1] + 2) * 4 : (head[1] + 1) * 8;
		}
		next = head[0];
		if (f->fragment == LATER_FRAGMENT)
			break;
	}
	f->proto = next;
	f->payload = at;
	return f->fragment == LATER_FRAGMENT || !is_extension(next);
}

/* Reads the packet whose IP header is there, up to an end; 0 if it is none, ends too early or has too many headers. */
static __noinline int read_flow(struct __sk_buff *skb, __u32 at, __u32 end, struct flow *f)
{
	__u8 head[14];
	int v4 = skb->protocol == bpf_htons(ETH_P_IP);

	__builtin_memset(f, 0, sizeof(*f));
	f->end = end;
	if (!(v4 ? read_flow4(skb, at, f) : read_flow6(skb, at, f)))
		return 0;
	if (f->fragment == LATER_FRAGMENT)
		return 1;
	switch (f->proto) {
	case IPPROTO_TCP:
		/* A quoted packet may have only 8 bytes of it. */
		if (read_part(skb, f, f->payload, head, 14)) {
			if (at == ETH_HLEN || read_part(skb, f, f->payload, head, 4))
				return 0;
			head[13] = 0;
		}
		f->tcp = head[13];
		break;
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
		if (read_part(skb, f, f->payload, head, 4))
			return 0;
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if (read_part(skb, f, f->payload, head, 8))
			return 0;
		f->type = head[0];
		f->code = head[1];
		f->echo = f->proto == IPPROTO_ICMP ? f->type == ICMP_ECHO || f->type == ICMP_ECHOREPLY :
						     f->type == ICMPV6_ECHO_REQUEST || f->type == ICMPV6_ECHO_REPLY;
		if (f->echo) {
			__builtin_memcpy(&f->sport, head + 4, 2);
			f->dport = f->sport;
		}
		return 1;
	default:
		return 1;
	}
	__builtin_memcpy(&f->sport, head, 2);
	__builtin_memcpy(&f->dport, head + 2, 2);
	return 1;
}

/* ICMP that has no answer by which it is a connection: each packet is judged. */
ALWAYS_INLINE int is_single(const struct flow *f)
{
	return (f->proto == IPPROTO_ICMP || f->proto == IPPROTO_ICMPV6) && !f->echo;
}

/* What a pod and its node need of IPv6 on the link between them, which nobody forwards. */
ALWAYS_INLINE int is_of_link(const struct flow *f)
{
	const __u32 to = bpf_ntohl(f->dst.w[0]);

	return f->proto == IPPROTO_ICMPV6 &&
	       ((f->type >= ICMPV6_MLD_QUERY && f->type <= ICMPV6_ND_LAST) || f->type == ICMPV6_MLD2_REPORT) &&
	       (to >> 24 == 0xff || to >> 22 == 0xfe80 >> 6);
}
