/* SPDX-License-Identifier: Apache-2.0 */
/* The sources of pods' devices: what a pod may send with, and by which policies it is judged (judge.h). */
#pragma once

#include "common.h"

/* The source addresses of the pod behind a device; the unspecified address where it has none. */
struct sender {
	struct addr v4;
	struct addr v6;
};

/* By the index of a pod's device. The agent sets its size. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct sender);
} tw_senders_1 SEC(".maps");
