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
	// DefaultCoalesce is long enough for what one command does: `ip route flush` of a
	// table, `nft flush ruleset`, a link down and up.
	DefaultCoalesce = 20 * time.Millisecond
	DefaultSlowest  = 5 * time.Second
)

const (
	// again is how long to wait before listening anew with a socket that broke. As long as
	// none can be opened, or each breaks soon, it is twice as long each time, up to seldom.
	again  = 100 * time.Millisecond
	seldom = time.Minute
)

// Options of New. Its functions are called from the monitor's goroutines, one call at a
// time for each socket, and must not wait for long: meanwhile the kernel's messages pile up.
type Options struct {
	// NetNS is the node's network namespace; netns.None() is the process's own. It stays
	// open until Run is back.
	NetNS netns.NsHandle
	// ENI reports whether a device with this MAC is, or should be, one of the node's ENIs.
	ENI func(mac net.HardwareAddr) bool
	// Pod reports whether a pod that is wired, and is not about to go, has this device on the node.
	Pod func(device string) bool
	// Repair asks for a repair and does not wait for it.
	Repair func()
	// Coalesce, Slowest: see the defaults, which 0 means.
	Coalesce, Slowest time.Duration
	// Log is told of sockets that broke, and why repairs were asked for (debug).
	Log *slog.Logger
}

// Monitor watches one namespace.
type Monitor struct {
	Options
	news chan struct{} // capacity 1: the pacer has been told something

	mu    sync.Mutex
	pacer pacer
}

// New makes a Monitor that does nothing until Run.
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

// Run watches until ctx is done. A socket that breaks, or that the kernel has overrun
// (ENOBUFS), is opened anew, and as something may have been missed a repair is asked for.
func (m *Monitor) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { m.listen(ctx, "route", m.watchRoute) })
	wg.Go(func() { m.listen(ctx, "nftables", m.watchRuleset) })
	wg.Go(func() { m.pace(ctx) })
	wg.Wait()
}

// Contended names what somebody else changes again and again, or is empty.
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
			m.Log.Debug("more changes than the monitor could read: looking at everything", "socket", name)
		case err.Error() != said:
			said = err.Error()
			m.Log.Warn("the monitor's netlink socket broke, or cannot be opened; it is tried again and again, until then only the periodic look repairs", "socket", name, "error", err)
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

// subscribed is called once a socket listens: what happened before was not heard.
func (m *Monitor) subscribed(name string) { m.tell("the %s monitor began to listen", name) }

// tell notes a reason to repair.
func (m *Monitor) tell(format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	m.Log.Debug("a change that asks for a repair", "what", what)
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
		select { // what came meanwhile is in the same repair
		case <-m.news:
		default:
		}
		m.Repair()
	}
}
