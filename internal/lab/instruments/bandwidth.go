package instruments

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/lab"
)

// PodEnd returns a running pod as an end of connections.
func PodEnd(pod corev1.Pod) (End, error) {
	addr, err := netip.ParseAddr(pod.Status.PodIP)
	if err != nil {
		return End{}, fmt.Errorf("pod %s: %w", pod.Name, err)
	}
	netns, err := PodNetNS(pod)
	return End{NetNS: netns, Addr: addr}, err
}

// MachineEnd returns an instance as an end of connections.
func MachineEnd(m lab.Machine) End { return End{NetNS: m.NetNS, Addr: m.Address} }

// Octets are the bytes that a device has received and sent, with Ethernet headers. A packet of many segments has
// one header.
type Octets struct{ Received, Sent uint64 }

// PodOctets counts at a pod's own devices: eth0 and, if its ENI is exclusive, the one to its node. Devices through
// which its packets only make a detour do not count.
func PodOctets(netns string) (map[string]Octets, error) {
	links, err := Devices(netns)
	if err != nil {
		return nil, err
	}
	found := map[string]Octets{}
	for _, l := range links {
		a := l.Attrs()
		if a.Statistics == nil || slices.Contains([]string{"lo", claims.ShaperIngress, claims.ShaperEgress}, a.Name) {
			continue
		}
		found[a.Name] = Octets{Received: a.Statistics.RxBytes, Sent: a.Statistics.TxBytes}
	}
	return found, nil
}

// Rates are the bits per second that a pod's devices send and receive.
type Rates struct{ Sent, Received float64 }

// RatesDuring measures a pod's rates while f runs.
func RatesDuring(netns string, f func() error) (r Rates, err error) {
	before, err := PodOctets(netns)
	if err != nil {
		return r, err
	}
	began := time.Now()
	if err := f(); err != nil {
		return r, err
	}
	took := time.Since(began).Seconds()
	after, err := PodOctets(netns)
	if err != nil {
		return r, err
	}
	for name, now := range after {
		r.Sent += float64(now.Sent-before[name].Sent) * 8 / took
		r.Received += float64(now.Received-before[name].Received) * 8 / took
	}
	return r, nil
}

// EchoFor sends as fast as possible to one of Echoes for d, and reads what comes back.
func EchoFor(ctx context.Context, netns, to string, d time.Duration) error {
	conn, err := lab.DialIn(ctx, netns, "tcp", to)
	if err != nil {
		return err
	}
	defer conn.Close()
	began := time.Now()
	if err := errors.Join(conn.SetWriteDeadline(began.Add(d)), conn.SetReadDeadline(began.Add(d))); err != nil {
		return err
	}
	back := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, conn)
		back <- err
	}()
	buf := make([]byte, 128<<10)
	for err == nil {
		_, err = conn.Write(buf)
	}
	for _, err := range []error{err, <-back} {
		if timeout := net.Error(nil); !errors.As(err, &timeout) || !timeout.Timeout() {
			return fmt.Errorf("stream to %s and back: %w", to, err)
		}
	}
	return nil
}

// Datagrams of Blast: each write is one packet of many segments, which the sender's and the node's devices need not
// take apart, so that a busy machine sends more than an instance's bandwidth too.
const (
	segmentSize = 1400
	segments    = 44
	discardPort = 9
)

// Blast sends UDP datagrams as fast as possible for d, whatever becomes of them, to a port where nobody listens.
func (p Pair) Blast(ctx context.Context, d time.Duration) error {
	conn, err := lab.DialIn(ctx, p.From.NetNS, "udp", netip.AddrPortFrom(p.To.Addr, discardPort).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	raw, err := conn.(*net.UDPConn).SyscallConn()
	if err != nil {
		return err
	}
	var refused error
	if err := raw.Control(func(fd uintptr) { refused = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, segmentSize) }); err != nil || refused != nil {
		return fmt.Errorf("let the kernel cut datagrams: %w", errors.Join(err, refused))
	}
	end := time.Now().Add(d)
	if err := conn.SetWriteDeadline(end); err != nil {
		return err
	}
	buf := make([]byte, segments*segmentSize)
	for time.Now().Before(end) {
		_, err := conn.Write(buf)
		// The other end says that nobody listens; a full queue of the sender is no error either.
		if timeout := net.Error(nil); err != nil && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOBUFS) && !(errors.As(err, &timeout) && timeout.Timeout()) {
			return fmt.Errorf("send datagrams from %s to %s: %w", p.From.Addr, p.To.Addr, err)
		}
	}
	return nil
}
