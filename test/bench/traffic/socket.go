package traffic

import (
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/testutil"
)

// patience limits a system call; after it the path counts as broken.
const patience = 3 * time.Second

// onCPU binds the calling goroutine's thread to one processor, with a higher priority than
// other work. Clients run on the first, servers on the second processor, like two machines:
// without this the scheduler moves them, and the results vary at random.
func onCPU(cpu int) {
	runtime.LockOSThread() // stays locked: the thread ends with the goroutine
	var set unix.CPUSet
	set.Set(cpu % runtime.NumCPU())
	// Without permission the results are noisier, not wrong.
	_ = unix.SchedSetaffinity(0, &set)
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, priority)
}

// priority is the nice value of the measuring threads.
const priority = -10

// atOnce gives the calling goroutine's thread, which sleeps most of the time, a realtime
// priority (sched(7): SCHED_RR), so that latency does not include other programs. A thread that
// never sleeps must not have it: it would keep the kernel's own threads from running.
func atOnce() {
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: 1}, 0)
}

const (
	clientCPU = 0
	serverCPU = 1
)

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// socket opens a blocking socket in the thread's namespace.
func socket(a netip.Addr, kind int) (int, error) {
	family := unix.AF_INET6
	if a.Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open a socket: %w", err)
	}
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	for _, which := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, which, &limit); err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("bound the socket's patience: %w", err)
		}
	}
	return fd, nil
}

// bound opens a socket with a port that the kernel chooses.
func bound(ns *testutil.NS, a netip.Addr, kind int) (fd int, at netip.AddrPort, err error) {
	err = ns.Do(func() error {
		if fd, err = socket(a, kind); err != nil {
			return err
		}
		if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(a, 0))); err != nil {
			return fmt.Errorf("bind to %s: %w", a, err)
		}
		own, err := unix.Getsockname(fd)
		if err != nil {
			return fmt.Errorf("ask for the port: %w", err)
		}
		switch own := own.(type) {
		case *unix.SockaddrInet4:
			at = netip.AddrPortFrom(a, uint16(own.Port))
		case *unix.SockaddrInet6:
			at = netip.AddrPortFrom(a, uint16(own.Port))
		}
		return nil
	})
	if err != nil {
		return -1, at, fmt.Errorf("in %s: %w", ns.Name, err)
	}
	return fd, at, nil
}

func listen(ns *testutil.NS, a netip.Addr) (int, netip.AddrPort, error) {
	fd, at, err := bound(ns, a, unix.SOCK_STREAM)
	if err == nil {
		err = unix.Listen(fd, 128)
	}
	if err != nil {
		return -1, at, fmt.Errorf("listen on %s: %w", a, err)
	}
	return fd, at, nil
}

// connect opens a connected socket in the thread's namespace, with an address of its own if from
// is not the zero Addr.
func connect(to netip.AddrPort, kind int, from netip.Addr) (int, error) {
	fd, err := socket(to.Addr(), kind)
	if err != nil {
		return -1, err
	}
	if from.IsValid() {
		// The port is chosen when the socket connects, as without an address.
		err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		if err == nil {
			err = unix.Bind(fd, sockaddr(netip.AddrPortFrom(from, 0)))
		}
		if err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("bind to %s: %w", from, err)
		}
	}
	for {
		// After a signal connect again: the kernel continues the same attempt.
		if err = unix.Connect(fd, sockaddr(to)); err != unix.EINTR {
			break
		}
	}
	if err != nil && err != unix.EISCONN {
		unix.Close(fd)
		return -1, fmt.Errorf("connect to %s: %w", to, err)
	}
	return fd, nil
}

// accept waits for a connection.
func accept(fd int) (int, error) {
	for {
		conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		return conn, err
	}
}

// pair is both ends of a TCP connection.
type pair struct{ client, server int }

func (p Path) dial() (c pair, err error) {
	l, at, err := listen(p.Server, p.Address)
	if err != nil {
		return c, err
	}
	defer unix.Close(l)
	if err := p.Client.Do(func() (err error) {
		c.client, err = connect(p.by(at), unix.SOCK_STREAM, netip.Addr{})
		return err
	}); err != nil {
		return c, fmt.Errorf("in %s: %w", p.Client.Name, err)
	}
	if c.server, err = accept(l); err != nil {
		unix.Close(c.client)
		return c, fmt.Errorf("accept on %s: %w", at, err)
	}
	for _, fd := range []int{c.client, c.server} {
		err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		if err == nil && p.Congestion != "" {
			err = unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, p.Congestion)
		}
		if err != nil {
			c.close()
			return c, fmt.Errorf("set TCP_NODELAY, and congestion control %q: %w", p.Congestion, err)
		}
	}
	return c, nil
}

// hangUp closes both ends so that blocked calls return. An end that is closed already is no
// error.
func (c pair) hangUp() {
	_ = unix.Shutdown(c.client, unix.SHUT_RDWR)
	_ = unix.Shutdown(c.server, unix.SHUT_RDWR)
}

// abort closes both ends with resets, so that nothing is sent any more.
func (c pair) abort() {
	for _, fd := range []int{c.client, c.server} {
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	c.close()
}

func (c pair) close() {
	unix.Close(c.client)
	unix.Close(c.server)
}

// read and write are the system calls, repeated after a signal of Go's scheduler.
func read(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		if err != unix.EINTR {
			return n, err
		}
	}
}

func write(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Write(fd, b)
		if err != unix.EINTR {
			return n, err
		}
	}
}
