package instruments

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/netlinkx"
)

// Frame has the fields of an Ethernet frame that checks use.
type Frame struct {
	etherType uint16
	Proto     uint8 // for IPv4
	Src, Dst  netip.Addr
	DstPort   uint16 // for TCP and UDP
	length    int
}

// Between reports whether a frame is a packet between the pair, in either direction, without
// encapsulation.
func (f Frame) Between(a, b netip.Addr) bool {
	return f.Src == a && f.Dst == b || f.Src == b && f.Dst == a
}

// Tunnelled reports whether a frame encapsulates another packet: IP in IP, GRE, IPv6 in IPv4,
// or UDP to a port of VXLAN (kernel's and IANA's) or Geneve.
func (f Frame) Tunnelled() bool {
	switch f.Proto {
	case unix.IPPROTO_IPIP, unix.IPPROTO_IPV6, unix.IPPROTO_GRE:
		return true
	case unix.IPPROTO_UDP:
		return f.DstPort == 4789 || f.DstPort == 8472 || f.DstPort == 6081
	}
	return false
}

// Capture records the frames of devices of a network namespace.
type Capture struct {
	files []*os.File
	wg    sync.WaitGroup
	mu    sync.Mutex
	seen  []Frame
	errs  []error
}

// Sniff starts to record the frames of the devices, in both directions.
func Sniff(path string, devices ...string) (*Capture, error) {
	c := &Capture{}
	for _, dev := range devices {
		var f *os.File
		err := kernel.InNSAt(path, func() (err error) {
			f, err = packetSocket(dev)
			return err
		})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("capture on %s in %s: %w", dev, path, err), c.Close())
		}
		c.files = append(c.files, f)
		c.wg.Go(func() { c.read(f) })
	}
	return c, nil
}

func packetSocket(dev string) (*os.File, error) {
	ifi, err := net.InterfaceByName(dev)
	if err != nil {
		return nil, err
	}
	const all = unix.ETH_P_ALL
	bigEndian := uint16(all<<8&0xff00 | all>>8)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(bigEndian))
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian, Ifindex: ifi.Index}),
	)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "capture "+dev), nil
}

func (c *Capture) read(f *os.File) {
	buf := make([]byte, 1<<17)
	for {
		n, err := f.Read(buf)
		c.mu.Lock()
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				c.errs = append(c.errs, fmt.Errorf("%s: %w", f.Name(), err))
			}
			c.mu.Unlock()
			return
		}
		if fr, ok := parseFrame(buf[:n]); ok {
			c.seen = append(c.seen, fr)
		}
		c.mu.Unlock()
	}
}

// Stop ends the capture and returns the frames.
func (c *Capture) Stop() ([]Frame, error) {
	// Frames that were sent before now are in the sockets' queues: a reader takes them before
	// it notices its deadline, which is a moment later.
	for _, f := range c.files {
		if err := f.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			c.errs = append(c.errs, err)
		}
	}
	c.wg.Wait()
	return c.seen, errors.Join(append(c.errs, c.Close())...)
}

// Close ends a capture whose frames are not needed.
func (c *Capture) Close() error {
	var errs []error
	for _, f := range c.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// parseFrame parses an Ethernet frame's headers; ok is false for a truncated frame.
func parseFrame(b []byte) (f Frame, ok bool) {
	if len(b) < 14 {
		return f, false
	}
	f.length = len(b)
	f.etherType = binary.BigEndian.Uint16(b[12:])
	b = b[14:]
	switch f.etherType {
	case unix.ETH_P_IP:
		if len(b) < 20 || len(b) < int(b[0]&15)*4 {
			return f, false
		}
		f.Proto = b[9]
		f.Src, f.Dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		fragment := binary.BigEndian.Uint16(b[6:]) & 0x1fff
		b = b[int(b[0]&15)*4:]
		if (f.Proto == unix.IPPROTO_TCP || f.Proto == unix.IPPROTO_UDP) && fragment == 0 && len(b) >= 4 {
			f.DstPort = binary.BigEndian.Uint16(b[2:])
		}
	case unix.ETH_P_ARP:
		if len(b) >= 28 {
			f.Src, f.Dst = netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
		}
	}
	return f, true
}

// Devices returns the links of a network namespace with their counters.
func Devices(path string) ([]netlink.Link, error) {
	ns, err := netlinkx.Enter(path)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	h, err := ns.Handle()
	if err != nil {
		return nil, err
	}
	return netlinkx.List(context.Background(), "the devices in "+path, h.LinkList)
}

// enis returns a node's devices of ENIs, by name.
func enis(path string, macs map[string]bool) (map[string]netlink.LinkAttrs, error) {
	links, err := Devices(path)
	if err != nil {
		return nil, err
	}
	found := map[string]netlink.LinkAttrs{}
	for _, l := range links {
		// With ipvlan the host ends of pods have the MAC of their ENI.
		if a := l.Attrs(); macs[a.HardwareAddr.String()] && linkkind.MayBeENI(l) {
			found[a.Name] = *a
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no device in %s has the MAC of an interface of the instance", path)
	}
	return found, nil
}

// Packets returns the sum of the packets that the devices sent and received.
func Packets(devs map[string]netlink.LinkAttrs) (n uint64) {
	for _, d := range devs {
		if d.Statistics != nil {
			n += d.Statistics.RxPackets + d.Statistics.TxPackets
		}
	}
	return n
}
