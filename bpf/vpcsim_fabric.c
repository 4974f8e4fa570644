// SPDX-License-Identifier: Apache-2.0
/*
 * The simulated VPC's switch: one program on the ingress of every port (the far end
 * of an ENI's veth, in the switch's namespace). The API tells it where each address is;
 * it learns nothing from frames.
 */
#include "vpcsim_balance.h"
#include "vpcsim_neigh.h"
#include "vpcsim_packet.h"
#include "vpcsim_policy.h"
#include "vpcsim_route.h"

char __license[] SEC("license") = "Dual BSD/GPL";

ALWAYS_INLINE int check_source(__u32 ifindex, const struct port *port, const struct addr *src)
{
	if ((owner_of(port->vpc, src) & ~VIP) == ifindex)
		return PASS;
	if (port->flags & PORT_CHECK)
		return DROP_SOURCE_DEST_CHECK;
	if (port->flags & PORT_LOOSE || routes_for(ifindex, port, src))
		return PASS;
	return DROP_SPOOFED_IP;
}

/* Token bucket; packets beyond the limit are dropped, as by a policer. */
ALWAYS_INLINE int within_bandwidth(const struct port *port, __u64 direction, __u32 len, __u64 now)
{
	struct bucket_key key = {.instance = port->bucket, .direction = direction};
	struct bucket *b;
	__u64 elapsed, tokens;
	int ok = 0;

	if (!(port->flags & PORT_POLICED))
		return 1;
	b = bpf_map_lookup_elem(&buckets, &key);
	if (!b)
		return 1;
	bpf_spin_lock(&b->lock);
	elapsed = now > b->last ? now - b->last : 0;
	if (elapsed > SECOND)
		elapsed = SECOND;
	tokens = b->tokens + elapsed * b->rate / SECOND;
	if (tokens > b->burst)
		tokens = b->burst;
	if (tokens >= len) {
		tokens -= len;
		ok = 1;
	}
	b->tokens = tokens;
	if (now > b->last)
		b->last = now;
	bpf_spin_unlock(&b->lock);
	return ok;
}

ALWAYS_INLINE struct counters *counters_of(__u32 ifindex)
{
	return bpf_map_lookup_elem(&stats, &ifindex);
}

ALWAYS_INLINE int drop(__u32 ifindex, __u32 reason)
{
	struct counters *c = counters_of(ifindex);

	if (c && reason < DROP_REASONS)
		c->drops[reason]++;
	return TC_ACT_SHOT;
}

ALWAYS_INLINE int is_multicast(const struct packet *p)
{
	if (p->v6)
		return (p->dst.w[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
	/* 224.0.0.0/3: multicast, reserved, limited broadcast */
	return (p->dst.w[3] & bpf_htonl(0xe0000000)) == bpf_htonl(0xe0000000);
}

SEC("tc")
int fabric_port(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex, target, packets, mtu;
	struct packet p = {};
	struct port *src, *dst;
	struct counters *c;
	struct ethhdr eth;
	__u64 now;
	int reason;

	src = bpf_map_lookup_elem(&ports, &ifindex);
	if (!src)
		return drop(ifindex, DROP_UNKNOWN_PORT);
	if (src->flags & PORT_DOWN)
		return drop(ifindex, DROP_DOWN);
	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return drop(ifindex, DROP_MALFORMED);
	if (!mac_equal(eth.h_source, src->macs))
		return drop(ifindex, DROP_SPOOFED_MAC);
	if (skb->vlan_present)
		return drop(ifindex, DROP_NOT_IP);

	if (eth.h_proto == bpf_htons(ETH_P_IP)) {
		reason = parse_v4(skb, &p);
	} else if (eth.h_proto == bpf_htons(ETH_P_IPV6)) {
		reason = parse_v6(skb, &p);
		if (!reason && p.proto == IPPROTO_ICMPV6 && p.icmp_type == NEIGHBOUR_SOLICITATION) {
			reason = answer_solicitation(skb, src, &p);
			return reason ? drop(ifindex, reason) : answer(skb, src);
		}
	} else if (eth.h_proto == bpf_htons(ETH_P_ARP)) {
		reason = answer_arp(skb, src);
		return reason ? drop(ifindex, reason) : answer(skb, src);
	} else {
		reason = DROP_NOT_IP;
	}
	if (reason)
		return drop(ifindex, reason);
	if (eth.h_dest[0] & 1 || is_multicast(&p))
		return drop(ifindex, DROP_BROADCAST);
	if (p.v6 && (is_link_local(&p.src) || is_link_local(&p.dst)))
		return drop(ifindex, DROP_NEIGHBOUR);

	reason = check_source(ifindex, src, &p.src);
	if (reason)
		return drop(ifindex, reason);

	now = bpf_ktime_get_ns();
	target = owner_of(src->vpc, &p.dst);
	if (target & VIP) {
		target &= ~VIP;
		reason = balance(src, &p, &target, now);
		if (reason)
			return drop(ifindex, reason);
	} else if (!target) {
		target = outside_of(src, &p, now);
	}
	if (!target) {
		target = next_hop(src->table, &p);
		if (!target)
			return drop(ifindex, DROP_NO_ROUTE);
		dst = bpf_map_lookup_elem(&ports, &target);
		if (dst && dst->flags & PORT_CHECK)
			return drop(ifindex, DROP_SOURCE_DEST_CHECK);
	} else {
		dst = bpf_map_lookup_elem(&ports, &target);
	}
	if (!dst)
		return drop(ifindex, DROP_NO_ROUTE);
	if (dst->flags & PORT_DOWN)
		return drop(ifindex, DROP_DOWN);

	mtu = src->mtu < dst->mtu ? src->mtu : dst->mtu;
	if (wire_length(skb, &p) > mtu)
		return drop(ifindex, DROP_MTU);
	if (!allowed(skb, src, dst, &p, now))
		return drop(ifindex, DROP_SECURITY_GROUP);
	if (!within_bandwidth(src, EGRESS, skb->len, now) || !within_bandwidth(dst, INGRESS, skb->len, now))
		return drop(ifindex, DROP_BANDWIDTH);
	if (p.nat && translate(skb, &p))
		return drop(ifindex, DROP_MALFORMED);

	packets = skb->gso_segs ? skb->gso_segs : 1;
	c = counters_of(ifindex);
	if (c) {
		c->out_packets += packets;
		c->out_bytes += skb->len;
	}
	c = counters_of(target);
	if (c) {
		c->in_packets += packets;
		c->in_bytes += skb->len;
	}
	if (bpf_skb_store_bytes(skb, 0, dst->macs, sizeof(dst->macs), 0))
		return drop(ifindex, DROP_MALFORMED);
	if (skb->pkt_type)
		bpf_skb_change_type(skb, 0 /* PACKET_HOST */);
	return bpf_redirect_peer(target, 0);
}
