/* SPDX-License-Identifier: Apache-2.0 */
/* What all programs on a node say of a packet: what policies know of it, and its mark. */
#pragma once

#include "common.h"

/* What policies know of a packet that comes in; without them all are allowed. */
enum verdict {
	IN_NOT_ASKED,
	IN_UNKNOWN, /* it is judged where it leaves the host stack */
	IN_ALLOWED, /* its connection is allowed */
	IN_DENIED,
};

/* tc_index of a packet of the fast path that passes a learning program (netkit). */
#define TC_INDEX_DIRECT 1
#define TC_INDEX_IN 2         /* of other packets that came in by a device; those that the node makes have 0 */
#define TC_INDEX_PASSED 3     /* a program has let it into a pod (ipvlan) */
#define TC_INDEX_REPLY 0x8000 /* a bit: of a connection that policies allow. Programs may be replaced by others at any time */
