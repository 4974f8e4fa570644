// Package sctp lets agnhost speak SCTP on kernels without it. It has the part of the interface of
// github.com/ishidawataru/sctp that agnhost uses, and takes its place (../go.mod).
//
// Where the kernel has SCTP sockets, they are used. Else associations are made here, with
// packets that go through a raw socket: protocol 132, with the tags, sequence numbers and
// checksums of RFC 9260, so that what filters, translates and tracks packets on the way finds
// what it would with a kernel's. Left out is what a test on one network does not need: more
// than one address or stream, fragments of messages, windows and congestion control. A message
// is sent when the one before it is acknowledged, and again every 200 ms until it is.
package sctp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"time"
)

// protocol is SCTP's number in IP.
const protocol = 132

// SCTPAddr is an address and port. It has one address at most.
type SCTPAddr struct {
	IPAddrs []net.IPAddr
	Port    int
}

// Network implements net.Addr.
func (*SCTPAddr) Network() string { return "sctp" }

// String returns ADDRESS:PORT.
func (a *SCTPAddr) String() string { return a.addrPort().String() }

// addrPort returns 0.0.0.0 for no address.
func (a *SCTPAddr) addrPort() netip.AddrPort {
	ip := netip.IPv4Unspecified()
	if a != nil && len(a.IPAddrs) > 0 {
		if got, ok := netip.AddrFromSlice(a.IPAddrs[0].IP); ok {
			ip = got.Unmap().WithZone(a.IPAddrs[0].Zone)
		}
	}
	if a == nil {
		return netip.AddrPortFrom(ip, 0)
	}
	return netip.AddrPortFrom(ip, uint16(a.Port))
}

func fromAddrPort(a netip.AddrPort) *SCTPAddr {
	return &SCTPAddr{IPAddrs: []net.IPAddr{{IP: a.Addr().AsSlice(), Zone: a.Addr().Zone()}}, Port: int(a.Port())}
}

// ResolveSCTPAddr resolves HOST:PORT; an empty host is every address.
func ResolveSCTPAddr(network, address string) (*SCTPAddr, error) {
	if network != "sctp" && network != "sctp4" && network != "sctp6" {
		return nil, net.UnknownNetworkError(network)
	}
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, &net.AddrError{Err: "want a port from 0 to 65535", Addr: address}
	}
	addr := &SCTPAddr{Port: int(port)}
	if host == "" {
		return addr, nil
	}
	ip, err := net.ResolveIPAddr("ip"+network[len("sctp"):], host)
	if err != nil {
		return nil, err
	}
	addr.IPAddrs = []net.IPAddr{*ip}
	return addr, nil
}

// association is one end of an association, the kernel's or one made here.
type association interface {
	io.ReadWriteCloser
	setReadDeadline(time.Time) error
	peer() netip.AddrPort
}

// SCTPConn is one end of an association.
type SCTPConn struct{ association }

// SetReadDeadline sets the time after which Read fails; zero is never.
func (c *SCTPConn) SetReadDeadline(t time.Time) error { return c.setReadDeadline(t) }

// SCTPRemoteAddr returns the other end; the number of the association is not used, as a
// connection has one.
func (c *SCTPConn) SCTPRemoteAddr(int) (*SCTPAddr, error) { return fromAddrPort(c.peer()), nil }

// DialSCTP opens an association. The local address must be nil. It fails if the other end
// refuses, or does not answer for a minute.
func DialSCTP(network string, laddr, raddr *SCTPAddr) (*SCTPConn, error) {
	a, err := func() (association, error) {
		switch {
		case laddr != nil:
			return nil, errors.New("cannot choose the local address")
		case raddr == nil || raddr.Port == 0 || raddr.addrPort().Addr().IsUnspecified():
			return nil, errors.New("want an address and a port")
		case kernelHasSCTP():
			return dialKernel(raddr.addrPort())
		}
		return dialRaw(raddr.addrPort())
	}()
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: raddr, Err: err}
	}
	return &SCTPConn{a}, nil
}

// acceptor is what listens.
type acceptor interface {
	io.Closer
	accept() (association, error)
}

// SCTPListener accepts associations.
type SCTPListener struct {
	acceptor
	addr *SCTPAddr
}

// ListenSCTP listens on a port.
func ListenSCTP(network string, laddr *SCTPAddr) (*SCTPListener, error) {
	l, err := func() (acceptor, error) {
		switch {
		case laddr == nil || laddr.Port == 0:
			return nil, errors.New("want a port")
		case kernelHasSCTP():
			return listenKernel(laddr.addrPort())
		}
		return listenRaw(laddr.addrPort())
	}()
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: laddr, Err: err}
	}
	return &SCTPListener{acceptor: l, addr: laddr}, nil
}

// AcceptSCTP waits for the next association.
func (l *SCTPListener) AcceptSCTP() (*SCTPConn, error) {
	a, err := l.accept()
	if err != nil {
		return nil, fmt.Errorf("accept on %s: %w", l.addr, err)
	}
	return &SCTPConn{a}, nil
}
