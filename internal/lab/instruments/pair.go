package instruments

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/lab"
)

// End is an end of a connection: a network namespace and an address in it.
type End struct {
	NetNS string
	Addr  netip.Addr
}

// Pair is the two ends of a measurement.
type Pair struct{ From, To End }

// connectTimeout limits how long a connection of a measurement may take to open.
const connectTimeout = 10 * time.Second

// listen opens a port at an end.
func (e End) listen() (net.Listener, error) {
	var l net.Listener
	err := kernel.InNSAt(e.NetNS, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(e.Addr, 0).String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", e.Addr, err)
	}
	return l, nil
}

// Open opens a connection and returns both ends of it.
func (p Pair) Open(ctx context.Context) (client, server *net.TCPConn, err error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	l, err := p.To.listen()
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	c, err := lab.DialIn(ctx, p.From.NetNS, "tcp", l.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	s, err := l.Accept()
	if err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	return c.(*net.TCPConn), s.(*net.TCPConn), nil
}

// Stream sends as fast as possible for d, and returns the received bits per second.
func (p Pair) Stream(ctx context.Context, d time.Duration) (float64, error) {
	f, err := p.Start(ctx)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	time.Sleep(d)
	n, err := f.Stop()
	if err != nil {
		return 0, err
	}
	return float64(n) * 8 / time.Since(began).Seconds(), nil
}

// Flow sends from one end to the other as fast as possible, over one connection.
type Flow struct {
	pair           Pair
	client, server *net.TCPConn
	sent, received chan error
	n              int64 // received bytes
}

// Start opens a connection and begins to send.
func (p Pair) Start(ctx context.Context) (*Flow, error) {
	f := &Flow{pair: p, sent: make(chan error, 1), received: make(chan error, 1)}
	var err error
	if f.client, f.server, err = p.Open(ctx); err != nil {
		return nil, err
	}
	go func() {
		buf := make([]byte, 128<<10)
		var err error
		for err == nil {
			_, err = f.client.Write(buf)
		}
		if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() { // Stop's
			err = f.client.CloseWrite()
		}
		f.sent <- err
	}()
	go func() {
		var err error
		f.n, err = io.CopyBuffer(onlyWriter{io.Discard}, onlyReader{f.server}, make([]byte, 256<<10))
		f.received <- err
	}()
	return f, nil
}

// Stop ends the sending, waits until all of it has arrived, and returns how many bytes have. It is an error if the
// connection was lost before, or does not deliver any more.
func (f *Flow) Stop() (int64, error) {
	defer f.client.Close()
	defer f.server.Close()
	now := time.Now()
	err := errors.Join(f.client.SetWriteDeadline(now), f.server.SetReadDeadline(now.Add(connectTimeout)))
	if err = errors.Join(err, <-f.sent, <-f.received); err != nil {
		return f.n, fmt.Errorf("stream from %s to %s: %w", f.pair.From.Addr, f.pair.To.Addr, err)
	}
	return f.n, nil
}

// onlyReader and onlyWriter hide the connections' splice, and Discard's small buffer: so the
// given buffer is used.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)

// messageSize is the size of a request and of its answer, in bytes.
const messageSize = 64

// Exchange sends requests one after another over one connection for d, and returns how long
// each answer took, in seconds.
func (p Pair) Exchange(ctx context.Context, d time.Duration) ([]float64, error) {
	client, server, err := p.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	echoed := make(chan error, 1)
	go func() {
		defer server.Close()
		_, err := io.CopyBuffer(onlyWriter{server}, onlyReader{server}, make([]byte, messageSize))
		echoed <- err
	}()
	if err := client.SetDeadline(time.Now().Add(d + connectTimeout)); err != nil {
		return nil, err
	}
	var took []float64
	buf := make([]byte, messageSize)
	for began := time.Now(); err == nil && (time.Since(began) < d || len(took) == 0); {
		start := time.Now()
		if _, err = client.Write(buf); err == nil {
			_, err = io.ReadFull(client, buf)
		}
		took = append(took, time.Since(start).Seconds())
	}
	err = errors.Join(err, client.CloseWrite(), <-echoed)
	if err != nil {
		return nil, fmt.Errorf("requests from %s to %s: %w", p.From.Addr, p.To.Addr, err)
	}
	return took, nil
}

// Connects opens connections one after another for d, and returns how long each took to open,
// in seconds.
func (p Pair) Connects(ctx context.Context, d time.Duration) ([]float64, error) {
	l, err := p.To.listen()
	if err != nil {
		return nil, err
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			c.Close() // the client has read all it needs
		}
	}()
	var took []float64
	err = kernel.InNSAt(p.From.NetNS, func() error {
		dial := net.Dialer{Timeout: connectTimeout}
		for began := time.Now(); time.Since(began) < d || len(took) == 0; {
			start := time.Now()
			c, err := dial.DialContext(ctx, "tcp", l.Addr().String())
			if err != nil {
				return err
			}
			took = append(took, time.Since(start).Seconds())
			// Reset the connection: thousands of ports in TIME_WAIT would slow down later ones.
			if err := errors.Join(c.(*net.TCPConn).SetLinger(0), c.Close()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("connections from %s to %s: %w", p.From.Addr, p.To.Addr, err)
	}
	return took, nil
}

// passTimeout is longer than the second after which TCP repeats a lost SYN: one lost packet is
// no denial.
const passTimeout = 2 * time.Second

// Passes reports whether a new connection opens in time and carries a byte.
func (p Pair) Passes(ctx context.Context) (bool, error) {
	l, err := p.To.listen()
	if err != nil {
		return false, err
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return // closed
		}
		defer c.Close()
		c.Write([]byte{1}) // the other end checks what arrives
	}()
	ctx, cancel := context.WithTimeout(ctx, passTimeout)
	defer cancel()
	c, err := lab.DialIn(ctx, p.From.NetNS, "tcp", l.Addr().String())
	if err != nil {
		return false, nil
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetReadDeadline(deadline); err != nil {
			return false, err
		}
	}
	n, _ := c.Read(make([]byte, 1))
	return n == 1, nil
}
