package claims

import (
	"net"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func TestNames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := HostIfName(rapid.String().Draw(t, "sandbox"), rapid.String().Draw(t, "interface"))
		if !IsPodDeviceName(name) || len(name) >= unix.IFNAMSIZ {
			t.Fatalf("device name %q", name)
		}
		for _, mac := range []net.HardwareAddr{HostMAC(name), PodMAC(name)} {
			if len(mac) != 6 || mac[0]&1 != 0 || mac[0]&2 == 0 {
				t.Fatalf("MAC %s of %s is not a local unicast one", mac, name)
			}
		}
		if HostMAC(name).String() == PodMAC(name).String() {
			t.Fatal("both ends have one MAC")
		}
	})
}

func TestReceiverName(t *testing.T) {
	mac := []byte{0, 0x16, 0x3e, 0, 0, 1}
	name := ReceiverName(mac)
	if !IsReceiverName(name) || len(name) > 15 || name != ReceiverName(mac) {
		t.Errorf("name %q", name)
	}
	mac[5] = 2
	if name == ReceiverName(mac) {
		t.Error("two ENIs have one receiver")
	}
}

// Each device has one meaning, and the agent takes none of them for an ENI.
func TestNamesOfPodsAndReceiversDiffer(t *testing.T) {
	pod, receiver := HostIfName("sandbox", "eth0"), ReceiverName(net.HardwareAddr{0, 0x16, 0x3e, 0, 0, 1})
	for _, name := range []string{pod, receiver} {
		if !strings.HasPrefix(name, DevicePrefix) {
			t.Errorf("%s does not begin with %s", name, DevicePrefix)
		}
	}
	if IsReceiverName(pod) || IsPodDeviceName(receiver) {
		t.Errorf("%s and %s have the same form", pod, receiver)
	}
	for _, name := range []string{"eth1", "tw", "tw0", pod + "0", pod[:12], strings.ToUpper(pod), "x" + pod[1:]} {
		if IsPodDeviceName(name) || IsReceiverName(name) {
			t.Errorf("%s counts as ours", name)
		}
	}
}

// Numbers that distinguish things are different.
func TestNumbersDiffer(t *testing.T) {
	for what, list := range map[string][]int{
		"slots":                       {MaxENIs, SlotOwnENI, SlotStranded, SlotOutside},
		"rule priorities":             {RulePriorityLocal, RulePriorityStray, RulePriorityENI},
		"device groups":               {GroupPod, GroupDying, GroupExclusive},
		"priorities of tc filters":    {PrefTurn, PrefEBPF, PrefIPvlan, PrefPriority, PrefOwnENI, PrefShaping},
		"bits of a connection's mark": {ConnMarkByENI, ConnMarkToNode},
		// A packet's priority names a class by both.
		"majors of queueing disciplines": {QdiscHTB, QdiscFQCodel, QdiscFIFO, QdiscTBF, QdiscENI, QdiscENI + 1, QdiscENI + 2, QdiscENI + 3, QdiscENI + 4, QdiscENI + 5, QdiscENI + 6, PriorityUnknown >> 16},
	} {
		seen := map[int]bool{}
		for _, n := range list {
			if seen[n] {
				t.Errorf("%s: %#x occurs twice", what, n)
			}
			seen[n] = true
		}
	}
	if bits := MarkMask & (ConnMarkByENI | ConnMarkToNode | KubeProxyMasqueradeMark); bits != 0 {
		t.Errorf("bits %#x have two meanings", bits)
	}
	for _, slot := range []int{1, MaxENIs, SlotOwnENI, SlotStranded, SlotOutside} {
		if m := MarkOf(slot); m == 0 || m&^MarkMask != 0 {
			t.Errorf("slot %d: mark %#x is not within %#x", slot, m, MarkMask)
		}
	}
}
