/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs that ask policy.h what policies say of a packet (internal/datapath/policyask): nothing attaches them. They run by
 * BPF_PROG_TEST_RUN, on the maps by which packets are judged.
 */
#include "policy.h"

struct question {
	__u8 header[ETH_HLEN];
	__u16 zero;
	__u32 endpoint;
	__u32 direction;
	struct addr own;
	struct pol_packet packet;
	struct pol_verdict verdict; /* the answer */
};

/* Answers the question that the packet is, in the packet. Returns the number of the verdict's row. */
SEC("tc")
int tw_pol_ask(struct __sk_buff *skb)
{
	struct question *q = bytes_at(skb, 0, sizeof(*q));
	struct pol_verdict verdict;
	struct pol_packet packet;
	__u32 number;

	if (!q)
		return -1;
	packet = q->packet;
	number = policy_decide(q->endpoint, q->direction, &packet, &verdict);
	q = bytes_at(skb, 0, sizeof(*q));
	if (!q)
		return -1;
	q->verdict = verdict;
	return number;
}

/* The number of the endpoint with the question's own address, or 0. */
SEC("tc")
int tw_pol_endpoint(struct __sk_buff *skb)
{
	struct question *q = bytes_at(skb, 0, sizeof(*q));
	struct addr own;

	if (!q)
		return -1;
	own = q->own;
	return policy_endpoint(&own);
}

char __license[] SEC("license") = "Dual BSD/GPL";
