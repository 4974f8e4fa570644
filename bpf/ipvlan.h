/* SPDX-License-Identifier: Apache-2.0 */
/* Types of the datapath ipvlan, shared with internal/datapath/ipvlan as those of shortcut.h. */
#pragma once

#include "connection.h"

/* An address of a local pod that has ipvlan devices. */
struct slave {
	struct addr addr;    /* zero: the entry is nobody's */
	__u32 host;          /* the node's device of the pair: what the host stack knows the pod by */
	__u32 inner;         /* the pod's, by its index there, which no other pod has */
	__u32 eni;           /* the parent of both */
	__u32 receiver;      /* the device by which the host stack gets what the VPC delivers */
	__u32 mtu;           /* of the ENI and so of the pod */
	struct addr gateway; /* of the ENI's vSwitch, of the address's family */
	__u8 next_hop[6];    /* MAC that the pod sends to, for this pod alone */
	__u8 eni_mac[6];
};
