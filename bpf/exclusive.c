/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Services of pods that have an ENI for themselves. The pod sends to a Service by its node (veth1), where kube-proxy translates the
 * destination. The packet must leave by the pod's own ENI: no other one may send with its address. So it turns around on the node,
 * and goes back into the pod and out by the ENI:
 *
 *	pod ─ veth1 ─► node ─ translated ─► tw_turn ─► veth1 ─ tw_out ─► the ENI ─► VPC
 *
 * Answers come in by the ENI, and only the node can translate them back. tw_turn notes each connection that it sends around; tw_in
 * sends what comes in on it to the node, which gives it to the pod by veth1. All else that comes in by the ENI is the pod's.
 *
 * Without an entry of the pod's address nothing of this happens.
 */
#include "headers.h"

/* The bits of the mark, and what they are on packets that leave by the own ENI of the pod. The agent sets both. */
const volatile __u32 slot_mask, slot_own;

/* The devices of a pod, by each of its addresses. */
struct own_eni {
	__u32 host; /* the node's end of its veth */
	__u32 veth; /* the pod's end, */
	__u32 eni;  /* and its ENI: indexes in the pod's network namespace */
};

/* The agent sets its size. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct addr);
	__type(value, struct own_eni);
} tw_own_eni_1 SEC(".maps");

/* A connection that the node translates, as it is at the ENI. Ports are in network byte order. */
struct turned {
	struct addr pod, peer;
	__u16 pod_port, peer_port;
	__u8 proto;
	__u8 fragments; /* 1: a packet that the peer sends in fragments; the ports are its identification */
	__u16 zero;
};

/* When a packet of it was last sent around, in units of 2^30 ns; not kept for TCP. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct turned);
	__type(value, __u32);
} tw_turned_1 SEC(".maps");

/* Space for headers: of values on the stack the verifier follows each combination. */
struct headers {
	struct flow flow, quoted;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct headers);
} tw_headers_1 SEC(".maps");

/* Longer than conntrack remembers such a connection (nf_conntrack_udp_timeout_stream, 120 s). */
#define SILENT 180

ALWAYS_INLINE __u32 now(void)
{
	return bpf_ktime_get_ns() >> 30;
}

ALWAYS_INLINE struct own_eni *eni_of(const struct addr *pod)
{
	return bpf_map_lookup_elem(&tw_own_eni_1, pod);
}

/* The packet's headers; NULL if it is none of IP's, or cannot be read. */
ALWAYS_INLINE struct headers *headers_of(struct __sk_buff *skb)
{
	struct headers *h;

	if (skb->protocol != bpf_htons(ETH_P_IP) && skb->protocol != bpf_htons(ETH_P_IPV6))
		return NULL;
	h = bpf_map_lookup_elem(&tw_headers_1, &(__u32){ 0 });
	return h && read_flow(skb, ETH_HLEN, skb->len, &h->flow) ? h : NULL;
}

/* What netfilter and IPVS translate. */
ALWAYS_INLINE int has_ports(const struct flow *f)
{
	return f->fragment != LATER_FRAGMENT && (f->proto == IPPROTO_TCP || f->proto == IPPROTO_UDP || f->proto == IPPROTO_SCTP);
}

/* The connection of a packet that the pod sends. */
ALWAYS_INLINE void key_of(struct turned *k, const struct flow *f)
{
	__builtin_memset(k, 0, sizeof(*k));
	k->pod = f->src;
	k->peer = f->dst;
	k->pod_port = f->sport;
	k->peer_port = f->dport;
	k->proto = f->proto;
}

/* Packets that leave the node, and those to a pod that has an ENI for itself. */
SEC("tc")
int tw_turn(struct __sk_buff *skb)
{
	struct own_eni *own;
	struct headers *h;
	struct turned k;
	__u32 *seen, when;

	if ((skb->mark & slot_mask) != slot_own)
		return TC_ACT_UNSPEC;
	h = headers_of(skb);
	if (!h)
		return TC_ACT_UNSPEC;
	own = eni_of(&h->flow.src);
	if (!own)
		return TC_ACT_UNSPEC;
	/* It is on its way back. Policies judge it at the ENI. */
	if (skb->ifindex == own->host)
		return TC_ACT_OK;
	if (has_ports(&h->flow)) {
		key_of(&k, &h->flow);
		when = k.proto == IPPROTO_TCP ? 0 : now();
		seen = bpf_map_lookup_elem(&tw_turned_1, &k);
		if (!seen)
			bpf_map_update_elem(&tw_turned_1, &k, &when, BPF_ANY);
		else if (*seen != when)
			*seen = when;
	}
	return bpf_redirect(own->host, 0);
}

/* What the pod gets by veth1. Its own packets are those that have turned around. */
SEC("tc")
int tw_out(struct __sk_buff *skb)
{
	struct addr src, dst;
	struct own_eni *own;

	if (!addresses(skb, &src, &dst) || addr_equal(&src, &dst))
		return TC_ACT_UNSPEC;
	own = eni_of(&src);
	if (!own || own->veth != skb->ifindex)
		return TC_ACT_UNSPEC;
	skb->tc_index = TC_INDEX_TURNED;
	return bpf_redirect_neigh(own->eni, NULL, 0, 0);
}

/* To the node, which is the next hop by veth1. */
ALWAYS_INLINE int to_node(struct own_eni *own, int v4)
{
	struct bpf_redir_neigh hop = { .nh_family = v4 ? AF_INET : AF_INET6 };

	if (v4) {
		hop.ipv4_nh = bpf_htonl(0xa9fe0101); /* 169.254.1.1 */
	} else {
		hop.ipv6_nh[0] = bpf_htonl(0xfe800000); /* fe80::1 */
		hop.ipv6_nh[3] = bpf_htonl(1);
	}
	return bpf_redirect_neigh(own->veth, &hop, sizeof(hop), 0);
}

/* What comes in by the ENI. */
SEC("tc")
int tw_in(struct __sk_buff *skb)
{
	struct headers *h = headers_of(skb);
	struct turned k, whole;
	struct own_eni *own;
	struct flow *f;
	__u32 *seen;

	if (!h)
		return TC_ACT_UNSPEC;
	f = &h->flow;
	if (is_syn(f->tcp))
		return TC_ACT_UNSPEC;
	__builtin_memset(&whole, 0, sizeof(whole));
	whole.pod = f->dst;
	whole.peer = f->src;
	whole.pod_port = f->id >> 16;
	whole.peer_port = f->id;
	whole.fragments = 1;
	if (f->fragment == LATER_FRAGMENT) {
		if (!bpf_map_lookup_elem(&tw_turned_1, &whole))
			return TC_ACT_UNSPEC;
	} else {
		if (is_error(f->proto, f->type, is_v4(&f->src))) {
			/* It belongs to the connection of the packet that it quotes, which the pod has sent. */
			if (!read_flow(skb, f->payload + 8, f->end, &h->quoted) || !has_ports(&h->quoted) ||
			    !addr_equal(&h->quoted.src, &f->dst))
				return TC_ACT_UNSPEC;
			key_of(&k, &h->quoted);
		} else {
			if (!has_ports(f))
				return TC_ACT_UNSPEC;
			__builtin_memset(&k, 0, sizeof(k));
			k.pod = f->dst;
			k.peer = f->src;
			k.pod_port = f->dport;
			k.peer_port = f->sport;
			k.proto = f->proto;
		}
		seen = bpf_map_lookup_elem(&tw_turned_1, &k);
		if (!seen || (k.proto != IPPROTO_TCP && now() - *seen > SILENT))
			return TC_ACT_UNSPEC;
	}
	own = eni_of(&f->dst);
	if (!own || own->eni != skb->ifindex)
		return TC_ACT_UNSPEC;
	if (f->fragment == FIRST_FRAGMENT)
		bpf_map_update_elem(&tw_turned_1, &whole, &(__u32){ 0 }, BPF_ANY);
	return to_node(own, is_v4(&f->dst));
}

/*
 * What leaves by the ENI or by veth1. What the pod itself opens by its ENI ends a connection with these ends that is remembered: the
 * answers are the pod's. What turns around is no traffic of the pod's at this device, so its bandwidth is not limited again.
 */
SEC("tc")
int tw_leave(struct __sk_buff *skb)
{
	struct headers *h = headers_of(skb);
	__u32 in = skb->ingress_ifindex;
	struct own_eni *own;
	struct turned k;
	struct flow *f;

	if (!h)
		return TC_ACT_UNSPEC;
	f = &h->flow;
	if (in) {
		own = eni_of(&f->src);
		if (own && skb->ifindex == own->eni && in == own->veth)
			return TC_ACT_OK;
		own = eni_of(&f->dst);
		if (own && skb->ifindex == own->veth && in == own->eni)
			return TC_ACT_OK;
		return TC_ACT_UNSPEC;
	}
	if (!has_ports(f) || (f->proto == IPPROTO_TCP && !is_syn(f->tcp)))
		return TC_ACT_UNSPEC;
	key_of(&k, f);
	if (bpf_map_lookup_elem(&tw_turned_1, &k))
		bpf_map_delete_elem(&tw_turned_1, &k);
	return TC_ACT_UNSPEC;
}

char __license[] SEC("license") = "Dual BSD/GPL";
