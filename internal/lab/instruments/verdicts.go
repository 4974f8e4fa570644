package instruments

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/lab"
)

const (
	// askPeriod is how often Verdicts asks.
	askPeriod = 500 * time.Microsecond
	// silentFor is how long nothing may arrive of what Verdicts has sent until the connection counts as cut.
	silentFor = 40 * time.Millisecond
	// firstAnswer is how long OpenTalk waits for an answer.
	firstAnswer = 15 * time.Second
)

// Verdicts sends numbered datagrams from one network namespace to another, all from one port to one, and knows since when they arrive,
// or do not. Nothing answers them.
type Verdicts struct {
	out     net.Conn
	in      net.PacketConn
	done    chan struct{}
	running sync.WaitGroup

	mu   sync.Mutex
	sent []time.Time // by number
	// arrived are the numbers that arrived, in their order.
	arrived []int
}

// AskVerdicts begins to send to a port of an address; the caller closes it.
func AskVerdicts(ctx context.Context, from, to, address string, port int) (*Verdicts, error) {
	v := &Verdicts{done: make(chan struct{})}
	err := kernel.InNSAt(to, func() (err error) {
		v.in, err = net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		return err
	})
	if err != nil {
		return nil, err
	}
	if v.out, err = lab.DialIn(ctx, from, "udp", net.JoinHostPort(address, strconv.Itoa(port))); err != nil {
		return nil, errors.Join(err, v.in.Close())
	}
	v.running.Go(v.send)
	v.running.Go(v.receive)
	return v, nil
}

// Close ends it.
func (v *Verdicts) Close() {
	close(v.done)
	_, _ = v.out.Close(), v.in.Close()
	v.running.Wait()
}

func (v *Verdicts) send() {
	tick := time.NewTicker(askPeriod)
	defer tick.Stop()
	for {
		select {
		case <-v.done:
			return
		case <-tick.C:
		}
		v.mu.Lock()
		number := len(v.sent)
		v.sent = append(v.sent, time.Now())
		v.mu.Unlock()
		_, _ = v.out.Write(binary.BigEndian.AppendUint64(nil, uint64(number))) // what is not sent does not arrive
	}
}

func (v *Verdicts) receive() {
	buf := make([]byte, 64)
	for {
		n, _, err := v.in.ReadFrom(buf)
		if err != nil {
			return // closed
		}
		if n != 8 {
			continue
		}
		v.mu.Lock()
		v.arrived = append(v.arrived, int(binary.BigEndian.Uint64(buf)))
		v.mu.Unlock()
	}
}

// Await waits until datagrams arrive that were sent since a time, or none does any more, and returns when the first of them was sent.
// Before it was the other way round.
func (v *Verdicts) Await(ctx context.Context, since time.Time, arrive bool, patience time.Duration) (at time.Time, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not within %s", patience))
	defer cancel()
	err = pollEvery(ctx, 2*time.Millisecond, fmt.Sprintf("packets to be judged anew (they arrive: %t)", arrive), func() (turned bool, _ error) {
		at, turned = v.turned(since, arrive)
		return turned, nil
	})
	return at, err
}

func (v *Verdicts) turned(since time.Time, arrive bool) (time.Time, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if arrive {
		first := len(v.arrived)
		for first > 0 && v.sent[v.arrived[first-1]].After(since) {
			first--
		}
		if first == len(v.arrived) {
			return time.Time{}, false
		}
		return v.sent[v.arrived[first]], true
	}
	next := 0
	if len(v.arrived) > 0 {
		next = v.arrived[len(v.arrived)-1] + 1
	}
	if next >= len(v.sent) || v.sent[len(v.sent)-1].Sub(v.sent[next]) < silentFor {
		return time.Time{}, false
	}
	return v.sent[next], true
}

// Talk is one connection to one of Echoes that exchanges data all the time.
type Talk struct {
	conn    net.Conn
	running sync.WaitGroup
	mu      sync.Mutex
	last    time.Time
	err     error
}

// OpenTalk opens it from a network namespace, and returns after the first answer; the caller closes it.
func OpenTalk(ctx context.Context, netns, to string) (*Talk, error) {
	conn, err := lab.DialIn(ctx, netns, "tcp", to)
	if err != nil {
		return nil, err
	}
	t := &Talk{conn: conn}
	buf := make([]byte, 8)
	ask := func() error {
		_, err := conn.Write(buf)
		if err == nil {
			_, err = io.ReadFull(conn, buf)
		}
		return err
	}
	err = conn.SetDeadline(time.Now().Add(firstAnswer))
	if err == nil {
		err = ask()
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: no answer on an open connection: %w", to, err), conn.Close())
	}
	t.last = time.Now()
	t.running.Go(func() {
		for {
			err := ask()
			t.mu.Lock()
			if t.err = err; err == nil {
				t.last = time.Now()
			}
			t.mu.Unlock()
			if err != nil {
				return // closed, or the kernel has given the connection up
			}
			time.Sleep(time.Millisecond)
		}
	})
	return t, nil
}

// Last returns when the last answer came.
func (t *Talk) Last() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last
}

// Err is why there will be no more answers.
func (t *Talk) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// Close closes the connection.
func (t *Talk) Close() {
	_ = t.conn.Close()
	t.running.Wait()
}

// Quantile returns the element of a list at a share of its length, in tenths of milliseconds.
func Quantile(list []time.Duration, share float64) time.Duration {
	list = slices.Sorted(slices.Values(list))
	if len(list) == 0 {
		return 0
	}
	return list[min(int(share*float64(len(list))), len(list)-1)].Round(100 * time.Microsecond)
}
