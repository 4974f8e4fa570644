/* SPDX-License-Identifier: Apache-2.0 */
/* Types of the datapath ipvlan, shared with internal/datapath/ipvlan as those of fastpath.h. */
#pragma once

#include "connection.h"

/* An address of a local pod that has ipvlan devices. */
struct slave {
	struct addr addr;    /* zero: the entry is unused */
	__u32 host;          /* the pod's device on the node */
	__u32 inner;         /* index of the device in the pod, unique on the node */
	__u32 eni;           /* the parent of both */
	__u32 receiver;      /* the device by which the host stack receives from the VPC */
	__u32 mtu;           /* of the ENI and so of the pod */
	struct addr gateway; /* of the ENI's vSwitch, of the address's family */
	__u8 next_hop[6];    /* MAC of the pod's next hop, unique to this pod */
	__u8 eni_mac[6];
};
