package claims

import (
	"crypto/sha1"
	"encoding/hex"
	"net"
	"regexp"
)

const (
	// DevicePrefix begins the name of each device that Terway creates on the node: the node's ends
	// of pods' devices (HostIfName) and the devices by which the host stack receives for pods
	// (ReceiverName). No ENI's device has such a name.
	DevicePrefix = "tw"
	// receiverPrefix distinguishes receivers from pods' devices: "v" is no hex digit.
	receiverPrefix = DevicePrefix + "v"
	// ProgramPrefix begins the names of eBPF programs. A tc filter with one of our priorities and
	// another name is not Terway's.
	ProgramPrefix = "tw_"
	// AliasPrefix begins the alias of a pod's device, before the pod's name.
	AliasPrefix = "pod "

	// ExclusiveIfName is the pod's end of the veth of a pod with an exclusive ENI, whose eth0 is
	// the ENI. Other versions of Terway use the same name.
	ExclusiveIfName = "veth1"

	// ShaperIngress and ShaperEgress are devices (ifb) in a pod, by which the packets that it gets or
	// sends by several devices share one bandwidth limit.
	ShaperIngress = "tw-ingress"
	ShaperEgress  = "tw-egress"
)

var (
	hostIfPattern   = regexp.MustCompile(`^` + DevicePrefix + `[0-9a-f]{11}$`)
	receiverPattern = regexp.MustCompile(`^` + receiverPrefix + `[0-9a-f]{10}$`)
)

// HostIfName returns the name of the node's end of a pod's devices. It depends on the pod's key
// alone, so every object of a pod can be found without stored state.
func HostIfName(sandbox, ifName string) string {
	sum := sha1.Sum([]byte(sandbox + "/" + ifName))
	return DevicePrefix + hex.EncodeToString(sum[:])[:11]
}

// IsPodDeviceName reports whether a name has the form of HostIfName.
func IsPodDeviceName(name string) bool { return hostIfPattern.MatchString(name) }

// ReceiverName returns the name of the device by which the host stack receives packets for pods of
// the ENI with this MAC.
func ReceiverName(eni net.HardwareAddr) string {
	sum := sha1.Sum(eni)
	return receiverPrefix + hex.EncodeToString(sum[:])[:10]
}

// IsReceiverName reports whether a name has the form of ReceiverName.
func IsReceiverName(name string) bool { return receiverPattern.MatchString(name) }

// HostMAC and PodMAC return the MACs of the two ends of a pod's veth, derived from the name of the
// node's end (HostIfName), nil for another name. So both ends can be distinguished from devices of
// others, neighbours can be written before the devices exist, and udev's MACAddressPolicy keeps the
// MACs because they are set explicitly. Both are locally administered unicast addresses.
func HostMAC(name string) net.HardwareAddr { return macFrom(0x0a, name) }

// PodMAC is described at HostMAC.
func PodMAC(name string) net.HardwareAddr { return macFrom(0x0e, name) }

func macFrom(first byte, name string) net.HardwareAddr {
	mac := net.HardwareAddr{first, 0, 0, 0, 0, 0}
	// HostIfName has at least ten hex digits after the prefix.
	if _, err := hex.Decode(mac[1:], []byte(name[2:12])); err != nil {
		return nil
	}
	return mac
}
