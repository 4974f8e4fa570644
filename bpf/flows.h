/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is told of verdicts (docs/policy.md, "Flows"): how often each rule has decided, and an event for each new connection, or packet that is
 * judged by itself, and for each running connection whose verdict changes.
 *
 * Only packets that are judged come here, so no other packet of a connection costs more. No packet waits or is dropped for it: what
 * there is no place for is not told, and is counted.
 */
#pragma once

#include "policy.h"

/* How often a rule has decided, by direction as in policy_decide. */
struct rule_count {
	__u64 decided[2];
};

/* By the number of a rule. The agent makes the entries, of as many rules as there is place for. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct rule_count);
} tw_rules_1 SEC(".maps");

enum {
	FLOW_DENIED = 1,
	FLOW_EGRESS = 2,  /* rule[1] has judged it */
	FLOW_INGRESS = 4, /* rule[0] has judged it */
	FLOW_RUNNING = 8, /* it had another verdict before */
	FLOW_TO_NODE = 16, /* from a pod to an address of its own node */
};

/* An event. */
struct flow_event {
	__u64 at;              /* ns since the boot, with the time that the node slept */
	struct addr src, dst;  /* of the opener and the other end, as it was judged */
	struct addr pod;       /* the address of the pod that opened it, if src is another one: it was translated */
	__u32 rule[2], log[2]; /* numbers of the rule and of the list of rules that log, by direction */
	__u16 sport, dport;    /* in host byte order */
	__u8 proto, icmp_type, icmp_code;
	__u8 flags;
};

/* The agent reads it. A full one takes no more. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} tw_told_1 SEC(".maps");

/* What was not told. */
enum unsaid {
	UNSAID_FULL, /* events: the agent has not read others yet */
	UNSAID_PACE, /* events: there were too many */
	UNSAID_RULE, /* decisions of rules without an entry */
	UNSAIDS,
};

/* A processor tells so many events in a period. Those that are denied or logged have a pace of their own: others cannot hide them. */
#define PACE 512
#define PACE_PERIOD (1ULL << 30) /* ns */

struct pace {
	__u64 since;
	__u64 told;
};

/* What a processor counts, at the beginning of its tw_desk_3. */
struct tally {
	__u64 denied[2]; /* dropped packets, by direction as in policy_decide */
	__u64 spoofed;   /* packets dropped for their source, by programs without tw_counters_1 */
	__u64 unsaid[UNSAIDS];
	struct pace pace[2];
};

ALWAYS_INLINE void count_rule(struct tally *t, __u32 rule, const int direction)
{
	struct rule_count *c = bpf_map_lookup_elem(&tw_rules_1, &rule);

	if (c)
		c->decided[direction] += 1;
	else
		t->unsaid[UNSAID_RULE]++;
}

/* Counts the rules that have decided, and tells the event if its pace allows it. */
static __noinline int tell(struct flow_event *e, struct tally *t)
{
	struct pace *p;

	if (e->flags & FLOW_EGRESS)
		count_rule(t, e->rule[1], 1);
	if (e->flags & FLOW_INGRESS)
		count_rule(t, e->rule[0], 0);
	p = e->flags & FLOW_DENIED || e->log[0] || e->log[1] ? &t->pace[1] : &t->pace[0];
	e->at = bpf_ktime_get_boot_ns();
	if (e->at - p->since >= PACE_PERIOD) {
		p->since = e->at;
		p->told = 0;
	}
	if (p->told >= PACE) {
		t->unsaid[UNSAID_PACE]++;
		return 0;
	}
	p->told++;
	if (bpf_ringbuf_output(&tw_told_1, e, sizeof(*e), 0))
		t->unsaid[UNSAID_FULL]++;
	return 0;
}
