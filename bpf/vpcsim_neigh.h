/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ARP and IPv6 neighbour discovery: every address of the subnet has the fabric's
 * MAC. Announcements of guests are ignored.
 */
#pragma once

#include "vpcsim_packet.h"

#define ARP_REQUEST bpf_htons(1)
#define NEIGHBOUR_SOLICITATION 135
#define NEIGHBOUR_ADVERTISEMENT 136
#define ADVERTISE_FLAGS bpf_htonl(0xe0000000) /* router, solicited, override */
#define OPTION_TARGET_LINK 2

struct arp {
	__u16 hardware, protocol;
	__u8 hardware_len, protocol_len;
	__u16 op;
	__u8 sender_mac[6];
	__u8 sender_ip[4];
	__u8 target_mac[6];
	__u8 target_ip[4];
} __attribute__((packed));

/* ICMPv6 neighbour advertisement with the target's link-layer address. */
struct advertisement {
	__u8 type, code;
	__u16 checksum;
	__u32 flags;
	struct addr target;
	__u8 option, option_len;
	__u8 mac[6];
};

struct pseudo_header {
	struct addr src, dst;
	__u32 length;
	__u32 next;
};

/* Whether the port itself has the address: then the fabric does not answer for it. */
ALWAYS_INLINE int is_own(struct __sk_buff *skb, const struct port *port, const struct addr *a)
{
	struct addr_key key = {.vpc = port->vpc, .addr = *a};
	__u32 *owner = bpf_map_lookup_elem(&addrs, &key);

	return owner && *owner == skb->ifindex;
}

/* Sends the frame, which is now an answer, back to its sender. */
ALWAYS_INLINE int answer(struct __sk_buff *skb, const struct port *port)
{
	if (bpf_skb_store_bytes(skb, 0, port->macs, sizeof(port->macs), 0))
		return TC_ACT_SHOT;
	bpf_skb_change_type(skb, 0 /* PACKET_HOST */);
	return bpf_redirect_peer(skb->ifindex, 0);
}

/* Returns a drop reason, or PASS when the frame has become an answer. */
static __attribute__((noinline)) int answer_arp(struct __sk_buff *skb, const struct port *port)
{
	struct addr target;
	struct arp arp;
	__u32 ip, sender;

	if (!port)
		return DROP_UNKNOWN_PORT;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &arp, sizeof(arp)))
		return DROP_MALFORMED;
	if (arp.hardware != bpf_htons(1) || arp.protocol != bpf_htons(ETH_P_IP) || arp.op != ARP_REQUEST)
		return DROP_NEIGHBOUR;
	if (!mac_equal(arp.sender_mac, port->macs))
		return DROP_SPOOFED_MAC;
	__builtin_memcpy(&ip, arp.target_ip, 4);
	__builtin_memcpy(&sender, arp.sender_ip, 4);
	if (ip == sender) /* an announcement, not a question */
		return DROP_NEIGHBOUR;
	addr_from_v4(&target, ip);
	if (!port->mask4.w[0] || !addr_in(&target, &port->subnet4, &port->mask4) || is_own(skb, port, &target))
		return DROP_NEIGHBOUR;

	arp.op = bpf_htons(2);
	__builtin_memcpy(arp.target_mac, arp.sender_mac, 6);
	__builtin_memcpy(arp.target_ip, arp.sender_ip, 4);
	__builtin_memcpy(arp.sender_mac, port->macs + 6, 6);
	__builtin_memcpy(arp.sender_ip, &ip, 4);
	if (bpf_skb_store_bytes(skb, ETH_HLEN, &arp, sizeof(arp), 0))
		return DROP_MALFORMED;
	return PASS;
}

ALWAYS_INLINE int is_link_local(const struct addr *a)
{
	return (a->w[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static __attribute__((noinline)) int answer_solicitation(struct __sk_buff *skb, const struct port *port, const struct packet *p)
{
	struct advertisement na = {
		.type = NEIGHBOUR_ADVERTISEMENT,
		.flags = ADVERTISE_FLAGS,
		.option = OPTION_TARGET_LINK,
		.option_len = 1,
	};
	struct pseudo_header pseudo = {};
	struct ipv6hdr ip;
	__s64 sum;

	if (!port || !p)
		return DROP_UNKNOWN_PORT;
	/* from the unspecified address: duplicate address detection of the guest */
	if (!(p->src.w[0] | p->src.w[1] | p->src.w[2] | p->src.w[3]))
		return DROP_NEIGHBOUR;
	/* a guest's kernel sends no extension header in front of it */
	if (p->l4 != ETH_HLEN + sizeof(ip))
		return DROP_NEIGHBOUR;
	if (bpf_skb_load_bytes(skb, p->l4 + 8, &na.target, sizeof(na.target)))
		return DROP_MALFORMED;
	if (!is_link_local(&na.target) &&
	    (!port->mask6.w[0] || !addr_in(&na.target, &port->subnet6, &port->mask6)))
		return DROP_NEIGHBOUR;
	if (is_own(skb, port, &na.target))
		return DROP_NEIGHBOUR;
	__builtin_memcpy(na.mac, port->macs + 6, 6);

	if (bpf_skb_change_tail(skb, ETH_HLEN + sizeof(ip) + sizeof(na), 0))
		return DROP_MALFORMED;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return DROP_MALFORMED;
	ip.payload_len = bpf_htons(sizeof(na));
	ip.hop_limit = 255;
	__builtin_memcpy(&ip.saddr, &na.target, 16);
	__builtin_memcpy(&ip.daddr, &p->src, 16);

	pseudo.src = na.target;
	pseudo.dst = p->src;
	pseudo.length = bpf_htonl(sizeof(na));
	pseudo.next = bpf_htonl(IPPROTO_ICMPV6);
	sum = bpf_csum_diff(0, 0, (__be32 *)&pseudo, sizeof(pseudo), 0);
	sum = bpf_csum_diff(0, 0, (__be32 *)&na, sizeof(na), sum);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	na.checksum = ~sum;

	if (bpf_skb_store_bytes(skb, ETH_HLEN, &ip, sizeof(ip), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(ip), &na, sizeof(na), 0))
		return DROP_MALFORMED;
	return PASS;
}
