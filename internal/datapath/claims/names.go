package claims

import (
	"crypto/sha1"
	"encoding/hex"
	"net"
	"regexp"
)

const (
	// DevicePrefix begins the name of each device that a datapath makes on the node: the
	// node's ends of pods' devices (HostIfName) and the devices by which the host stack
	// receives for pods (ReceiverName). No ENI's device is called so.
	DevicePrefix = "tw"
	// receiverPrefix keeps receivers apart from pods: "v" is no hex digit.
	receiverPrefix = DevicePrefix + "v"
	// ProgramPrefix begins the names of eBPF programs. A tc filter with one of our
	// priorities and another name is not ours.
	ProgramPrefix = "tw_"
	// AliasPrefix begins the alias of a pod's device; the pod's name follows.
	AliasPrefix = "pod "

	// ExclusiveIfName is the pod's end of the veth if the pod has an ENI of its own, which
	// then is its eth0. Other versions of Terway call it so too.
	ExclusiveIfName = "veth1"
)

var (
	hostIfPattern   = regexp.MustCompile(`^` + DevicePrefix + `[0-9a-f]{11}$`)
	receiverPattern = regexp.MustCompile(`^` + receiverPrefix + `[0-9a-f]{10}$`)
)

// HostIfName is the name of the node's end of a pod's devices. It is made from the pod's key
// alone, so every object of a pod is found without asking anyone.
func HostIfName(sandbox, ifName string) string {
	sum := sha1.Sum([]byte(sandbox + "/" + ifName))
	return DevicePrefix + hex.EncodeToString(sum[:])[:11]
}

// IsPodDeviceName reports whether a name is of the form that pods' devices on the node have.
func IsPodDeviceName(name string) bool { return hostIfPattern.MatchString(name) }

// ReceiverName is the name of the device by which the host stack receives what comes in for
// pods of the ENI with this MAC.
func ReceiverName(eni net.HardwareAddr) string {
	sum := sha1.Sum(eni)
	return receiverPrefix + hex.EncodeToString(sum[:])[:10]
}

// IsReceiverName reports whether a name is of the form that ReceiverName gives.
func IsReceiverName(name string) bool { return receiverPattern.MatchString(name) }

// HostMAC and PodMAC are the MACs of the two ends of a pod's veth. They follow from the name
// of the node's end (HostIfName), nil for another name: both ends can be told from devices of
// others, neighbours can be written before the devices exist, and a MAC that is set
// explicitly is left alone by udev's MACAddressPolicy. Both are locally administered unicast
// addresses.
func HostMAC(name string) net.HardwareAddr { return macFrom(0x0a, name) }

// PodMAC is described at HostMAC.
func PodMAC(name string) net.HardwareAddr { return macFrom(0x0e, name) }

func macFrom(first byte, name string) net.HardwareAddr {
	mac := net.HardwareAddr{first, 0, 0, 0, 0, 0}
	// HostIfName guarantees ten hex digits after the prefix.
	if _, err := hex.Decode(mac[1:], []byte(name[2:12])); err != nil {
		return nil
	}
	return mac
}
