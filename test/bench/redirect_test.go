//go:build bench

package bench

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/testutil"
)

// redirects are pods of ptp whose packets two programs redirect: from the pod's device to the
// ENI, and from the ENI to the pod. The programs look nothing up and keep no connections: a
// datapath with veth pairs whose programs are on the node's side cannot cost less.
const redirects = "veth with redirects alone"

// redirect attaches the programs for one pod. from is a node that the pod reaches: its first
// packet has the node learn the gateway's MAC.
func (n *node) redirect(pod *testutil.NS, address netip.Addr, from *node) {
	n.t.Helper()
	pod.Run("ping", "-c", "1", "-W", "5", from.V4.String())
	peer := 0
	err := pod.Do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err == nil {
			peer = l.Attrs().ParentIndex
		}
		return err
	})
	if err == nil {
		err = n.Do(func() error { return n.redirectBetween(peer, address) })
	}
	if err != nil {
		n.t.Fatalf("redirect the packets of %s: %v", pod.Name, err)
	}
}

func (n *node) redirectBetween(peer int, address netip.Addr) error {
	eni, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	gateway, err := gatewayMAC(eni)
	if err != nil {
		return err
	}
	index := eni.Attrs().Index
	macs := append(append(net.HardwareAddr{}, gateway...), eni.Attrs().HardwareAddr...)
	var out asm.Instructions
	for i := 0; i < len(macs); i += 4 {
		out = append(out, asm.Mov.Imm(asm.R4, int32(binary.NativeEndian.Uint32(macs[i:]))), asm.StoreMem(asm.R2, int16(i), asm.R4, asm.Word))
	}
	if err := n.attach(peer, append(out, asm.Mov.Imm(asm.R1, int32(index)), asm.Mov.Imm(asm.R2, 0), asm.FnRedirect.Call(), asm.Return())); err != nil {
		return fmt.Errorf("the pod's device: %w", err)
	}
	a := address.As4()
	if err := n.attach(index, asm.Instructions{
		asm.LoadMem(asm.R4, asm.R2, 30, asm.Word), // the destination
		asm.JNE.Imm32(asm.R4, int32(binary.NativeEndian.Uint32(a[:])), "pass"),
		asm.Mov.Imm(asm.R1, int32(peer)), asm.Mov.Imm(asm.R2, 0), asm.FnRedirectPeer.Call(), asm.Return(),
	}); err != nil {
		return fmt.Errorf("the ENI: %w", err)
	}
	return nil
}

// gatewayMAC is the MAC of the only gateway on the device.
func gatewayMAC(eni netlink.Link) (net.HardwareAddr, error) {
	for range 50 {
		list, err := netlink.NeighList(eni.Attrs().Index, unix.AF_INET)
		if err != nil {
			return nil, err
		}
		for _, e := range list {
			if len(e.HardwareAddr) == 6 {
				return e.HardwareAddr, nil
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, fmt.Errorf("%s has no neighbor entry with a MAC", eni.Attrs().Name)
}

// attach has a program at the device's ingress that does body for IPv4 packets, with R2 at the
// frame's first byte, and passes others.
func (n *node) attach(index int, body asm.Instructions) error {
	list := append(asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, 76, asm.Word), // __sk_buff.data
		asm.LoadMem(asm.R3, asm.R1, 80, asm.Word), // __sk_buff.data_end
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, 34), // Ethernet and IPv4 headers
		asm.JGT.Reg(asm.R4, asm.R3, "pass"),
		asm.LoadMem(asm.R4, asm.R2, 12, asm.Half),
		asm.JNE.Imm(asm.R4, int32(binary.NativeEndian.Uint16([]byte{0x08, 0x00})), "pass"),
	}, body...)
	list = append(list, asm.Mov.Imm(asm.R0, -1).WithSymbol("pass"), asm.Return()) // TCX_NEXT
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: list, License: "Dual BSD/GPL"})
	if err != nil {
		return err
	}
	defer p.Close()
	l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: p, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return err
	}
	n.t.Cleanup(func() {
		if err := l.Close(); err != nil {
			n.t.Error(err)
		}
	})
	return nil
}
