package sctp

import (
	"io"
	"net/netip"
	"syscall"
	"time"
)

// kernelHasSCTP says whether the kernel has sockets of SCTP. If it has none, the call fails with
// EPROTONOSUPPORT.
func kernelHasSCTP() bool {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, protocol)
	if err != nil {
		return false
	}
	syscall.Close(fd)
	return true
}

// kernelSocket is a socket of one-to-one style, which is used like one of TCP.
type kernelSocket struct {
	fd     int
	remote netip.AddrPort
}

func newKernelSocket(family netip.Addr) (int, error) {
	domain := syscall.AF_INET
	if family.Is6() {
		domain = syscall.AF_INET6
	}
	return syscall.Socket(domain, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, protocol)
}

func sockaddr(a netip.AddrPort) syscall.Sockaddr {
	if a.Addr().Is6() {
		return &syscall.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
	}
	return &syscall.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

func dialKernel(to netip.AddrPort) (association, error) {
	fd, err := newKernelSocket(to.Addr())
	if err != nil {
		return nil, err
	}
	if err := syscall.Connect(fd, sockaddr(to)); err != nil {
		syscall.Close(fd)
		return nil, err
	}
	return &kernelSocket{fd: fd, remote: to}, nil
}

func listenKernel(at netip.AddrPort) (acceptor, error) {
	fd, err := newKernelSocket(at.Addr())
	if err != nil {
		return nil, err
	}
	if err := syscall.Bind(fd, sockaddr(at)); err != nil {
		syscall.Close(fd)
		return nil, err
	}
	if err := syscall.Listen(fd, 128); err != nil {
		syscall.Close(fd)
		return nil, err
	}
	return &kernelSocket{fd: fd}, nil
}

func (k *kernelSocket) accept() (association, error) {
	fd, from, err := syscall.Accept4(k.fd, syscall.SOCK_CLOEXEC)
	if err != nil {
		return nil, err
	}
	s := &kernelSocket{fd: fd}
	switch a := from.(type) {
	case *syscall.SockaddrInet4:
		s.remote = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *syscall.SockaddrInet6:
		s.remote = netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return s, nil
}

func (k *kernelSocket) Read(b []byte) (int, error) {
	for {
		n, err := syscall.Read(k.fd, b)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return 0, err
		case n == 0 && len(b) > 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

func (k *kernelSocket) Write(b []byte) (int, error) { return syscall.Write(k.fd, b) }

func (k *kernelSocket) Close() error { return syscall.Close(k.fd) }

func (k *kernelSocket) setReadDeadline(t time.Time) error {
	var left syscall.Timeval // zero: no limit
	if !t.IsZero() {
		left = syscall.NsecToTimeval(max(time.Until(t), time.Microsecond).Nanoseconds())
	}
	return syscall.SetsockoptTimeval(k.fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &left)
}

func (k *kernelSocket) peer() netip.AddrPort { return k.remote }
