package compare

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

// end is where a connection begins or ends: a network namespace and an address in it.
type end struct {
	netns string
	addr  netip.Addr
}

// pair is two ends between which is measured.
type pair struct{ from, to end }

// connectTimeout is how long a connection of a measurement may take to open.
const connectTimeout = 10 * time.Second

// listen opens a port of an end.
func (e end) listen() (net.Listener, error) {
	var l net.Listener
	err := kernel.InNSAt(e.netns, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(e.addr, 0).String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", e.addr, err)
	}
	return l, nil
}

// open makes a connection of the pair and returns both ends of it.
func (p pair) open(ctx context.Context) (client, server *net.TCPConn, err error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	l, err := p.to.listen()
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	c, err := lab.DialIn(ctx, p.from.netns, "tcp", l.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	s, err := l.Accept()
	if err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	return c.(*net.TCPConn), s.(*net.TCPConn), nil
}

// stream sends as fast as it goes for d and returns the bits per second that arrived.
func (p pair) stream(ctx context.Context, d time.Duration) (float64, error) {
	client, server, err := p.open(ctx)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	defer server.Close()
	sent := make(chan error, 1)
	go func() {
		buf := make([]byte, 128<<10)
		err := client.SetWriteDeadline(time.Now().Add(d))
		for err == nil {
			_, err = client.Write(buf)
		}
		if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
			err = client.CloseWrite()
		}
		sent <- err
	}()
	began := time.Now()
	// A path that stops to deliver ends the measurement too.
	if err := server.SetReadDeadline(began.Add(d + connectTimeout)); err != nil {
		return 0, err
	}
	n, err := io.CopyBuffer(onlyWriter{io.Discard}, onlyReader{server}, make([]byte, 256<<10))
	took := time.Since(began)
	if err = errors.Join(err, <-sent); err != nil {
		return 0, fmt.Errorf("stream from %s to %s: %w", p.from.addr, p.to.addr, err)
	}
	return float64(n) * 8 / took.Seconds(), nil
}

// onlyReader and onlyWriter hide that connections can splice and that Discard reads in
// small pieces: the buffer that is given is the one that is used.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)

// messageSize of a request and of its answer.
const messageSize = 64

// exchange sends requests one after another over one connection for d and returns
// how long each took to be answered, in seconds.
func (p pair) exchange(ctx context.Context, d time.Duration) ([]float64, error) {
	client, server, err := p.open(ctx)
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
		return nil, fmt.Errorf("requests from %s to %s: %w", p.from.addr, p.to.addr, err)
	}
	return took, nil
}

// connects opens connections one after another for d and returns how long each took
// to be open, in seconds.
func (p pair) connects(ctx context.Context, d time.Duration) ([]float64, error) {
	l, err := p.to.listen()
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
			c.Close() //nolint:errcheck // the client has what it wanted
		}
	}()
	var took []float64
	err = kernel.InNSAt(p.from.netns, func() error {
		dial := net.Dialer{Timeout: connectTimeout}
		for began := time.Now(); time.Since(began) < d || len(took) == 0; {
			start := time.Now()
			c, err := dial.DialContext(ctx, "tcp", l.Addr().String())
			if err != nil {
				return err
			}
			took = append(took, time.Since(start).Seconds())
			// Reset: thousands of ports in TIME_WAIT would slow the next one down.
			if err := errors.Join(c.(*net.TCPConn).SetLinger(0), c.Close()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("connections from %s to %s: %w", p.from.addr, p.to.addr, err)
	}
	return took, nil
}

// passTimeout is longer than the second after which a lost SYN is sent again: one
// lost packet is no denial.
const passTimeout = 2 * time.Second

// passes tells whether a new connection opens in time and carries a byte.
func (p pair) passes(ctx context.Context) (bool, error) {
	l, err := p.to.listen()
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
		c.Write([]byte{1}) //nolint:errcheck // the other end counts what arrives
	}()
	ctx, cancel := context.WithTimeout(ctx, passTimeout)
	defer cancel()
	c, err := lab.DialIn(ctx, p.from.netns, "tcp", l.Addr().String())
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
