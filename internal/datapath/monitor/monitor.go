package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Defaults of Options.
const (
	// DefaultCoalesce is long enough for the changes of one command: `ip route flush` of a table,
	// `nft flush ruleset`, a link down and up.
	DefaultCoalesce = 20 * time.Millisecond
	DefaultSlowest  = 5 * time.Second
)

const (
	// again is the pause before a broken socket is opened again. While none can be opened, or each
	// breaks soon, the pause doubles each time, up to seldom.
	again  = 100 * time.Millisecond
	seldom = time.Minute
)

// Options of New. Its functions are called from the monitor's goroutines, one call at a time for
// each socket, and must return soon: the kernel's messages queue up meanwhile.
type Options struct {
	// NetNS is the node's network namespace; netns.None() is the process's own. It must stay open
	// until Run returns.
	NetNS netns.NsHandle
	// ENI reports whether a device with this MAC is, or should be, one of the node's ENIs.
	ENI func(mac net.HardwareAddr) bool
	// Pod reports whether a pod that is wired and not being released has this device on the node.
	Pod func(device string) bool
	// Repair requests a repair and does not wait for it.
	Repair func()
	// Coalesce, Slowest: 0 means the default.
	Coalesce, Slowest time.Duration
	// Log gets broken sockets, and the reasons of repairs (debug).
	Log *slog.Logger
}

// Monitor watches one namespace.
type Monitor struct {
	Options
	news chan struct{} // capacity 1: there is a new event

	mu    sync.Mutex
	pacer pacer
}

// New makes a Monitor; Run starts it.
func New(o Options) *Monitor {
	if o.Coalesce == 0 {
		o.Coalesce = DefaultCoalesce
	}
	if o.Slowest == 0 {
		o.Slowest = DefaultSlowest
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return &Monitor{Options: o, news: make(chan struct{}, 1), pacer: pacer{coalesce: o.Coalesce, slowest: o.Slowest}}
}

// Run watches until ctx is done. A socket that breaks, or that the kernel has overrun (ENOBUFS), is
// opened again, and a repair is requested because events may have been missed.
func (m *Monitor) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { m.listen(ctx, "route", m.watchRoute) })
	wg.Go(func() { m.listen(ctx, "nftables", m.watchRuleset) })
	wg.Go(func() { m.pace(ctx) })
	wg.Wait()
}

// Contended returns what somebody else changes repeatedly; empty if nothing.
func (m *Monitor) Contended() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pacer.contended(time.Now())
}

func (m *Monitor) listen(ctx context.Context, name string, watch func(context.Context) error) {
	pause, said := again, ""
	for {
		began := time.Now()
		err := watch(ctx)
		if ctx.Err() != nil {
			return
		}
		overrun := errors.Is(err, unix.ENOBUFS)
		if overrun || time.Since(began) >= seldom {
			pause, said = again, "" // it did listen
		}
		switch {
		case overrun:
			m.Log.Debug("more changes than the monitor could read: requesting a repair", "socket", name)
		case err.Error() != said:
			said = err.Error()
			m.Log.Warn("the monitor's netlink socket broke, or cannot be opened; the monitor keeps trying, until then only the periodic repair runs", "socket", name, "error", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		if !overrun {
			pause = min(2*pause, seldom)
		}
	}
}

// subscribed records that a socket listens: events before were missed.
func (m *Monitor) subscribed(name string) { m.report("the %s monitor began to listen", name) }

// report records a reason to repair.
func (m *Monitor) report(format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	m.Log.Debug("a change requests a repair", "what", what)
	m.mu.Lock()
	m.pacer.note(time.Now(), what)
	m.mu.Unlock()
	select {
	case m.news <- struct{}{}:
	default:
	}
}

func (m *Monitor) pace(ctx context.Context) {
	for {
		select {
		case <-m.news:
		case <-ctx.Done():
			return
		}
		m.mu.Lock()
		wait := m.pacer.next(time.Now())
		m.mu.Unlock()
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		select { // later events belong to the same repair
		case <-m.news:
		default:
		}
		m.Repair()
	}
}
