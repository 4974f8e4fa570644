// SPDX-License-Identifier: Apache-2.0
/*
 * The datapath ipvlan (drawn in internal/datapath/ipvlan/doc.go).
 *
 * ipvlan delivers a frame by its IP address if it comes from the wire, or has the ENI's own MAC as
 * destination; any other frame of a pod leaves by the parent. The pods' next hops have MACs of their
 * own, so all frames of a pod pass the ENI's egress. There they take the fast path, or go to the host
 * stack as if received by the pod's device on the node (connection.h).
 */
#include "ipvlan.h"

/* The agent sets its size. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct slave);
} tw_slaves_2 SEC(".maps");

#define ETH_DST 0
#define ETH_SRC ETH_ALEN

/*
 * Source MAC of frames on the fast path between pods of the node, for the ENI's ingress. Frames from the
 * VPC have its gateway's MAC.
 */
ALWAYS_INLINE void local_mac(__u8 *mac)
{
	mac[0] = 0x0a;
	mac[1] = mac[2] = mac[3] = mac[4] = 0;
	mac[5] = 1;
}

/* The entry of an address, IPv4 mapped. */
ALWAYS_INLINE struct slave *slave_of(const struct addr *a)
{
	__u32 number = number_at(a);
	struct slave *s = number ? bpf_map_lookup_elem(&tw_slaves_2, &number) : NULL;

	return s && addr_equal(&s->addr, a) ? s : NULL;
}

/* The pod by a packet's IP header alone. */
ALWAYS_INLINE struct slave *slave_in(struct __sk_buff *skb, const int to)
{
	struct addr src = {}, dst = {};

	if (!addresses(skb, &src, &dst))
		return NULL;
	return slave_of(to ? &dst : &src);
}

/*
 * Packets from a pod, at its own device in its own namespace: only those with its source and to its next
 * hop pass. Only this attach point shows which pod has sent a packet.
 */
SEC("tc")
int tw_from_slave(struct __sk_buff *skb)
{
	struct addr src = {}, dst = {};
	struct slave *s;
	__u8 *to;

	if (skb->vlan_present || !addresses(skb, &src, &dst) || is_chatter(&src))
		return TC_ACT_SHOT;
	s = slave_of(&src);
	if (!s || s->inner != skb->ifindex) {
		count(SPOOFED);
		return TC_ACT_SHOT;
	}
	to = bytes_at(skb, ETH_DST, ETH_ALEN);
	if (!to || !mac_equal(to, s->next_hop))
		return TC_ACT_SHOT;
	/* A mark that the pod has set must not be taken for the node's. */
	skb->mark = 0;
	return TC_ACT_UNSPEC;
}

ALWAYS_INLINE int to_stack(struct __sk_buff *skb, const struct slave *s, __u32 ifindex)
{
	/* A redirected packet keeps its tc_index. */
	if (bpf_skb_store_bytes(skb, ETH_DST, s->eni_mac, ETH_ALEN, 0))
		return TC_ACT_SHOT;
	return bpf_redirect(ifindex, BPF_F_INGRESS);
}

ALWAYS_INLINE int into_pod(struct __sk_buff *skb, const struct packet *p, const struct slave *to, const int v4)
{
	__u8 macs[2 * ETH_ALEN];

	__builtin_memcpy(macs, to->eni_mac, ETH_ALEN);
	local_mac(macs + ETH_SRC);
	if (decrement_ttl(skb, p, v4) || bpf_skb_store_bytes(skb, ETH_DST, macs, sizeof(macs), 0))
		return TC_ACT_SHOT;
	count(TO_POD);
	return bpf_redirect(to->eni, BPF_F_INGRESS);
}

ALWAYS_INLINE int out_of_eni(struct __sk_buff *skb, const struct packet *p, const struct slave *from, const int v4)
{
	struct bpf_redir_neigh hop = { .nh_family = v4 ? AF_INET : AF_INET6 };

	if (v4)
		hop.ipv4_nh = from->gateway.w[3];
	else
		__builtin_memcpy(hop.ipv6_nh, &from->gateway, sizeof(hop.ipv6_nh));
	if (decrement_ttl(skb, p, v4))
		return TC_ACT_SHOT;
	count(TO_ENI);
	return bpf_redirect_neigh(from->eni, &hop, sizeof(hop), 0);
}

/* Whether the frame is for the pod's next hop. */
ALWAYS_INLINE int is_for_hop(struct __sk_buff *skb, const struct slave *from)
{
	__u8 *mac = bytes_at(skb, ETH_DST, ETH_ALEN);

	return mac && mac_equal(mac, from->next_hop);
}

/* Packets from a pod that are not parsed. */
static __noinline int sent_otherwise(struct __sk_buff *skb)
{
	struct slave *s = slave_in(skb, 0);

	if (!s || !is_for_hop(skb, s))
		return TC_ACT_UNSPEC;
	skb->tc_index = 0;
	return to_stack(skb, s, s->host);
}

ALWAYS_INLINE int sent(struct __sk_buff *skb, const int v4)
{
	struct slave *s, *to;
	struct packet p;
	struct found f;
	union key k;

	if (!read_packet(skb, &p, v4) || !p.by_end)
		return sent_otherwise(skb);
	key_of(&k, &p, v4);
	find(&f, &k, v4);
	s = end(&tw_slaves_2, f.c, &k, p.second, &p.src, 1, v4);
	if (!s || !is_for_hop(skb, s))
		return TC_ACT_UNSPEC;
	skb->tc_index = 0;
	to = f.c ? end(&tw_slaves_2, f.c, &k, !p.second, &p.dst, 0, v4) : NULL;
	/* The host stack answers packets that are too big or at TTL 1. */
	if (!is_direct(skb, &p, &k, &f, v4))
		return to_stack(skb, s, s->host);
	if (p.ttl <= 1 || !fits(skb, &p, to ? to->mtu : s->mtu) || (!to && !leads_on(s->eni))) {
		onto_slow_path(skb, &p, v4);
		return to_stack(skb, s, s->host);
	}
	return to ? into_pod(skb, &p, to, v4) : out_of_eni(skb, &p, s, v4);
}

/* Packets that leave by the ENI, of its pods or of the host stack. */
SEC("tc")
int tw_slaves_eni(struct __sk_buff *skb)
{
	/* Packets of the host stack have an ENI's mark, packets of a pod have none. */
	if (skb->mark & slot_mask) {
		learn(skb, 0);
		return TC_ACT_UNSPEC;
	}
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return sent(skb, 1);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return sent(skb, 0);
	return TC_ACT_UNSPEC;
}

/* The verdict for a frame to a pod that does not come from the VPC; TC_ACT_UNSPEC if it does. */
ALWAYS_INLINE int of_this_node(struct __sk_buff *skb, const struct slave *to)
{
	__u8 *mac = bytes_at(skb, ETH_SRC, ETH_ALEN), local[ETH_ALEN];

	local_mac(local);
	if (mac && mac_equal(mac, local))
		return TC_ACT_OK; /* ipvlan delivers it to the pod */
	/* The host stack has sent it to the pod, but ipvlan has no device with the address. */
	return !mac || mac_equal(mac, to->eni_mac) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

/* Packets to a pod that are not parsed. */
static __noinline int delivered_otherwise(struct __sk_buff *skb)
{
	struct slave *to = slave_in(skb, 1);
	int verdict;

	if (!to)
		return TC_ACT_UNSPEC;
	verdict = of_this_node(skb, to);
	if (verdict != TC_ACT_UNSPEC)
		return verdict;
	skb->tc_index = 0;
	return to_stack(skb, to, to->receiver);
}

ALWAYS_INLINE int delivered(struct __sk_buff *skb, const int v4)
{
	struct packet p;
	struct slave *to;
	struct found f;
	union key k;
	int verdict;

	if (!read_packet(skb, &p, v4))
		return delivered_otherwise(skb);
	if (!may_be_local(&p.dst, v4))
		return TC_ACT_UNSPEC;
	key_of(&k, &p, v4);
	find(&f, &k, v4);
	to = end(&tw_slaves_2, f.c, &k, !p.second, &p.dst, 1, v4);
	if (!to)
		return TC_ACT_UNSPEC;
	verdict = of_this_node(skb, to);
	if (verdict != TC_ACT_UNSPEC)
		return verdict;
	skb->tc_index = 0;
	if (!is_direct(skb, &p, &k, &f, v4))
		return to_stack(skb, to, to->receiver);
	if (p.ttl <= 1 || !fits(skb, &p, to->mtu)) {
		onto_slow_path(skb, &p, v4);
		return to_stack(skb, to, to->receiver);
	}
	if (decrement_ttl(skb, &p, v4))
		return TC_ACT_SHOT;
	count(TO_POD);
	return TC_ACT_UNSPEC; /* ipvlan delivers it to the pod */
}

/* Packets from the VPC, or from another pod of the node on the fast path. */
SEC("tc")
int tw_eni_slaves(struct __sk_buff *skb)
{
	if (skb->pkt_type != 0 /* PACKET_HOST */)
		return TC_ACT_UNSPEC;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return delivered(skb, 1);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return delivered(skb, 0);
	return TC_ACT_UNSPEC;
}

/* Packets from the host stack to a pod, at the pod's device on the node. */
SEC("tc")
int tw_to_slave(struct __sk_buff *skb)
{
	learn(skb, 1);
	skb->tc_index = 0;
	return TC_ACT_UNSPEC;
}

char __license[] SEC("license") = "Dual BSD/GPL";
