package balance

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"time"

	"terway.dev/terway/internal/vpcsim/state"
)

// Checker checks the backends of listeners, and reports verdicts when they change.
type Checker struct {
	report  func([]state.BackendHealth)
	running sync.WaitGroup
	news    chan state.BackendHealth
	stop    context.CancelFunc
	ctx     context.Context

	mu     sync.Mutex
	checks map[target]*check
}

// target is a backend of a listener.
type target struct{ listener, key string }

// check is the running checks of a target.
type check struct {
	how     state.BalancerHealthCheck
	address netip.AddrPort
	stop    context.CancelFunc
}

// gather is how long verdicts are gathered for one report: the backends of a rolling upgrade
// become healthy in groups.
const gather = 20 * time.Millisecond

// NewChecker starts a Checker without targets. report is called with verdicts that changed, one
// call at a time.
func NewChecker(report func([]state.BackendHealth)) *Checker {
	c := &Checker{report: report, news: make(chan state.BackendHealth), checks: map[target]*check{}}
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.running.Go(c.deliver)
	return c
}

// Listener is a listener whose backends are checked through Dial.
type Listener struct {
	state.BalancerListener
	Dial Dial
}

// Set makes the checks those of the listeners. A check that is not new continues, with its old
// Dial.
func (c *Checker) Set(listeners []Listener) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return
	}
	wanted := map[target]bool{}
	for i := range listeners {
		l := &listeners[i]
		if l.HealthCheck == nil {
			continue
		}
		for _, b := range l.Backends {
			t := target{l.ListenerId, b.Key}
			port := b.Port
			if l.HealthCheck.Port != 0 {
				port = l.HealthCheck.Port
			}
			wanted[t] = true
			address := netip.AddrPortFrom(b.Address, port)
			if old := c.checks[t]; old != nil {
				if old.address == address && reflect.DeepEqual(old.how, *l.HealthCheck) {
					continue
				}
				old.stop()
			}
			ctx, stop := context.WithCancel(c.ctx)
			k := &check{how: *l.HealthCheck, address: address, stop: stop}
			c.checks[t] = k
			c.running.Go(func() { c.run(ctx, t, k, b.BackendVerdict, l.Dial) })
		}
	}
	for t, k := range c.checks {
		if !wanted[t] {
			k.stop()
			delete(c.checks, t)
		}
	}
}

// Close ends all checks.
func (c *Checker) Close() {
	c.mu.Lock()
	c.stop()
	c.mu.Unlock()
	c.running.Wait()
}

// run checks a target until ctx is done. verdict is the last one.
func (c *Checker) run(ctx context.Context, t target, k *check, verdict state.BackendVerdict, dial Dial) {
	// A backend without a verdict counts as unhealthy, until it has passed as often as an
	// unhealthy one must.
	agree := 0
	for {
		begin := time.Now()
		reason := probe(ctx, &k.how, k.address, dial)
		if ctx.Err() != nil {
			return
		}
		health, needed := state.Healthy, k.how.Healthy
		if reason != "" {
			health, needed = state.Unhealthy, k.how.Unhealthy
		}
		if verdict.Health == health {
			agree = 0
		} else if agree = next(agree, health); max(agree, -agree) >= max(needed, 1) {
			agree, verdict = 0, state.BackendVerdict{Health: health, Reason: reason}
			select {
			case c.news <- state.BackendHealth{ListenerId: t.listener, Key: t.key, BackendVerdict: verdict}:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-time.After(k.how.Interval - time.Since(begin)):
		case <-ctx.Done():
			return
		}
	}
}

// next counts results in a row: healthy ones up, unhealthy ones down.
func next(agree int, h state.Health) int {
	if h == state.Healthy {
		return max(agree, 0) + 1
	}
	return min(agree, 0) - 1
}

// deliver reports news, gathered.
func (c *Checker) deliver() {
	for {
		select {
		case first := <-c.news:
			list := []state.BackendHealth{first}
			for after := time.After(gather); after != nil; {
				select {
				case n := <-c.news:
					list = append(list, n)
				case <-after:
					after = nil
				}
			}
			c.report(list)
		case <-c.ctx.Done():
			return
		}
	}
}

// probe checks once. It returns why the backend is unhealthy, "" if it is healthy.
func probe(ctx context.Context, how *state.BalancerHealthCheck, to netip.AddrPort, dial Dial) (reason string) {
	ctx, cancel := context.WithTimeout(ctx, how.Timeout)
	defer cancel()
	network := "tcp"
	if how.Type == state.CheckUDP {
		network = "udp"
	}
	conn, err := dial(ctx, network, to)
	if err != nil {
		if timedOut(err) {
			return state.ReasonConnectTimeout
		}
		return state.ReasonConnectFailed
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return state.ReasonConnectFailed
		}
	}
	switch how.Type {
	case state.CheckUDP:
		return probeUDP(how, conn)
	case state.CheckHTTP:
		return probeHTTP(how, conn, to)
	}
	// The service resets the connection of a check, which so stays no time in TIME_WAIT.
	if t, ok := conn.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	return ""
}

// probeUDP sends a datagram. An ICMP error is unhealthy; no answer is, if one is expected.
func probeUDP(how *state.BalancerHealthCheck, conn net.Conn) string {
	if _, err := conn.Write([]byte(how.Request)); err != nil {
		return state.ReasonConnectFailed
	}
	buf := make([]byte, 65536)
	n, err := conn.Read(buf)
	switch {
	case err != nil && !timedOut(err):
		return state.ReasonConnectFailed
	case how.Expect != "" && (err != nil || !bytes.Equal(buf[:n], []byte(how.Expect))):
		return state.ReasonResponseTimeout
	}
	return ""
}

func probeHTTP(how *state.BalancerHealthCheck, conn net.Conn, to netip.AddrPort) string {
	method, uri, domain := how.Method, how.URI, how.Domain
	if method == "" {
		method = http.MethodHead
	}
	if uri == "" {
		uri = "/"
	}
	if domain == "" || domain == "$_ip" { // the service's name for the backend's address
		domain = to.Addr().String()
	}
	// The URI is sent as it was set, not as it would be after parsing.
	request := strings.ToUpper(method) + " " + uri + " HTTP/1.0\r\nHost: " + domain + "\r\nUser-Agent: SLBHealthCheck\r\nConnection: close\r\n\r\n"
	if _, err := io.WriteString(conn, request); err != nil {
		return state.ReasonConnectInterrupt
	}
	var line [16]byte
	if _, err := io.ReadFull(conn, line[:len("HTTP/1.1 200")]); err != nil {
		if timedOut(err) {
			return state.ReasonResponseTimeout
		}
		return state.ReasonConnectInterrupt
	}
	status := string(line[:len("HTTP/1.1 200")])
	if !strings.HasPrefix(status, "HTTP/1.") || status[9] < '1' || status[9] > '5' {
		return state.ReasonHTTPInvalidHeader
	}
	class := "http_" + status[9:10] + "xx"
	codes := how.Codes
	if len(codes) == 0 {
		codes = []string{"http_2xx"}
	}
	for _, c := range codes {
		if c == class {
			return ""
		}
	}
	return state.ReasonCodeNotMatch
}

func timedOut(err error) bool {
	var n net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, syscall.ETIMEDOUT) || errors.As(err, &n) && n.Timeout()
}
