/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections on the fast path. The first packet of each takes the slow path, through the host stack;
 * when it leaves the host stack unchanged the connection takes the fast path, in both directions
 * (fastpath.c).
 *
 * A connection is pending until its opener sends again after an answer (TCP: SYN, SYN-ACK, ACK), and
 * known from then on. Pending connections take the fast path too, but have a small table of their own:
 * connections without an answer evict only each other.
 *
 * A map of another shape needs another name: a new agent uses the maps that it finds by name.
 */
#pragma once

#include "marks.h"
#include "packet.h"

/* Both directions have the same key: the smaller address comes first, or the smaller port. */
struct key4 {
	__u32 addr[2];
	__u16 port[2];
	__u8 proto;
	__u8 zero[3];
};

struct key6 {
	__u64 addr[2][2];
	__u16 port[2];
	__u8 proto;
	__u8 zero[3];
};

union key {
	struct key4 v4;
	struct key6 v6;
};

enum state {
	STATE_ASKED = 1, /* a packet is in the host stack, or was translated or dropped there */
	STATE_DIRECT = 2 /* the host stack forwarded a packet unchanged: the fast path */
};

/* What was seen of a connection on the fast path. */
#define SEEN_ANSWER 1
#define SEEN_FIN(second) (2 << (second))
#define SEEN_BOTH_FINS (SEEN_FIN(0) | SEEN_FIN(1))
#define SEEN_END 8 /* RST, or both FINs: the entry is pending for the last packets */
#define SEEN_OPENER 16 /* TCP's SYN or SYN-ACK: else the opener is who was seen first */

struct connection {
	__u64 since;  /* when the host stack last forwarded a packet, in the kernel's ticks (jiffies) */
	__u16 pod[2]; /* numbers of the key's addresses if they are local pods' (tw_pods_2), or 0 */
	__u8 state;
	__u8 opener;  /* 1: the second address of the key */
	__u8 seen;
	__u8 asker;   /* the sender of the packet in the host stack, as opener */
};

/* The agent shows these names in small letters. */
enum counter {
	TO_ENI = 0,
	TO_POD,
	ASKED,
	LEARNED,
	FORGOTTEN,
	SPOOFED, /* dropped by a program; the host stack counts its own drops */
	COUNTERS,
};

/* Settings that programs read while they run. */
struct node {
	__u64 ask_again; /* ticks after which connections without a handshake take the slow path again */
	__u64 secret;    /* random, one for each boot */
};

/* Bits of the mark for a pod's ENI. The agent sets them and the maps' sizes. */
const volatile __u32 slot_mask;

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct key4);
	__type(value, struct connection);
} tw_known4_1 SEC(".maps"), tw_pending4_1 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct key6);
	__type(value, struct connection);
} tw_known6_1 SEC(".maps"), tw_pending6_1 SEC(".maps");

/* Numbers of local pods' addresses, from 1: indexes of the array of pods. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct addr);
	__type(value, __u32);
} tw_pods_2 SEC(".maps");

/*
 * A bit for each value of an address's last two bytes, set if a local pod's address has it: packets for
 * nobody here need no other lookup.
 */
#define SUFFIXES (1 << 16)
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SUFFIXES / 64);
	__type(key, __u32);
	__type(value, __u64);
} tw_suffixes_1 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct node);
} tw_node_1 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, enum counter);
	__type(value, __u64);
} tw_counters_1 SEC(".maps");

/*
 * Indexes of ENI devices whose gateways answer. The kernel removes a device's entry with the device,
 * the agent one whose gateway does not answer: the fast path would lose packets, where the host stack
 * reports that the destination is unreachable.
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

ALWAYS_INLINE void count(enum counter what)
{
	__u64 *n = bpf_map_lookup_elem(&tw_counters_1, &what);

	if (n)
		*n += 1;
}

ALWAYS_INLINE struct node *node(void)
{
	__u32 first = 0;

	return bpf_map_lookup_elem(&tw_node_1, &first);
}

ALWAYS_INLINE int may_be_local(const union ip *a, const int v4)
{
	__u32 suffix = v4 ? a->v4 >> 16 : a->v6[1] >> 48, at = suffix / 64; /* both little-endian */
	__u64 *bits = bpf_map_lookup_elem(&tw_suffixes_1, &at);

	return bits && *bits >> suffix % 64 & 1;
}

ALWAYS_INLINE __u32 number_at(const struct addr *a)
{
	__u32 *n = bpf_map_lookup_elem(&tw_pods_2, a);

	return n ? *n : 0;
}

ALWAYS_INLINE __u32 number_of(const union ip *a, const int v4)
{
	struct addr key;

	if (v4)
		addr_from_v4(&key, a->v4);
	else
		__builtin_memcpy(&key, a, sizeof(key));
	return number_at(&key);
}

/* Whether an entry of the array of pods still belongs to this address. */
ALWAYS_INLINE int is_at(const struct addr *entry, const union ip *a, const int v4)
{
	const half *halves = (const half *)entry;

	return v4 ? entry->w[3] == a->v4 && entry->w[2] == V4_MAPPED : halves[0] == a->v6[0] && halves[1] == a->v6[1];
}

ALWAYS_INLINE void *known(const int v4)
{
	return v4 ? (void *)&tw_known4_1 : (void *)&tw_known6_1;
}

ALWAYS_INLINE void *pending(const int v4)
{
	return v4 ? (void *)&tw_pending4_1 : (void *)&tw_pending6_1;
}

/* Compares 32-bit words, the last one first: each half of an IPv6 address has two. */
ALWAYS_INLINE void key_of(union key *k, struct packet *p, const int v4)
{
	const union ip *src = &p->src, *dst = &p->dst;

	if (v4)
		p->second = src->v4 != dst->v4 ? src->v4 > dst->v4 : p->sport > p->dport;
	else if (src->v6[1] != dst->v6[1])
		p->second = src->v6[1] > dst->v6[1];
	else
		p->second = src->v6[0] != dst->v6[0] ? src->v6[0] > dst->v6[0] : p->sport > p->dport;
	if (v4) {
		k->v4.addr[0] = p->second ? dst->v4 : src->v4;
		k->v4.addr[1] = p->second ? src->v4 : dst->v4;
		k->v4.port[0] = p->second ? p->dport : p->sport;
		k->v4.port[1] = p->second ? p->sport : p->dport;
		k->v4.proto = p->proto;
		k->v4.zero[0] = k->v4.zero[1] = k->v4.zero[2] = 0;
		return;
	}
	if (p->second) {
		__builtin_memcpy(k->v6.addr[0], dst, sizeof(*dst));
		__builtin_memcpy(k->v6.addr[1], src, sizeof(*src));
		k->v6.port[0] = p->dport;
		k->v6.port[1] = p->sport;
	} else {
		__builtin_memcpy(k->v6.addr[0], src, sizeof(*src));
		__builtin_memcpy(k->v6.addr[1], dst, sizeof(*dst));
		k->v6.port[0] = p->sport;
		k->v6.port[1] = p->dport;
	}
	k->v6.proto = p->proto;
	k->v6.zero[0] = k->v6.zero[1] = k->v6.zero[2] = 0;
}

/* An address of a key. Linux 5.10 refuses reads of the stack at a variable offset, so second is tested. */
ALWAYS_INLINE void ip_of(union ip *a, const union key *k, int second, const int v4)
{
	if (v4)
		a->v4 = second ? k->v4.addr[1] : k->v4.addr[0];
	else if (second)
		__builtin_memcpy(a, k->v6.addr[1], sizeof(*a));
	else
		__builtin_memcpy(a, k->v6.addr[0], sizeof(*a));
}

/*
 * Functions for few packets of a connection (RARELY) get the key and not the packet, so that the
 * compiler keeps the packet in registers: the key has both ends, and these bits beside TCP's flags the
 * rest.
 */
#define OF_SECOND 0x100 /* the sender is the second address of the key */
#define OF_KNOWN 0x200  /* the connection is known, not pending */

/* A connection, and the table in which it was found. */
struct found {
	struct connection *c;
	int known; /* or pending */
};

ALWAYS_INLINE void find(struct found *f, const union key *k, const int v4)
{
	f->known = 1;
	f->c = bpf_map_lookup_elem(known(v4), k);
	if (f->c)
		return;
	f->known = 0;
	f->c = bpf_map_lookup_elem(pending(v4), k);
}

/* The entry of the pod with a number, if it still belongs to the address, with which the entry begins. */
ALWAYS_INLINE void *pod_at(void *pods, __u32 number, const union ip *a, const int v4)
{
	struct addr *entry = bpf_map_lookup_elem(pods, &number);

	return entry && is_at(entry, a, v4) ? entry : NULL;
}

/* The entry by the address. It replaces an old number in the connection. */
ALWAYS_INLINE void *search(void *pods, struct connection *c, const union key *k, int second, const int v4)
{
	__u32 number;
	union ip a;

	ip_of(&a, k, second, v4);
	number = number_of(&a, v4);
	if (!number)
		return NULL;
	if (c && number != c->pod[second & 1])
		c->pod[second & 1] = number;
	return pod_at(pods, number, &a, v4);
}
RARELY(void *, search, (void *pods, struct connection *c, const union key *k, int second), pods, c, k, second)

/*
 * The entry of the pod with the key's address a, by the connection's number or else by the address.
 * Without must a number 0 means no pod: a pod that comes to the node has no connections from before.
 */
ALWAYS_INLINE void *end(void *pods, struct connection *c, const union key *k, int second, const union ip *a,
			const int must, const int v4)
{
	__u32 number = c ? c->pod[second & 1] : 0;
	void *pod;

	if (number) {
		pod = pod_at(pods, number, a, v4);
		if (pod)
			return pod;
	} else if (c && !must) {
		return NULL;
	}
	return v4 ? search4(pods, c, k, second) : search6(pods, c, k, second);
}

/*
 * A hash of the 5-tuple, the tc_index of a packet in the host stack: the packet was translated if its
 * 5-tuple does not match the hash when it leaves. The tables alone do not show that: a translated packet
 * may leave with the 5-tuple of another connection. Other packets have tc_index 0.
 *
 * The secret prevents that a pod computes ports with which its translated packets match.
 */
ALWAYS_INLINE __u16 token(const struct packet *p, const int v4)
{
	__u64 h = ((__u64)p->proto << 32 | (__u32)p->sport << 16 | p->dport) * 0x165667B19E3779F9ULL;
	struct node *n = node();

	if (!n)
		return 0;
	/* Odd constants (xxHash's primes). The products do not depend on each other. */
	if (v4)
		h += p->src.v4 * 0x9E3779B185EBCA87ULL + p->dst.v4 * 0xC2B2AE3D27D4EB4FULL;
	else
		h += p->src.v6[0] * 0x85EBCA77C2B2AE63ULL + p->src.v6[1] * 0x9E3779B185EBCA87ULL +
		     p->dst.v6[0] * 0xA0761D6478BD642FULL + p->dst.v6[1] * 0xC2B2AE3D27D4EB4FULL;
	h = (h ^ h >> 32 ^ n->secret) * 0x9FB21C651E98DF25ULL;
	h = (h ^ h >> 29) * 0xC2B2AE3D27D4EB4FULL;
	h >>= 49; /* the bits below TC_INDEX_REPLY */
	return h > (TC_INDEX_DIRECT | TC_INDEX_IN) ? h : (TC_INDEX_DIRECT | TC_INDEX_IN) + 1;
}

ALWAYS_INLINE void set_token(struct __sk_buff *skb, const struct packet *p, const int v4)
{
	skb->tc_index = token(p, v4) | (skb->tc_index & TC_INDEX_REPLY);
}

/* Ticks after which connections without a handshake take the slow path again. */
ALWAYS_INLINE __u64 ask_again(void)
{
	struct node *n = node();

	return n ? n->ask_again : 0;
}

/* Whether conntrack may have forgotten a connection without a handshake that is on the fast path. */
ALWAYS_INLINE int is_old(const struct connection *c)
{
	return bpf_jiffies64() - c->since >= ask_again();
}

/* Records a packet that goes to the host stack. */
ALWAYS_INLINE void ask(const union key *k, struct connection *c, __u32 of, const int v4)
{
	const int second = !!(of & OF_SECOND);
	struct connection fresh = { .state = STATE_ASKED, .opener = second, .asker = second };
	union ip a;

	if (c && c->state == STATE_ASKED && !is_syn(of)) {
		c->asker = second;
		return;
	}
	if ((of & (TCPHDR_SYN | TCPHDR_ACK)) == (TCPHDR_SYN | TCPHDR_ACK)) {
		fresh.opener = !second;
		fresh.seen = SEEN_ANSWER | SEEN_OPENER;
	} else if (is_syn(of)) {
		fresh.seen = SEEN_OPENER;
	}
	ip_of(&a, k, 0, v4);
	fresh.pod[0] = number_of(&a, v4);
	ip_of(&a, k, 1, v4);
	fresh.pod[1] = number_of(&a, v4);
	if (c && !is_syn(of)) { /* an old connection without a handshake */
		c->pod[0] = fresh.pod[0];
		c->pod[1] = fresh.pod[1];
		c->asker = second;
		c->state = STATE_ASKED;
		return;
	}
	if (c && of & OF_KNOWN) /* a new connection with the same ports */
		bpf_map_delete_elem(known(v4), k);
	bpf_map_update_elem(pending(v4), k, &fresh, BPF_ANY);
}
RARELY(void, ask, (const union key *k, struct connection *c, __u32 of), k, c, of)

/* A packet of a pending connection. */
ALWAYS_INLINE void handshake(const union key *k, struct connection *c, __u32 of, const int v4)
{
	if (of & TCPHDR_RST)
		return;
	if (!!(of & OF_SECOND) != c->opener) {
		if (!(c->seen & SEEN_ANSWER))
			c->seen |= SEEN_ANSWER;
	} else if ((c->seen & (SEEN_ANSWER | SEEN_END)) == SEEN_ANSWER) {
		struct connection made = *c;

		bpf_map_update_elem(known(v4), k, &made, BPF_ANY);
	}
}

/* FIN or RST. The last packets of a connection take the same path. */
ALWAYS_INLINE void closing(const union key *k, struct connection *c, __u32 of, const int v4)
{
	struct connection ended;

	if (!(of & TCPHDR_RST) && (c->seen & SEEN_BOTH_FINS) != SEEN_BOTH_FINS)
		return;
	if (!(of & OF_KNOWN)) {
		c->seen |= SEEN_END;
		/* If this packet made it known. */
		bpf_map_delete_elem(known(v4), k);
		return;
	}
	ended = *c;
	ended.seen |= SEEN_END;
	bpf_map_delete_elem(known(v4), k);
	bpf_map_update_elem(pending(v4), k, &ended, BPF_ANY);
}

/* A packet at the begin or end of a connection on the fast path. 0: it takes the slow path. */
ALWAYS_INLINE int progress(const union key *k, struct connection *c, __u32 of, const int v4)
{
	/* Refused. Conntrack deletes its entry at once if it sees the RST. */
	if (of & TCPHDR_RST && !(of & OF_KNOWN) && !(c->seen & SEEN_ANSWER)) {
		c->seen |= SEEN_END;
		return 0;
	}
	if (of & TCPHDR_FIN)
		c->seen |= SEEN_FIN(!!(of & OF_SECOND));
	if (!(of & OF_KNOWN))
		handshake(k, c, of, v4);
	if (of & (TCPHDR_FIN | TCPHDR_RST))
		closing(k, c, of, v4);
	return 1;
}
RARELY(int, progress, (const union key *k, struct connection *c, __u32 of), k, c, of)

/* 1 if the packet takes the fast path. If not, it is recorded for the slow path. */
ALWAYS_INLINE int is_direct(struct __sk_buff *skb, const struct packet *p, const union key *k, const struct found *f,
			    const int v4)
{
	__u32 of = p->tcp | (p->second ? OF_SECOND : 0) | (f->known ? OF_KNOWN : 0);
	struct connection *c = f->c;
	int direct = c && c->state == STATE_DIRECT && !is_syn(p->tcp);

	if (direct && p->proto != IPPROTO_TCP)
		direct = !is_old(c);
	if (direct) {
		if (p->error || (f->known && !(p->tcp & (TCPHDR_FIN | TCPHDR_RST))))
			return 1;
		return v4 ? progress4(k, c, of) : progress6(k, c, of);
	}
	if (p->error)
		return 0;
	set_token(skb, p, v4);
	count(ASKED);
	/* Each packet of a translated connection comes here. */
	if (c && c->state == STATE_ASKED && c->asker == p->second && !is_syn(p->tcp))
		return 0;
	if (v4)
		ask4(k, c, of);
	else
		ask6(k, c, of);
	return 0;
}

/*
 * A packet of a connection on the fast path that the fast path cannot forward. It gets a token too: a
 * packet without one ends a connection with its 5-tuple (forget).
 */
ALWAYS_INLINE void onto_slow_path(struct __sk_buff *skb, const struct packet *p, const int v4)
{
	set_token(skb, p, v4);
	count(ASKED);
}

/* The host stack has forwarded a packet unchanged. */
ALWAYS_INLINE void answered(const union key *k, int second, const int to_pod, const int v4)
{
	struct found f;
	__u32 number;
	union ip dst;

	find(&f, k, v4);
	/*
	 * Another packet was faster. Or the token matches by chance, and only the answers came in like
	 * this, which the host stack translates back.
	 */
	if (!f.c || f.c->state != STATE_ASKED || f.c->asker != second)
		return;
	if (to_pod) { /* without its number packets to it would leave by the ENI */
		ip_of(&dst, k, !second, v4);
		number = number_of(&dst, v4);
		if (!number)
			return;
		f.c->pod[(!second) & 1] = number;
	}
	f.c->since = bpf_jiffies64();
	f.c->state = STATE_DIRECT;
	count(LEARNED);
}
RARELY(void, answered, (const union key *k, int second, int to_pod), k, second, to_pod)

/* The host stack has translated a packet into this 5-tuple. A connection with it on the fast path has ended. */
ALWAYS_INLINE void forget(const union key *k, const int v4)
{
	struct found f;

	find(&f, k, v4);
	if (!f.c || f.c->state != STATE_DIRECT)
		return;
	bpf_map_delete_elem(known(v4), k);
	bpf_map_delete_elem(pending(v4), k);
	count(FORGOTTEN);
}
RARELY(void, forget, (const union key *k), k)

/* A packet leaves the host stack, to a pod or by an ENI: was it translated? */
ALWAYS_INLINE void learn_family(struct __sk_buff *skb, const int to_pod, const int v4)
{
	struct packet p;
	union key k;
	int same;

	if (read_headers(skb, &p, v4) != WHAT_CONNECTION)
		return;
	same = skb->tc_index && (skb->tc_index & ~TC_INDEX_REPLY) == token(&p, v4);
	/*
	 * It was translated. A connection with this 5-tuple on the fast path is an old one, whose ports are
	 * used again: the fast path would miss the translation.
	 */
	if (!same && p.proto == IPPROTO_TCP && !is_syn(p.tcp))
		return;
	key_of(&k, &p, v4);
	if (same && v4)
		answered4(&k, p.second, to_pod);
	else if (same)
		answered6(&k, p.second, to_pod);
	else if (v4)
		forget4(&k);
	else
		forget6(&k);
}

ALWAYS_INLINE void learn(struct __sk_buff *skb, const int to_pod)
{
	if (skb->protocol == bpf_htons(ETH_P_IP))
		learn_family(skb, to_pod, 1);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		learn_family(skb, to_pod, 0);
}
