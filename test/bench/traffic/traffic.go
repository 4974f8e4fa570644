// Package traffic measures a path between two network namespaces: throughput, latency and CPU
// cost.
//
// It uses blocking system calls, each end on a thread of its own, like iperf3 and netperf, so
// no result includes Go's network poller. Its caller sets GOMAXPROCS high enough for all these
// threads (Threads).
//
// Only benchmarks import it. It never changes a namespace.
package traffic

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/testutil"
)

// Threads is the maximum number of blocking threads in a measurement.
const Threads = 2*8 + 2

// Path is a path between two namespaces.
type Path struct {
	Client, Server *testutil.NS
	// Address is the server's address.
	Address netip.Addr
	// Service is the address that the client uses, if it is not the server's: each of its ports
	// leads to the same port of the server.
	Service netip.Addr
	// Peers are addresses of the server, of which Connections calls one at random each time;
	// Sources are addresses of the client, of which it calls from one at random. None: one each,
	// Address and the client's usual one.
	Peers, Sources []netip.Addr
	// Congestion is the algorithm of TCP's congestion control at both ends of streams and round
	// trips; empty: the kernel's usual one.
	Congestion string
}

// by returns the address that the client uses for a server socket.
func (p Path) by(at netip.AddrPort) netip.AddrPort {
	if p.Service.IsValid() {
		return netip.AddrPortFrom(p.Service, at.Port())
	}
	return at
}

// warmUp is how long traffic flows before the measurement.
const warmUp = 50 * time.Millisecond

// Throughput is the result of Stream.
type Throughput struct {
	// Bits per second.
	Bits float64
	// CPU is the CPU time of the whole machine for a Gbit, in seconds.
	CPU float64
}

// Stream sends over a number of TCP connections at once.
func (p Path) Stream(streams int, window time.Duration) (out Throughput, err error) {
	l, err := p.Streams(streams)
	if err != nil {
		return out, err
	}
	defer l.Stop()
	n, took, busy, err := l.measure(window)
	if err != nil {
		return out, err
	}
	if n == 0 {
		return out, fmt.Errorf("%d streams from %s to %s: nothing arrived in %v", streams, p.Client.Name, p.Address, took)
	}
	bits := float64(n) * 8
	return Throughput{Bits: bits / took.Seconds(), CPU: busy.Seconds() / (bits / 1e9)}, nil
}

// Latency is the time from a request of one byte to its answer of one byte.
type Latency struct{ P50, P99 time.Duration }

// RoundTrips sends requests and answers over one TCP connection, one after the other.
func (p Path) RoundTrips(window time.Duration) (out Latency, err error) {
	c, err := p.dial()
	if err != nil {
		return out, err
	}
	var wg sync.WaitGroup
	defer func() {
		c.hangUp()
		wg.Wait()
		c.close()
	}()
	wg.Go(func() {
		onCPU(serverCPU)
		atOnce()
		b := make([]byte, 1)
		for {
			if n, err := read(c.server, b); n == 0 || err != nil {
				return
			}
			if _, err := write(c.server, b); err != nil {
				return
			}
		}
	})
	took := make([]time.Duration, 0, 1<<17)
	failed := make(chan error, 1)
	go func() {
		onCPU(clientCPU)
		atOnce()
		failed <- func() error {
			b := make([]byte, 1)
			began := time.Now()
			for now := began; now.Sub(began) < warmUp+window; {
				if _, err := write(c.client, b); err != nil {
					return err
				}
				if n, err := read(c.client, b); n == 0 || err != nil {
					return fmt.Errorf("read %d bytes: %w", n, err)
				}
				then := time.Now()
				if then.Sub(began) > warmUp {
					took = append(took, then.Sub(now))
				}
				now = then
			}
			return nil
		}()
	}()
	if err := <-failed; err != nil {
		return out, fmt.Errorf("round trips from %s to %s: %w", p.Client.Name, p.Address, err)
	}
	if len(took) == 0 {
		return out, fmt.Errorf("round trips from %s to %s: none in %v", p.Client.Name, p.Address, window)
	}
	slices.Sort(took)
	return Latency{P50: took[len(took)/2], P99: took[len(took)*99/100]}, nil
}

// PacketSize is the payload of a small packet.
const PacketSize = 64

// Rate is the result of Packets.
type Rate struct {
	// PerSecond is how many packets arrive in a second.
	PerSecond float64
	// CPU is the CPU time of the whole machine for one of them, in seconds.
	CPU float64
}

// Packets sends small UDP datagrams as fast as one thread can.
func (p Path) Packets(window time.Duration) (Rate, error) { return p.packets(window, false) }

// EstablishedPackets does the same after the server has answered a first datagram, so that all
// belong to a connection that both ends know.
func (p Path) EstablishedPackets(window time.Duration) (Rate, error) { return p.packets(window, true) }

func (p Path) packets(window time.Duration, answer bool) (out Rate, err error) {
	l, err := p.datagrams(PacketSize, 0, answer)
	if err != nil {
		return out, err
	}
	defer l.Stop()
	n, took, busy, err := l.measure(window)
	if err != nil {
		return out, err
	}
	n /= PacketSize
	if n == 0 {
		return out, fmt.Errorf("small packets from %s to %s: none arrived in %v", p.Client.Name, p.Address, took)
	}
	return Rate{PerSecond: float64(n) / took.Seconds(), CPU: busy.Seconds() / float64(n)}, nil
}

// Connections returns how many TCP connections per second are opened, used for one byte in each
// direction, and closed, one after the other. The client closes with a reset, so that no ports
// wait and the next run finds no full tables.
func (p Path) Connections(window time.Duration) (float64, error) {
	address := p.Address
	if len(p.Peers) > 0 {
		address = netip.IPv4Unspecified()
	}
	l, at, err := listen(p.Server, address)
	if err != nil {
		return 0, err
	}
	var wg sync.WaitGroup
	defer func() {
		_ = unix.Shutdown(l, unix.SHUT_RDWR)
		wg.Wait()
		unix.Close(l)
	}()
	wg.Go(func() {
		onCPU(serverCPU)
		atOnce()
		b := make([]byte, 1)
		for {
			conn, err := accept(l)
			if err != nil {
				return
			}
			if n, _ := read(conn, b); n == 1 {
				_, _ = write(conn, b)
			}
			unix.Close(conn)
		}
	})
	n := 0
	var took time.Duration
	err = p.Client.Do(func() error {
		onCPU(clientCPU)
		atOnce()
		start := time.Now()
		for began, warm := start, false; time.Since(began) < warmUp+window; n++ {
			if !warm && time.Since(began) > warmUp {
				start, n, warm = time.Now(), 0, true
			}
			to, from := p.by(at), netip.Addr{}
			if k := len(p.Peers); k > 0 {
				to = netip.AddrPortFrom(p.Peers[rand.IntN(k)], at.Port())
			}
			if k := len(p.Sources); k > 0 {
				from = p.Sources[rand.IntN(k)]
			}
			if err := once(to, from); err != nil {
				return err
			}
		}
		took = time.Since(start)
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("connections from %s to %s: %w", p.Client.Name, p.Address, err)
	}
	return float64(n) / took.Seconds(), nil
}

func once(to netip.AddrPort, from netip.Addr) error {
	fd, err := connect(to, unix.SOCK_STREAM, from)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return fmt.Errorf("close with a reset: %w", err)
	}
	b := make([]byte, 1)
	if _, err := write(fd, b); err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	if n, err := read(fd, b); n == 0 || err != nil {
		return fmt.Errorf("answer of %d bytes: %w", n, err)
	}
	return nil
}
