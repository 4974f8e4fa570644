package suite

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/testutil"
)

// flooded is how many SYNs a flood has, each from another port or to another one: as many as
// a small node remembers connections.
const flooded = 131072

// syn is an IP packet that asks for a TCP connection.
func syn(from, to netip.AddrPort) []byte {
	tcp := make([]byte, 20)
	binary.BigEndian.PutUint16(tcp, from.Port())
	binary.BigEndian.PutUint16(tcp[2:], to.Port())
	tcp[12], tcp[13] = 0x50, 0x02
	binary.BigEndian.PutUint16(tcp[14:], 1000)
	pseudo := append(from.Addr().AsSlice(), to.Addr().AsSlice()...)
	pseudo = binary.BigEndian.AppendUint16(append(pseudo, 0, unix.IPPROTO_TCP), uint16(len(tcp)))
	binary.BigEndian.PutUint16(tcp[16:], sum(append(pseudo, tcp...)))
	ip := make([]byte, 20)
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(tcp)))
	copy(ip[12:], from.Addr().AsSlice())
	copy(ip[16:], to.Addr().AsSlice())
	binary.BigEndian.PutUint16(ip[10:], sum(ip))
	return append(ip, tcp...)
}

// flood sends SYNs for two ports on which nobody listens, as fast as it can, by a namespace's
// eth0.
func flood(t testing.TB, ns *testutil.NS, gateway net.HardwareAddr, from, to netip.Addr) {
	t.Helper()
	if err := ns.Do(func() error {
		device, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		header := make([]byte, 12) // pairs without MACs have zeros
		copy(header, gateway)
		copy(header[6:], device.HardwareAddr)
		header = binary.BigEndian.AppendUint16(header, unix.ETH_P_IP)
		const ip = unix.ETH_P_IP>>8 | unix.ETH_P_IP&0xff<<8 // network byte order
		at := &unix.SockaddrLinklayer{Protocol: ip, Ifindex: device.Index, Halen: 6}
		for i := range flooded {
			packet := syn(netip.AddrPortFrom(from, uint16(i)), netip.AddrPortFrom(to, uint16(81+i>>16)))
			if err := unix.Sendto(fd, append(header, packet...), 0, at); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatalf("flood %s from %s: %v", to, ns.Name, err)
	}
}

// macOf is the MAC of a namespace's device.
func macOf(t testing.TB, ns *testutil.NS, device string) net.HardwareAddr {
	t.Helper()
	words := strings.Fields(ns.IP("link show dev " + device))
	for i, word := range words[:len(words)-1] {
		if word == "link/ether" {
			mac, err := net.ParseMAC(words[i+1])
			if err != nil {
				t.Fatal(err)
			}
			return mac
		}
	}
	t.Fatalf("device %s of %s has no MAC: %q", device, ns.Name, words)
	return nil
}

// SYNs that nobody answers, from wherever, cost no connection of others a moment: neither
// one that was opened just now nor one that connection tracking has forgotten, and also where
// kube-proxy drops what is invalid to it.
func floodStallsNobody(t *testing.T, k Kit) {
	for _, strict := range []bool{false, true} {
		t.Run(fmt.Sprintf("invalid packets are dropped: %v", strict), func(t *testing.T) {
			w, n0, n1 := servicesWorld(t, k)
			for _, n := range w.Nodes {
				n.NFT("table inet k { chain f { type filter hook forward priority 0; ct state new accept; }; }")
				if strict {
					n.NFT("add rule inet k f ct state invalid drop")
				}
			}
			a, near, far := n0.AddPod(1, "4", "6"), n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
			bystander := n0.AddPod(1)
			for _, p := range []*Pod{a, near, far} {
				p.Echo(7)
			}
			open := func() (list []net.Conn) {
				t.Helper()
				for _, c := range []struct {
					from    *testutil.NS
					network string
					to      string
				}{
					{a.NS, "tcp", At(near.V4, 7)}, {a.NS, "tcp", At(far.V4, 7)}, {a.NS, "tcp", At(near.V6, 7)}, {a.NS, "tcp", At(far.V6, 7)},
					{far.NS, "tcp", At(a.V4, 7)}, {w.Outside, "tcp", At(a.V4, 7)}, {a.NS, "udp", At(near.V4, 7)}, {a.NS, "udp", At(far.V4, 7)},
				} {
					conn, err := c.from.Dial(c.network, "", c.to, Patience)
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { _ = conn.Close() })
					list = append(list, conn)
					for range 3 {
						exchanged(t, conn, "before any flood")
					}
				}
				return list
			}
			old := open()
			for _, n := range w.Nodes {
				n.Forget()
			}
			for _, f := range []struct {
				name    string
				ns      *testutil.NS
				gateway net.HardwareAddr
				from    netip.Addr
				to      netip.Addr
			}{
				{"from outside", w.Outside, macOf(t, w.Fabric, "outside"), netip.MustParseAddr(OutsideV4), bystander.V4},
				{"from a pod to a pod of its node", bystander.NS, bystander.Wiring.HostMAC, bystander.V4, near.V4},
				{"from a pod to one of another node", bystander.NS, bystander.Wiring.HostMAC, bystander.V4, far.V4},
			} {
				young := open()
				flood(t, f.ns, f.gateway, f.from, f.to)
				for _, conn := range append(young, old...) {
					exchanged(t, conn, "after a flood "+f.name)
				}
			}
		})
	}
}

// exchanged is one exchange with an echo.
func exchanged(t testing.TB, conn net.Conn, when string) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(Patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("ping")); err != nil {
		t.Errorf("%s: %s → %s: %v", when, conn.LocalAddr(), conn.RemoteAddr(), err)
		return
	}
	if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
		t.Errorf("%s: %s → %s: %v", when, conn.LocalAddr(), conn.RemoteAddr(), err)
	}
}
