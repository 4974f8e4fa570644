package traffic

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Load is traffic that flows until it is stopped.
type Load struct {
	received atomic.Int64
	sent     atomic.Int64
	done     atomic.Bool
	threads  sync.WaitGroup
	// end makes blocked threads return, free closes what they used.
	end, free func()
}

// Received returns how many bytes of payload have arrived so far.
func (l *Load) Received() int64 { return l.received.Load() }

// Sent returns how many bytes of payload datagrams had that were sent so far, whether or not the kernel took them.
func (l *Load) Sent() int64 { return l.sent.Load() }

// Stop ends the traffic. What is not sent yet is not sent any more.
func (l *Load) Stop() {
	l.done.Store(true)
	l.end()
	l.threads.Wait()
	l.free()
}

// measure returns what arrives in a window, after the traffic has warmed up, and the processor time of the
// whole machine in it.
func (l *Load) measure(window time.Duration) (n int64, took, busy time.Duration, err error) {
	time.Sleep(warmUp)
	before, err := machineTime()
	if err != nil {
		return 0, 0, 0, err
	}
	n, took = count(&l.received, window)
	after, err := machineTime()
	return n, took, after - before, err
}

// count returns how much a counter grows in the window. On a busy machine the window may pass
// before traffic starts; then it is extended.
func count(c *atomic.Int64, window time.Duration) (n int64, took time.Duration) {
	start, before := time.Now(), c.Load()
	time.Sleep(window)
	for c.Load() == before && time.Since(start) < window+patience {
		time.Sleep(window / 4)
	}
	return c.Load() - before, time.Since(start)
}

// Streams sends over a number of TCP connections at once, as fast as they can.
func (p Path) Streams(streams int) (*Load, error) {
	var pairs []pair
	l := &Load{
		end: func() {
			for _, c := range pairs {
				c.hangUp()
			}
		},
		free: func() {
			for _, c := range pairs {
				c.abort()
			}
		},
	}
	for range streams {
		c, err := p.dial()
		if err != nil {
			l.Stop()
			return nil, err
		}
		pairs = append(pairs, c)
	}
	for _, c := range pairs {
		l.threads.Go(func() {
			onCPU(clientCPU)
			b := make([]byte, 256<<10)
			for {
				if _, err := write(c.client, b); err != nil && err != unix.EAGAIN { // patience: with a low limit all is full for long
					return // hung up
				}
			}
		})
		l.threads.Go(func() {
			onCPU(serverCPU)
			b := make([]byte, 256<<10)
			for {
				n, err := read(c.server, b)
				if err == unix.EAGAIN {
					continue
				}
				if n == 0 || err != nil {
					return
				}
				l.received.Add(int64(n))
			}
		})
	}
	return l, nil
}

// Datagrams sends UDP datagrams with a payload of so many bytes at a rate, whatever happens to them.
func (p Path) Datagrams(size int, perSecond float64) (*Load, error) {
	return p.datagrams(size, perSecond, false)
}

// datagrams sends them as fast as one thread can if the rate is 0. answer: after the server has
// answered a first one.
func (p Path) datagrams(size int, perSecond float64, answer bool) (_ *Load, err error) {
	server, at, err := bound(p.Server, p.Address, unix.SOCK_DGRAM)
	if err != nil {
		return nil, err
	}
	client := -1
	l := &Load{end: func() {}, free: func() {
		unix.Close(server)
		if client >= 0 {
			unix.Close(client)
		}
	}}
	defer func() {
		if err != nil {
			l.free()
		}
	}()
	if err := unix.SetsockoptInt(server, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20); err != nil {
		return nil, fmt.Errorf("enlarge the receive buffer: %w", err)
	}
	if err := p.Client.Do(func() (err error) {
		client, err = connect(p.by(at), unix.SOCK_DGRAM, netip.Addr{})
		return err
	}); err != nil {
		return nil, fmt.Errorf("in %s: %w", p.Client.Name, err)
	}
	if answer {
		if err := exchange(client, server); err != nil {
			return nil, fmt.Errorf("a first packet from %s to %s: %w", p.Client.Name, p.Address, err)
		}
	}
	// The receiver checks for the end regularly: UDP sockets have no hang-up.
	short := unix.NsecToTimeval((20 * time.Millisecond).Nanoseconds())
	if err := unix.SetsockoptTimeval(server, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &short); err != nil {
		return nil, fmt.Errorf("bound the receiver's patience: %w", err)
	}
	l.threads.Go(func() {
		onCPU(clientCPU)
		l.send(client, make([]byte, size), perSecond)
	})
	l.threads.Go(func() {
		onCPU(serverCPU)
		b := make([]byte, 2*size)
		for !l.done.Load() {
			if n, _ := read(server, b); n == size {
				l.received.Add(int64(n))
			}
		}
	})
	return l, nil
}

const (
	// late is how much a sender with a rate makes up for when it was kept from sending.
	late = 10 * time.Millisecond
	// seldom is a rate, per second, at which a sender sleeps most of the time.
	seldom = 20000
)

func (l *Load) send(fd int, b []byte, perSecond float64) {
	if perSecond == 0 {
		for !l.done.Load() {
			// A full queue is no error here: only datagrams that arrive count.
			_, _ = write(fd, b)
		}
		return
	}
	if perSecond < seldom {
		atOnce()
	}
	apart := time.Duration(float64(time.Second) / perSecond)
	for next := time.Now(); !l.done.Load(); next = next.Add(apart) {
		wait := time.Until(next)
		if wait < -late {
			next = next.Add(-late - wait)
		}
		if wait > 0 {
			// In the kernel: Go's timers would wait for threads without the priority.
			sleep := unix.NsecToTimespec(wait.Nanoseconds())
			_ = unix.Nanosleep(&sleep, nil)
		}
		// It does not wait for room in the socket: what it sends then is lost, as in a full queue.
		_ = unix.Sendto(fd, b, unix.MSG_DONTWAIT, nil)
		l.sent.Add(int64(len(b)))
	}
}

// exchange sends a datagram from a connected socket, and answers it.
func exchange(client, server int) error {
	b := make([]byte, 2*PacketSize)
	if _, err := write(client, b[:1]); err != nil {
		return err
	}
	_, from, err := unix.Recvfrom(server, b, 0)
	if err != nil {
		return err
	}
	if err := unix.Sendto(server, b[:1], 0, from); err != nil {
		return err
	}
	_, err = read(client, b)
	return err
}
