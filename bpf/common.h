/* SPDX-License-Identifier: Apache-2.0 */
/* Common to all programs: kernel types, helpers, one address type for IPv4 and IPv6. */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* An IPv6 address, or an IPv4 address mapped into it (::ffff:a.b.c.d); network byte order. */
struct addr {
	__u32 w[4];
};

/* tc_index of a pod's packet that its node has translated, and that turns around to leave by the pod's own ENI (exclusive.c). */
#define TC_INDEX_TURNED 4

#define V4_MAPPED bpf_htonl(0xffff)

ALWAYS_INLINE void addr_from_v4(struct addr *a, __u32 v4)
{
	a->w[0] = 0;
	a->w[1] = 0;
	a->w[2] = V4_MAPPED;
	a->w[3] = v4;
}

ALWAYS_INLINE int is_v4(const struct addr *a)
{
	return !a->w[0] && !a->w[1] && a->w[2] == V4_MAPPED;
}

ALWAYS_INLINE int addr_equal(const struct addr *a, const struct addr *b)
{
	return a->w[0] == b->w[0] && a->w[1] == b->w[1] && a->w[2] == b->w[2] && a->w[3] == b->w[3];
}

/* Any total order works: it only has to be the same for both directions of a connection. */
ALWAYS_INLINE int addr_less(const struct addr *a, const struct addr *b)
{
	if (a->w[3] != b->w[3])
		return a->w[3] < b->w[3];
	if (a->w[2] != b->w[2])
		return a->w[2] < b->w[2];
	if (a->w[1] != b->w[1])
		return a->w[1] < b->w[1];
	return a->w[0] < b->w[0];
}

/* A mask of zeros matches everything, IPv4 and IPv6. */
ALWAYS_INLINE int addr_in(const struct addr *a, const struct addr *net, const struct addr *mask)
{
	return (a->w[0] & mask->w[0]) == net->w[0] && (a->w[1] & mask->w[1]) == net->w[1] &&
	       (a->w[2] & mask->w[2]) == net->w[2] && (a->w[3] & mask->w[3]) == net->w[3];
}

/* Byte by byte: the addresses are unaligned, and memcmp, which the compiler would call, does not exist. */
ALWAYS_INLINE int mac_equal(const __u8 *a, const __u8 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3] && a[4] == b[4] && a[5] == b[5];
}
