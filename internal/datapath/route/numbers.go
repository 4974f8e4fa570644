package route

import (
	"crypto/sha1"
	"encoding/hex"
	"net"
	"net/netip"
	"regexp"
)

// The numbers that the datapath claims for itself on a node. Changing one needs
// a migration: what an older version made is found by these numbers.
const (
	// TableLocal holds one host route for each local pod. The ENI in slot n
	// (1…MaxENIs) has table TableLocal+n.
	TableLocal = 2100
	// MaxENIs is the number of slots; slots above it have meanings of their own.
	MaxENIs = 253

	// RulePriorityLocal finds local pods before anything else is asked, except
	// the kernel's own table of local addresses (priority 0).
	RulePriorityLocal = 500
	// RulePriorityStray stops what arrives through a secondary ENI for an address
	// no local pod has (any more): without it the packet would follow the node's
	// default route back into the VPC and could loop.
	RulePriorityStray = 550
	// RulePriorityENI sends a marked packet to the table of its ENI.
	RulePriorityENI = 600

	// Protocol is the origin that `ip rule` and `ip route` show for our objects:
	// objects without it are never touched. 84 is free in iproute2's rt_protos.
	Protocol = 84

	// MarkShift and MarkMask place the slot in the packet's mark. kube-proxy uses
	// 0x4000 and 0x8000, portmap 0x2000: they do not meet. Tailscale's mask is
	// 0x00ff0000, but it knows two values in it that no slot has; docs/datapath-route.md
	// has a table of others.
	MarkShift = 20
	MarkMask  = 0x0ff00000
	// slotStranded marks packets of a pod whose ENI is not attached: local
	// traffic goes on, the rest is answered "unreachable" at once.
	slotStranded = 254
	// slotOutside marks first packets that leave with the node's address.
	slotOutside = 255

	// ConnMarkByENI is the bit of a connection's mark that says that its first packet
	// left by its pod's ENI. Conntrack gives a connection that would look like another
	// a new source port; without the bit that could not be told from masquerade. It is
	// outside MarkMask: others restore a packet's mark from its connection's (wg-quick
	// does for all of UDP), and it must not be taken for a slot then.
	ConnMarkByENI = 0x10000000
	// ConnMarkToNode is the bit that says that a connection was made to an address of the
	// node, and was not translated by netfilter. If a pod answers it, IPVS has translated,
	// which conntrack's status does not tell.
	ConnMarkToNode = 0x20000000
	// connMarkByENIOld is what versions before had for it, with nothing else in MarkMask.
	// Connections may be older than an upgrade.
	connMarkByENIOld = 0x00100000

	// KubeProxyMasqueradeMark is the bit by which kube-proxy asks for masquerade
	// (its --iptables-masquerade-bit / nftables.masqueradeBit, default 14).
	KubeProxyMasqueradeMark = 0x4000

	// groupPod and groupDying are device groups ("tw" in ASCII, then a number).
	// The first is how nftables knows a pod's veth; a device in the second may
	// send nothing and is deleted together with all others in it.
	// groupOwn is a pod's that has an ENI of its own, and by its veth only the node and
	// Services. Without the bit ownGroupBit it is groupPod: one comparison finds both.
	groupPod    = 0x74770001
	groupDying  = 0x74770002
	groupOwn    = groupPod | ownGroupBit
	ownGroupBit = 0x100

	// OwnIfName is the pod's end of the veth if the pod has an ENI of its own, which
	// then is its eth0. Other versions of Terway call it so too.
	OwnIfName = "veth1"

	// metricUnreachable is the metric of the route that stops a packet when its
	// ENI's own route is missing, so that it cannot leave by another ENI.
	metricUnreachable = 65535

	// TableName is the nftables table, of family inet.
	TableName = "terway"
	// NATTableName are those of families ip and ip6: NAT in inet is newer than they are.
	NATTableName = "terway-nat"
)

// The pods' next hops. Nobody answers ARP or ND for them: they are permanent
// neighbours. gateway4 is also put on each ENI device with scope host (see
// ensureDevice), so a pod can ping it.
var (
	gateway4 = netip.MustParseAddr("169.254.1.1")
	gateway6 = netip.MustParseAddr("fe80::1")
)

var hostIfPattern = regexp.MustCompile(`^tw[0-9a-f]{11}$`)

// hostIfName is the node's end of a pod's veth. It is made from the pod's key
// alone, so every object of a pod is found without asking anyone.
func hostIfName(sandbox, ifName string) string {
	sum := sha1.Sum([]byte(sandbox + "/" + ifName))
	return "tw" + hex.EncodeToString(sum[:])[:11]
}

// IsPodDeviceName reports whether a name is of the form that pods' devices on the node have.
func IsPodDeviceName(name string) bool { return hostIfPattern.MatchString(name) }

// hostMAC and podMAC follow from the name of the host's end: both ends can be
// told from devices of others, neighbours can be written before the devices
// exist, and a MAC that is set explicitly is left alone by udev's
// MACAddressPolicy. Both are locally administered unicast addresses.
func hostMAC(name string) net.HardwareAddr { return macFrom(0x0a, name) }

func podMAC(name string) net.HardwareAddr { return macFrom(0x0e, name) }

func macFrom(first byte, name string) net.HardwareAddr {
	mac := net.HardwareAddr{first, 0, 0, 0, 0, 0}
	// The pattern guarantees ten hex digits after "tw".
	if _, err := hex.Decode(mac[1:], []byte(name[2:12])); err != nil {
		return nil
	}
	return mac
}

func markOf(slot int) uint32 { return uint32(slot) << MarkShift }

func gatewayFor(a netip.Addr) netip.Addr {
	if a.Is4() {
		return gateway4
	}
	return gateway6
}
