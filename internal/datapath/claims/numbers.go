package claims

import "net/netip"

// The numbers that Terway uses on a node. Changing one needs a migration: what an older version
// made is found by these numbers.
const (
	// TableLocal holds one host route for each local pod. The ENI in slot n
	// (1…MaxENIs) has table TableLocal+n.
	TableLocal = 2100
	// MaxENIs is the number of slots for ENIs; slots above it have other meanings.
	MaxENIs = 252

	// RulePriorityLocal finds local pods before anything else, except the kernel's own table of
	// local addresses (priority 0).
	RulePriorityLocal = 500
	// RulePriorityStray rejects what arrives through a secondary ENI for an address that no local
	// pod has (any more): without it the packet would follow the node's default route back into the
	// VPC and could loop.
	RulePriorityStray = 550
	// RulePriorityENI sends a marked packet to the table of its ENI.
	RulePriorityENI = 600

	// Protocol is the origin that `ip rule` and `ip route` show for our objects:
	// objects without it are never touched. 84 is free in iproute2's rt_protos.
	Protocol = 84

	// PrefEBPF and PrefIPvlan are the priorities of tc filters (pref in `tc filter show`) with
	// the programs of bpf/fastpath.c and of bpf/ipvlan.c: an ENI may have both. Filters of others
	// run before or after them by their own priorities.
	PrefEBPF   = 84
	PrefIPvlan = 85
	// PrefPriority is the priority of the tc filter with the program of bpf/priority.c, on ENIs. It
	// sees what those of the kinds let leave.
	PrefPriority = 86
	// PrefTurn and PrefOwnENI are the priorities of tc filters with the programs of bpf/exclusive.c: on the node
	// before those that judge, as what turns around is judged at the ENI, and in pods behind them.
	PrefTurn   = 83
	PrefOwnENI = 87
	// PrefShaping is the priority of tc filters in pods that send packets to the device of their
	// bandwidth limit. They take the packets from all filters after them.
	PrefShaping = 0xff00

	// QdiscHTB, QdiscTBF, QdiscFQCodel and QdiscFIFO are the major numbers of the queueing disciplines that limit a
	// pod's bandwidth (handle in `tc qdisc show`), on the pod's own devices.
	QdiscHTB     = 0x7478
	QdiscFQCodel = 0x7479
	QdiscFIFO    = 0x747a
	QdiscTBF     = 0x747b

	// QdiscENI is the major number of the queueing discipline of a shared ENI by which pods' network
	// priorities take effect; those of its classes' queues are the six numbers after it. None is
	// the upper half of PriorityUnknown or PriorityDenied.
	QdiscENI = 0x747c

	// MarkShift and MarkMask are the bits of the packet's mark that hold the slot. kube-proxy uses
	// 0x4000 and 0x8000, portmap 0x2000: they do not overlap. Tailscale's mask is 0x00ff0000, but
	// it uses only two values, which no slot has; docs/datapath-route.md has a table of others.
	MarkShift = 20
	MarkMask  = 0x0ff00000
	// SlotOwnENI marks packets of a pod with an exclusive ENI that leave by it, if its node has translated them.
	SlotOwnENI = 253
	// SlotStranded marks packets of a pod whose ENI is not attached: local traffic continues, the
	// rest is answered "unreachable" at once.
	SlotStranded = 254
	// SlotOutside marks first packets that leave with the node's address.
	SlotOutside = 255

	// ConnMarkByENI is the bit of a connection's mark that means that its first packet left by its
	// pod's ENI. Conntrack may give a connection a new source port to keep it distinct from
	// another; without the bit that could not be distinguished from masquerade. It is outside
	// MarkMask: others restore a packet's mark from its connection's (wg-quick does for all of
	// UDP), and it must not be read as a slot then.
	ConnMarkByENI = 0x10000000
	// ConnMarkToNode is the bit that means that a connection was made to an address of the node,
	// and was not translated by netfilter. If a pod answers it, IPVS has translated it, which
	// conntrack's status does not show.
	ConnMarkToNode = 0x20000000
	// ConnMarkByENIOld is the mark that earlier versions used for it, with nothing else in
	// MarkMask. Connections may be older than an upgrade.
	ConnMarkByENIOld = 0x00100000

	// KubeProxyMasqueradeMark is the bit by which kube-proxy requests masquerade (its
	// --iptables-masquerade-bit / nftables.masqueradeBit, default 14).
	KubeProxyMasqueradeMark = 0x4000

	// GroupPod and GroupDying are device groups ("tw" in ASCII, then a number). The first is how
	// nftables recognises a pod's veth; a device in the second must not send and is deleted
	// together with all others in it. GroupExclusive is the group of the veth of a pod with an
	// exclusive ENI, which carries only traffic with the node and Services. Without the bit
	// ExclusiveGroupBit it equals GroupPod: one comparison matches both.
	GroupPod          = 0x74770001
	GroupDying        = 0x74770002
	GroupExclusive    = GroupPod | ExclusiveGroupBit
	ExclusiveGroupBit = 0x100

	// MetricUnreachable is the metric of the route that stops a packet when its
	// ENI's own route is missing, so that it cannot leave by another ENI.
	MetricUnreachable = 65535

	// TableName is the nftables table, of family inet.
	TableName = "terway"
	// NATTableName is the name of the tables of families ip and ip6: older kernels have no NAT in
	// inet.
	NATTableName = "terway-nat"
	// PolicyTableName is the nftables table, of family inet, that drops what pods may not send to
	// their node.
	PolicyTableName = "terway-policy"

	// PriorityUnknown and PriorityDenied are the priorities (SO_PRIORITY) by which programs tell that
	// table a packet that nothing is known to allow, and one on a connection that its policies end
	// (PRIORITY_UNKNOWN and PRIORITY_DENIED in bpf/judge.h). "tw" in ASCII, then a number.
	PriorityUnknown = 0x7477000c
	PriorityDenied  = 0x7477000d

	// KubeIPVS is the device that has the addresses of Services where kube-proxy uses IPVS.
	KubeIPVS = "kube-ipvs0"
)

// The pods' next hops. Nothing answers ARP or ND for them: they are permanent neighbours. Gateway4
// is also added to each ENI device with scope host, so a pod can ping it.
var (
	Gateway4 = netip.MustParseAddr("169.254.1.1")
	Gateway6 = netip.MustParseAddr("fe80::1")
)

// MarkOf returns the mark of packets that leave by the ENI in a slot.
func MarkOf(slot int) uint32 { return uint32(slot) << MarkShift }

// GatewayFor returns a pod's next hop for an address's family.
func GatewayFor(a netip.Addr) netip.Addr {
	if a.Is4() {
		return Gateway4
	}
	return Gateway6
}
