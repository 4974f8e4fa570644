package instruments

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/kernel"
)

// vpcMAC is the virtual MAC with which a VPC answers ARP for every address.
var vpcMAC = net.HardwareAddr{0xee, 0xff, 0xff, 0xff, 0xff, 0xff}

// UDPFrame returns an Ethernet frame with an empty UDP datagram.
func UDPFrame(mac net.HardwareAddr, src, dst netip.Addr, port uint16) []byte {
	b := append(append([]byte{}, vpcMAC...), mac...)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IP)
	ip := make([]byte, 20)
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], 28)
	s, d := src.As4(), dst.As4()
	copy(ip[12:], s[:])
	copy(ip[16:], d[:])
	sum := uint32(0)
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum))
	b = append(b, ip...)
	b = binary.BigEndian.AppendUint16(b, 40000) // source port
	b = binary.BigEndian.AppendUint16(b, port)
	b = binary.BigEndian.AppendUint16(b, 8) // length
	return binary.BigEndian.AppendUint16(b, 0)
}

// SendFrame sends a raw frame on a device of a network namespace, past the programs at the device.
func SendFrame(path string, dev netlink.LinkAttrs, frame []byte) error {
	return kernel.InNSAt(path, func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open a packet socket: %w", err)
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
			return fmt.Errorf("set PACKET_QDISC_BYPASS: %w", err)
		}
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: dev.Index}); err != nil {
			return fmt.Errorf("send on %s: %w", dev.Name, err)
		}
		return nil
	})
}
