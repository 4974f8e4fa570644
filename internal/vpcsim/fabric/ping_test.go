package fabric_test

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/kernel"
)

// An echo request as a guest's ping sends it.
type echo struct {
	source       netip.Addr
	size, ttl    int
	dontFragment bool
}

type reply struct {
	ttl int
	err error
}

func from(a string) func(*echo) { return func(e *echo) { e.source = netip.MustParseAddr(a) } }
func size(n int) func(*echo)    { return func(e *echo) { e.size = n } }
func ttl(n int) func(*echo)     { return func(e *echo) { e.ttl = n } }
func dontFragment(e *echo)      { e.dontFragment = true }

// ping sends one echo request from instance n and waits for its reply.
func (w *world) ping(n int, to string, options ...func(*echo)) (got reply) {
	w.t.Helper()
	e := echo{size: 56}
	for _, o := range options {
		o(&e)
	}
	err := kernel.InNSAt(w.ns(n), func() error {
		var err error
		got, err = e.send(netip.MustParseAddr(to))
		return err
	})
	if err != nil {
		got.err = err
	}
	return got
}

// mustPing retries: a guest's kernel applies a new IPv6 address, and a new carrier,
// asynchronously.
func (w *world) mustPing(n int, to string, options ...func(*echo)) {
	w.t.Helper()
	var r reply
	for range 8 {
		if r = w.ping(n, to, options...); r.err == nil {
			return
		}
	}
	all, err := w.f.Counters()
	w.t.Fatalf("i-%d does not reach %s: %v\n%+v %v", n, to, r.err, all, err)
}

func (w *world) mustNotPing(n int, to string, options ...func(*echo)) {
	w.t.Helper()
	if r := w.ping(n, to, options...); r.err == nil {
		w.t.Fatalf("i-%d reaches %s", n, to)
	}
}

func (e *echo) send(to netip.Addr) (reply, error) {
	domain, proto, request, answer, header := unix.AF_INET, unix.IPPROTO_ICMP, byte(8), byte(0), 20
	if to.Is6() {
		domain, proto, request, answer, header = unix.AF_INET6, unix.IPPROTO_ICMPV6, 128, 129, 0
	}
	s, err := unix.Socket(domain, unix.SOCK_RAW, proto)
	if err != nil {
		return reply{}, err
	}
	defer unix.Close(s)
	if e.source.IsValid() {
		if err := unix.Bind(s, sockaddr(e.source)); err != nil {
			return reply{}, err
		}
	}
	timeout := unix.Timeval{Usec: 700_000}
	err = errors.Join(
		unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
		unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
	)
	if to.Is4() {
		discover := unix.IP_PMTUDISC_DONT
		if e.dontFragment {
			discover = unix.IP_PMTUDISC_DO
		}
		err = errors.Join(err, unix.SetsockoptInt(s, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, discover))
		if e.ttl != 0 {
			err = errors.Join(err, unix.SetsockoptInt(s, unix.IPPROTO_IP, unix.IP_TTL, e.ttl))
		}
	}
	if err != nil {
		return reply{}, err
	}
	message := make([]byte, 8+e.size)
	message[0] = request
	id := uint16(s)<<8 | 0x5a
	binary.BigEndian.PutUint16(message[4:], id)
	if to.Is4() { // the kernel fills ICMPv6's in
		binary.BigEndian.PutUint16(message[2:], checksum(message))
	}
	if err := unix.Sendto(s, message, 0, sockaddr(to)); err != nil {
		return reply{}, err
	}
	buf := make([]byte, 65536)
	for {
		n, _, err := unix.Recvfrom(s, buf, 0)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return reply{}, err
		}
		if n < header+8 || buf[header] != answer || binary.BigEndian.Uint16(buf[header+4:]) != id {
			continue
		}
		return reply{ttl: int(buf[8])}, nil
	}
}

func sockaddr(a netip.Addr) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Addr: a.As16()}
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// sendFrame sends a raw frame from instance n's eth0.
func (w *world) sendFrame(n int, frame []byte) {
	w.t.Helper()
	err := kernel.InNSAt(w.ns(n), func() error {
		s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		index, err := ifindex(s, "eth0")
		if err != nil {
			return err
		}
		return unix.Sendto(s, frame, 0, &unix.SockaddrLinklayer{Ifindex: index, Halen: 6})
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func ifindex(s int, name string) (int, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, err
	}
	return int(ifr.Uint32()), nil
}

// gratuitousARP returns a gratuitous ARP for an address with a MAC.
func gratuitousARP(mac []byte, address string) []byte {
	ip := netip.MustParseAddr(address).As4()
	frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac...)
	frame = append(frame, 0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1)
	frame = append(append(frame, mac...), ip[:]...)
	frame = append(frame, 0, 0, 0, 0, 0, 0)
	return append(frame, ip[:]...)
}

// tagged adds an 802.1Q tag to a frame.
func tagged(frame []byte, vlan uint16) []byte {
	out := append([]byte{}, frame[:12]...)
	out = append(out, 0x81, 0, byte(vlan>>8), byte(vlan))
	return append(out, frame[12:]...)
}
