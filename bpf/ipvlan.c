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

#ifdef POLICY
#include "direct.h"
#endif

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

/* In assembly: else the compiler computes the field's address once for several stores, which the verifier refuses. */
ALWAYS_INLINE void set_index(struct __sk_buff *skb, __u32 to)
{
	asm volatile("*(u32 *)(%0 + %1) = %2" : : "r"(skb), "i"(__builtin_offsetof(struct __sk_buff, tc_index)), "r"((__u64)to) : "memory");
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
 * hop pass. Only this attach point shows which pod has sent a packet. Packet sockets can go past it
 * (PACKET_QDISC_BYPASS), with tc_index 0.
 */
SEC("tc")
int tw_from_slave(struct __sk_buff *skb)
{
	__u32 said = skb->protocol;
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
	to = bytes_at(skb, ETH_DST, ETH_HLEN);
	if (!to || !mac_equal(to, s->next_hop))
		return TC_ACT_SHOT;
	/* A packet socket says of which protocol its frame is; the host stack reads the frame. */
	if (*(__u16 *)(to + 2 * ETH_ALEN) != said)
		return TC_ACT_SHOT;
	/* A mark that the pod has set must not be taken for the node's. */
	skb->mark = 0;
	set_index(skb, TC_INDEX_DIRECT);
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
	set_index(skb, TC_INDEX_DIRECT);
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
	set_index(skb, TC_INDEX_IN);
	return to_stack(skb, s, s->host);
}

ALWAYS_INLINE int sent(struct __sk_buff *skb, enum verdict verdict, const int v4)
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
	to = f.c ? end(&tw_slaves_2, f.c, &k, !p.second, &p.dst, 0, v4) : NULL;
#ifdef POLICY
	if (verdict == IN_NOT_ASKED) {
		int known = judge_direct(skb, &p, f.c, s->host, to != NULL, v4);

		if (known == DIRECT_NOT)
			verdict = IN_UNKNOWN;
		else if (known)
			return ASK_FIRST | known;
	}
#endif
	set_index(skb, TC_INDEX_IN);
	/* The host stack answers packets that are too big or at TTL 1. */
	if (!is_direct(skb, &p, &k, &f, v4))
		return to_stack(skb, s, s->host);
	if (verdict == IN_UNKNOWN || p.ttl <= 1 || !fits(skb, &p, to ? to->mtu : s->mtu) || (!to && !leads_on(s->eni))) {
		onto_slow_path(skb, &p, v4);
		return to_stack(skb, s, s->host);
	}
	return to ? into_pod(skb, &p, to, v4) : out_of_eni(skb, &p, s, v4);
}

#ifdef POLICY
/*
 * Whether a pod has written a packet past tw_from_slave. The host stack forwards none with tc_index 0. What it makes itself has no
 * pod's source, and a socket of IP's: others have a packet socket, or none if they are segments of a frame of one. DHCP may have one too.
 */
static __noinline int is_forged(struct __sk_buff *skb)
{
	struct addr src = {}, dst = {};
	struct bpf_sock *sk = skb->sk;
	__u32 said = skb->protocol, family = 0;
	__u16 type;
	int ip, tagged;

	if (sk)
		family = sk->family;
	if (bpf_skb_load_bytes(skb, 2 * ETH_ALEN, &type, sizeof(type)))
		return 1;
	ip = type == bpf_htons(ETH_P_IP) || type == bpf_htons(ETH_P_IPV6);
	tagged = type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
	/* Who writes to a packet socket also says of which protocol the frame is, which need not be true. */
	if (type != said)
		return ip || tagged || said == bpf_htons(ETH_P_IP) || said == bpf_htons(ETH_P_IPV6);
	if (tagged)
		return family != AF_INET && family != AF_INET6;
	if (!ip)
		return 0;
	if (!addresses(skb, &src, &dst) || slave_of(&src) || policy_endpoint(&src))
		return 1;
	return family != AF_INET && family != AF_INET6 && (src.w[3] || !is_v4(&src));
}

/* As the programs without policies do, but for packets about which policies must be asked. */
__noinline int slave_sends4(struct __sk_buff *skb, int verdict) { return sent(skb, verdict, 1); }
__noinline int slave_sends6(struct __sk_buff *skb, int verdict) { return sent(skb, verdict, 0); }

ALWAYS_INLINE int look_at(struct __sk_buff *skb, const int from_pod, int verdict, const int v4);

/* Looks at a packet, asks policies and looks again. Packets on the slow path are judged at the pod's device on the node. */
ALWAYS_INLINE int ask_policies(struct __sk_buff *skb, const int from_pod, const int v4)
{
	int now = look_at(skb, from_pod, IN_NOT_ASKED, v4), verdict;

	if (now < 0 || !(now & ASK_FIRST))
		return now;
	verdict = judge_in(skb, from_pod, now & DIRECT_BITS);
	return verdict == IN_DENIED ? TC_ACT_SHOT : look_at(skb, from_pod, verdict, v4);
}
#define SENT(skb, v4) ask_policies(skb, 1, v4)
#define DELIVERED(skb, v4) ask_policies(skb, 0, v4)
#else
#define SENT(skb, v4) sent(skb, IN_ALLOWED, v4)
#define DELIVERED(skb, v4) delivered(skb, IN_ALLOWED, v4)
#endif

/* Packets that leave by the ENI, of its pods or of the host stack. */
SEC("tc")
int tw_slaves_eni(struct __sk_buff *skb)
{
	const int v4 = skb->protocol == bpf_htons(ETH_P_IP), v6 = skb->protocol == bpf_htons(ETH_P_IPV6);

#ifdef POLICY
	if (!skb->tc_index && !skb->ingress_ifindex && is_forged(skb)) {
		count(SPOOFED);
		return TC_ACT_SHOT;
	}
#endif
	/* Packets of the host stack have an ENI's mark, packets of a pod have none. */
	if (skb->mark & slot_mask) {
		learn(skb, 0);
		return TC_ACT_UNSPEC;
	}
	if (v4)
		return SENT(skb, 1);
	if (v6)
		return SENT(skb, 0);
	return TC_ACT_UNSPEC;
}

/* Where a frame to a pod comes from. */
enum origin {
	BY_VPC,
	BY_FAST_PATH, /* of a pod of this node */
	BY_STACK,     /* the host stack has sent it to the pod, but ipvlan has no device with the address */
};

ALWAYS_INLINE enum origin origin_of(struct __sk_buff *skb, const struct slave *to)
{
	__u8 *mac = bytes_at(skb, ETH_SRC, ETH_ALEN), local[ETH_ALEN];

	local_mac(local);
	if (mac && mac_equal(mac, local))
		return BY_FAST_PATH;
	return !mac || mac_equal(mac, to->eni_mac) ? BY_STACK : BY_VPC;
}

/* ipvlan delivers it to the pod. */
ALWAYS_INLINE int deliver(struct __sk_buff *skb)
{
	set_index(skb, TC_INDEX_PASSED);
	return TC_ACT_UNSPEC;
}

/* For the host stack; policies have noted whether it is a reply. */
ALWAYS_INLINE void comes_in(struct __sk_buff *skb)
{
	set_index(skb, TC_INDEX_IN | (skb->tc_index & TC_INDEX_REPLY));
}

/* Packets to a pod that are not parsed. */
static __noinline int delivered_otherwise(struct __sk_buff *skb)
{
	struct slave *to = slave_in(skb, 1);
	enum origin by;

	if (!to)
		return TC_ACT_UNSPEC;
	by = origin_of(skb, to);
	if (by != BY_VPC)
		return by == BY_FAST_PATH ? deliver(skb) : TC_ACT_SHOT;
	comes_in(skb);
	return to_stack(skb, to, to->receiver);
}

ALWAYS_INLINE int delivered(struct __sk_buff *skb, enum verdict verdict, const int v4)
{
	struct packet p;
	struct slave *to;
	enum origin by;
	struct found f;
	union key k;

	if (!read_packet(skb, &p, v4))
		return delivered_otherwise(skb);
	if (!may_be_local(&p.dst, v4))
		return TC_ACT_UNSPEC;
	key_of(&k, &p, v4);
	find(&f, &k, v4);
	to = end(&tw_slaves_2, f.c, &k, !p.second, &p.dst, 1, v4);
	if (!to)
		return TC_ACT_UNSPEC;
	by = origin_of(skb, to);
	if (by != BY_VPC)
		return by == BY_FAST_PATH ? deliver(skb) : TC_ACT_SHOT;
#ifdef POLICY
	if (verdict == IN_NOT_ASKED) {
		int known = judge_direct(skb, &p, f.c, 0, 1, v4);

		if (known == DIRECT_NOT)
			verdict = IN_UNKNOWN;
		else if (known)
			return ASK_FIRST | known;
	}
#endif
	comes_in(skb);
	if (!is_direct(skb, &p, &k, &f, v4))
		return to_stack(skb, to, to->receiver);
	if (verdict == IN_UNKNOWN || p.ttl <= 1 || !fits(skb, &p, to->mtu)) {
		onto_slow_path(skb, &p, v4);
		return to_stack(skb, to, to->receiver);
	}
	if (decrement_ttl(skb, &p, v4))
		return TC_ACT_SHOT;
	count(TO_POD);
	return deliver(skb);
}

#ifdef POLICY
__noinline int slave_gets4(struct __sk_buff *skb, int verdict) { return delivered(skb, verdict, 1); }
__noinline int slave_gets6(struct __sk_buff *skb, int verdict) { return delivered(skb, verdict, 0); }

ALWAYS_INLINE int look_at(struct __sk_buff *skb, const int from_pod, int verdict, const int v4)
{
	if (from_pod)
		return v4 ? slave_sends4(skb, verdict) : slave_sends6(skb, verdict);
	return v4 ? slave_gets4(skb, verdict) : slave_gets6(skb, verdict);
}

/* Whether a frame has the ENI's own MAC as its source too: one of its pods has written it past tw_from_slave, to an address that no pod has. */
ALWAYS_INLINE int is_own(struct __sk_buff *skb)
{
	__u8 *macs = bytes_at(skb, 0, 2 * ETH_ALEN);

	return !macs || mac_equal(macs, macs + ETH_SRC);
}
#endif

/* Packets from the VPC, or from another pod of the node on the fast path. */
SEC("tc")
int tw_eni_slaves(struct __sk_buff *skb)
{
	if (skb->pkt_type != 0 /* PACKET_HOST */)
		return TC_ACT_UNSPEC;
#ifdef POLICY
	if (is_own(skb))
		return TC_ACT_SHOT;
#endif
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return DELIVERED(skb, 1);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return DELIVERED(skb, 0);
	return TC_ACT_UNSPEC;
}

/* Packets from the host stack to a pod, at the pod's device on the node. */
SEC("tc")
int tw_to_slave(struct __sk_buff *skb)
{
#ifdef POLICY
	if (!judge_out(skb, 1))
		return TC_ACT_SHOT;
#endif
	learn(skb, 1);
	return deliver(skb);
}

#ifdef POLICY
/*
 * The three attach points where ipvlan brings frames of other pods of the ENI that have gone past tw_from_slave: to the ENI's own MAC, or
 * to many. Those have tc_index 0.
 */

/* Packets from a pod to the host stack, at the pod's device on the node. */
SEC("tc")
int tw_into_stack(struct __sk_buff *skb)
{
	__u32 device = skb->ifindex;

	/* Without the device's entry nobody knows by which policies to judge. */
	if (!skb->tc_index || !bpf_map_lookup_elem(&tw_senders_1, &device) || judge_in(skb, 1, 0) == IN_DENIED)
		return TC_ACT_SHOT;
	return TC_ACT_UNSPEC;
}

/* Packets from the VPC to the host stack, at the ENI's receiver. */
SEC("tc")
int tw_receiver(struct __sk_buff *skb)
{
	return skb->tc_index ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

/* Packets to a pod, at its own device in its own namespace. */
SEC("tc")
int tw_into_slave(struct __sk_buff *skb)
{
	if (skb->tc_index != TC_INDEX_PASSED)
		return TC_ACT_SHOT;
	set_index(skb, 0);
	return TC_ACT_UNSPEC;
}
#endif

char __license[] SEC("license") = "Dual BSD/GPL";
