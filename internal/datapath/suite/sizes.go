package suite

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/suite/world"
)

// A router in the VPC that cannot forward a large packet sends an ICMP error to the pod.
func fragmentationNeededReachesThePod(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 2, 1)
	n0, n1 := w.Nodes[0], w.Nodes[1]
	n0.Sync()
	n1.Sync()
	a, b := n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	w.Fabric.IP(fmt.Sprintf("route replace %s dev %s mtu 1300", b.V4, n1.Port(1)))
	w.Fabric.IP(fmt.Sprintf("-6 route replace %s dev %s mtu 1300", b.V6, n1.Port(1)))
	for _, to := range []netip.Addr{b.V4, b.V6} {
		t.Run(to.String(), func(t *testing.T) {
			conn, err := a.Dial("udp", "", world.At(to, 9), world.Patience)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			world.SetOption(t, conn, to.Is4(), unix.IP_MTU_DISCOVER, unix.IPV6_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
			world.Fails(t, conn, 1400, unix.EMSGSIZE)
		})
	}
}

func eniMTU(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Desired.ENIs[0].MTU = 1400
	n.Sync()
	p := n.AddPod(1)
	if p.Wiring.MTU != 1400 || !strings.Contains(p.IP("link show eth0"), "mtu 1400") || !strings.Contains(n.IP("link show eth1"), "mtu 1400") {
		t.Errorf("MTU of the wiring is %d, want 1400 everywhere", p.Wiring.MTU)
	}
	n.Desired.ENIs[0].MTU = 1450
	// Devices that are stacked on the ENI follow it by themselves.
	if repairs := n.Sync(p); len(repairs) == 0 || len(repairs) < 3 && !k.GoesWithENI {
		t.Errorf("repairs %q, want one for the ENI and one for each end at least", repairs)
	}
	if !strings.Contains(p.IP("link show eth0"), "mtu 1450") {
		t.Error("the pod's MTU did not follow")
	}
}
