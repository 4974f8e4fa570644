/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Types of the datapaths ebpf and netkit, shared with internal/datapath/ebpf: bpf2go turns the
 * structs into Go types.
 */
#pragma once

#include "connection.h"
#include "sender.h"

enum pod_flag {
	POD_LIMITED = 1, /* what the pod gets is limited: packets pass the queue of the node's end */
};

/* A local pod's address. */
struct pod {
	struct addr addr;    /* zero: the entry is unused */
	__u32 ifindex;       /* the node's end of its veth or netkit pair */
	__u32 mtu;           /* of the pod */
	__u32 eni;           /* ifindex of its ENI; 0: there is none, and the stack sends an error */
	__u32 eni_mtu;
	struct addr gateway; /* of the ENI's vSwitch, of the address's family */
	__u8 macs[12];       /* the pod's, then its next hop's: a delivered frame's addresses; 0 with netkit */
	enum pod_flag flags;
};
