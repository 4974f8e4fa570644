/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs that measure policy.h, for the benchmark, and one that tells events (internal/datapath/policymap/policymaptest): nothing
 * attaches them. They run by BPF_PROG_TEST_RUN.
 */
#include "flows.h"
#include "policy.h"

/*
 * What the benchmark asks about: peers by chance, each of which has a rule. A word of the peer's address is that of the packet
 * plus the rule's number, shifted; the destination port is the number plus less than 40.
 */
struct bench {
	__u32 endpoint, direction;
	__u32 rules, word, shift;
	struct pol_packet packet;
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bench);
} bench SEC(".maps");

ALWAYS_INLINE int decisions(int decide)
{
	__u32 chance = bpf_get_prandom_u32(), rule;
	struct bench *b = bpf_map_lookup_elem(&bench, &(__u32){ 0 });
	struct pol_verdict verdict = {};
	struct pol_packet packet;

	if (!b || !b->rules)
		return -1;
	rule = (chance & 0xffffff) % b->rules;
	packet = b->packet;
	packet.destination = rule + (chance >> 24) % 40;
	rule <<= b->shift & 31;
	if (b->word == 3)
		packet.peer.w[3] = bpf_htonl(bpf_ntohl(packet.peer.w[3]) + rule);
	else
		packet.peer.w[1] = bpf_htonl(bpf_ntohl(packet.peer.w[1]) + rule);
	if (decide)
		return policy_decide(b->endpoint, b->direction, &packet, &verdict);
	return packet.peer.w[1] + packet.peer.w[3] + packet.destination;
}

SEC("tc")
int tw_pol_bench(struct __sk_buff *skb)
{
	return decisions(1);
}

/* What tw_pol_bench costs without the decision. */
SEC("tc")
int tw_pol_empty(struct __sk_buff *skb)
{
	return decisions(0);
}

/* What judge.h has, without what tells nothing. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tally);
} tw_desk_3 SEC(".maps");

/* Tells the event that the packet has behind its first 16 bytes. */
SEC("tc")
int tw_pol_tell(struct __sk_buff *skb)
{
	struct tally *t = bpf_map_lookup_elem(&tw_desk_3, &(__u32){ 0 });
	struct flow_event *said, e;

	said = bytes_at(skb, 16, sizeof(e));
	if (!said || !t)
		return -1;
	__builtin_memcpy(&e, said, sizeof(e));
	return tell(&e, t);
}

char __license[] SEC("license") = "Dual BSD/GPL";
