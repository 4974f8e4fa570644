package instruments

import (
	"context"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"terway.dev/terway/internal/kernel"
)

const (
	probePeriod = 10 * time.Millisecond
	// probeWait is how long an answer may take.
	probeWait = time.Second
)

// Probe sends requests to one of Echoes continuously, each from a new port, and records which
// were answered.
type Probe struct {
	// Name describes both ends, for messages.
	Name string
	// NetNS is the path of the network namespace of the probe, To the address of its target.
	NetNS, To string

	done    chan struct{}
	running sync.WaitGroup
	mu      sync.Mutex
	ok      []time.Time // when the answered probes were sent
	sent    int
	since   time.Time // see Answered
}

// Start starts the probe, and discards earlier records.
func (p *Probe) Start() {
	p.done, p.ok, p.sent, p.since = make(chan struct{}), nil, 0, time.Now()
	p.running.Go(func() {
		tick := time.NewTicker(probePeriod)
		defer tick.Stop()
		for {
			select {
			case <-p.done:
				return
			case at := <-tick.C:
				p.sent++
				p.running.Go(func() { p.once(at) })
			}
		}
	})
}

func (p *Probe) once(at time.Time) {
	var conn net.Conn
	err := kernel.InNSAt(p.NetNS, func() (err error) {
		conn, err = net.Dial("udp", net.JoinHostPort(p.To, strconv.Itoa(TrafficPort)))
		return err
	})
	if err != nil {
		return
	}
	defer conn.Close()
	buf := []byte("is anybody there?")
	if conn.SetDeadline(time.Now().Add(probeWait)) != nil {
		return
	}
	if _, err := conn.Write(buf); err != nil {
		return
	}
	if _, err := io.ReadFull(conn, buf); err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ok = append(p.ok, at)
}

// Mark starts a new wait for answers.
func (p *Probe) Mark() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.since = time.Now()
}

// Answered returns a condition for Poll: each probe has got answers to requests sent since
// Mark.
func Answered(probes []*Probe) func(context.Context) (bool, error) {
	const some = 10
	return func(context.Context) (bool, error) {
		for _, p := range probes {
			p.mu.Lock()
			n := 0
			for _, at := range p.ok {
				if at.After(p.since) {
					n++
				}
			}
			p.mu.Unlock()
			if n < some {
				return false, nil
			}
		}
		return true, nil
	}
}

// Stop stops the probe and waits for the last answers.
func (p *Probe) Stop() {
	close(p.done)
	p.running.Wait()
}

// Count returns how many requests were sent and how many of them were answered, once the probe is stopped.
func (p *Probe) Count() (sent, answered int) { return p.sent, len(p.ok) }

// Gap returns the longest time between two consecutive answered requests.
func (p *Probe) Gap() time.Duration {
	slices.SortFunc(p.ok, time.Time.Compare)
	var longest time.Duration
	for i := 1; i < len(p.ok); i++ {
		longest = max(longest, p.ok[i].Sub(p.ok[i-1]))
	}
	return longest
}
