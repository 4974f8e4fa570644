package balance

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"terway.dev/terway/internal/vpcsim/fabric"
	"terway.dev/terway/internal/vpcsim/state"
)

// Proxy serves one address of a listener.
type Proxy struct {
	dial     Dial
	balancer string
	log      *slog.Logger
	listener net.Listener
	server   *http.Server // nil: TCP
	running  sync.WaitGroup
	ctx      context.Context
	stop     context.CancelFunc
	current  atomic.Pointer[turn]

	mu    sync.Mutex
	conns map[net.Conn]bool      // of a TCP proxy
	load  map[netip.AddrPort]int // open connections to backends
}

// turn is a version of the listener, with its slots.
type turn struct {
	state.BalancerListener
	slots []fabric.Backend
	ids   map[string]netip.AddrPort // of backends that take connections, by what cookies have
	next  atomic.Uint64
}

// errNoBackend: no backend takes new connections.
var errNoBackend = errors.New("no backend takes new connections")

// NewProxy returns a proxy for l, which Serve serves. balancer is the id of the load balancer.
func NewProxy(listener net.Listener, balancer string, l state.BalancerListener, dial Dial, log *slog.Logger) *Proxy {
	p := &Proxy{dial: dial, balancer: balancer, log: log, listener: listener, conns: map[net.Conn]bool{}, load: map[netip.AddrPort]int{}}
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.Set(l)
	if l.HTTP != nil {
		p.server = p.httpServer(l.HTTP)
	}
	return p
}

// Serve serves until Close, after which it returns nil, or until accepting fails.
func (p *Proxy) Serve() error {
	if p.server == nil {
		return p.serveTCP()
	}
	if err := p.server.Serve(p.listener); p.ctx.Err() == nil {
		return err
	}
	return nil
}

// Set changes the listener: connections and requests that begin now have the new backends.
func (p *Proxy) Set(l state.BalancerListener) {
	t := &turn{BalancerListener: l, ids: map[string]netip.AddrPort{}}
	backends := make([]fabric.Backend, 0, len(l.Backends))
	for i := range l.Backends {
		b := &l.Backends[i]
		a := netip.AddrPortFrom(b.Address, b.Port)
		backends = append(backends, fabric.Backend{Address: a, Weight: b.Weight, Healthy: l.Takes(b) || b.Weight == 0})
		if l.Takes(b) {
			t.ids[cookieID(b.Key)] = a
		}
	}
	t.slots = fabric.SlotTable(SchedulerOf(l.Scheduler), backends)
	if old := p.current.Load(); old != nil {
		t.next.Store(old.next.Load())
	}
	p.current.Store(t)
}

// Close ends the listener and its connections. That a socket cannot be closed means that it is.
func (p *Proxy) Close() {
	p.stop()
	p.mu.Lock()
	open := slices.Collect(maps.Keys(p.conns)) // none is added any more
	p.mu.Unlock()
	for _, c := range open {
		_ = c.Close() // a backend's counts itself, by the lock
	}
	if p.server != nil {
		_ = p.server.Close()
	}
	_ = p.listener.Close() // a server that has not begun to serve does not
	p.running.Wait()
}

// SchedulerOf returns the fabric's scheduler for that of a listener.
func SchedulerOf(name string) fabric.Scheduler {
	switch name {
	case state.SchedulerRR:
		return fabric.RoundRobin
	case state.SchedulerWLC:
		return fabric.LeastConnections
	case state.SchedulerSCH:
		return fabric.SourceHash
	case state.SchedulerTCH:
		return fabric.TupleHash
	}
	return fabric.WeightedRoundRobin
}

// attempts is how many backends a connection is tried to, if they refuse it.
const attempts = 3

// connect connects to a backend for a client, to the preferred one if it is valid.
func (p *Proxy) connect(ctx context.Context, t *turn, client netip.AddrPort, preferred netip.AddrPort) (net.Conn, error) {
	err := errNoBackend
	for try := range attempts {
		to := preferred
		if try > 0 || !to.IsValid() {
			if len(t.slots) == 0 {
				break
			}
			to = p.choose(t, client, try)
		}
		p.count(to, 1)
		var conn net.Conn
		if conn, err = p.dial(ctx, "tcp", to); err == nil {
			return &counted{Conn: conn, to: to, done: sync.OnceFunc(func() { p.count(to, -1) })}, nil
		}
		p.count(to, -1)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

func (p *Proxy) choose(t *turn, client netip.AddrPort, try int) netip.AddrPort {
	n := uint64(len(t.slots))
	switch SchedulerOf(t.Scheduler) {
	case fabric.SourceHash:
		return t.slots[(hash(client.Addr().String())+uint64(try))%n].Address
	case fabric.TupleHash:
		return t.slots[(hash(client.String())+uint64(try))%n].Address
	case fabric.LeastConnections:
		p.mu.Lock()
		defer p.mu.Unlock()
		best := t.slots[0]
		for _, b := range t.slots[1:] {
			if p.load[b.Address]*best.Weight < p.load[best.Address]*b.Weight {
				best = b
			}
		}
		return best.Address
	}
	return t.slots[(t.next.Add(1)-1)%n].Address
}

func (p *Proxy) count(to netip.AddrPort, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.load[to] += n; p.load[to] == 0 {
		delete(p.load, to)
	}
}

func hash(s string) uint64 {
	sum := sha256.Sum256([]byte(s))
	return uint64(sum[0])<<24 | uint64(sum[1])<<16 | uint64(sum[2])<<8 | uint64(sum[3])
}

// counted is a connection that counts as open until it is closed.
type counted struct {
	net.Conn
	to   netip.AddrPort
	done func()
}

func (c *counted) Close() error {
	c.done()
	return c.Conn.Close()
}

func clientOf(addr string) netip.AddrPort {
	a, _ := netip.ParseAddrPort(addr)
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// serveTCP copies between clients and backends.
func (p *Proxy) serveTCP() error {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			if p.ctx.Err() != nil {
				return nil
			}
			return err
		}
		p.running.Go(func() { p.pipe(client) })
	}
}

// dialTimeout is how long a TCP proxy waits for a backend.
const dialTimeout = 5 * time.Second

func (p *Proxy) pipe(client net.Conn) {
	defer client.Close()
	ctx, cancel := context.WithTimeout(p.ctx, dialTimeout)
	defer cancel()
	backend, err := p.connect(ctx, p.current.Load(), clientOf(client.RemoteAddr().String()), netip.AddrPort{})
	if err != nil {
		if t, ok := client.(*net.TCPConn); ok {
			_ = t.SetLinger(0) // refused
		}
		return
	}
	defer backend.Close()
	defer p.forget(client)
	defer p.forget(backend)
	if !p.track(client) || !p.track(backend) {
		return
	}
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{client, backend}, {backend, client}} {
		both.Go(func() {
			_, _ = io.Copy(way[1], way[0])
			if c, ok := unwrap(way[1]).(*net.TCPConn); ok {
				_ = c.CloseWrite()
			}
		})
	}
	both.Wait()
}

func unwrap(c net.Conn) net.Conn {
	if c, ok := c.(*counted); ok {
		return c.Conn
	}
	return c
}

// track lists a connection for Close; false: the proxy is closed.
func (p *Proxy) track(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = true
	return p.ctx.Err() == nil
}

func (p *Proxy) forget(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// exchange is what the parts of one request share.
type exchange struct {
	turn      *turn
	client    netip.AddrPort
	preferred netip.AddrPort // by its cookie
	backend   netip.AddrPort // that answers
}

type exchangeKey struct{}

// httpServer returns the server of an HTTP listener. Each request has a connection of its own
// to a backend, so a change of backends applies to the next request of a client.
func (p *Proxy) httpServer(h *state.BalancerHTTP) *http.Server {
	quiet := slog.NewLogLogger(p.log.Handler(), slog.LevelDebug)
	transport := &http.Transport{
		DisableKeepAlives:     true,
		DisableCompression:    true,
		ResponseHeaderTimeout: h.RequestTimeout,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			x := ctx.Value(exchangeKey{}).(*exchange)
			conn, err := p.connect(ctx, x.turn, x.client, x.preferred)
			if err == nil {
				x.backend = conn.(*counted).to
			}
			return conn, err
		},
	}
	proxy := &httputil.ReverseProxy{
		Transport:      transport,
		Rewrite:        p.rewrite,
		ModifyResponse: p.setCookie,
		ErrorLog:       quiet,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			code := http.StatusBadGateway
			switch {
			case errors.Is(err, errNoBackend):
				code = http.StatusServiceUnavailable
			case timedOut(err):
				code = http.StatusGatewayTimeout
			}
			p.log.Debug("a request to a load balancer failed", "balancer", p.balancer, "path", r.URL.Path, "status", code, "err", err)
			w.WriteHeader(code)
		},
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := &exchange{turn: p.current.Load(), client: clientOf(r.RemoteAddr)}
		x.preferred = preferred(x.turn, r)
		proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x)))
	})
	return &http.Server{Handler: handler, IdleTimeout: h.IdleTimeout, ReadHeaderTimeout: time.Minute, ErrorLog: quiet}
}

func (p *Proxy) rewrite(r *httputil.ProxyRequest) {
	x := r.In.Context().Value(exchangeKey{}).(*exchange)
	h := x.turn.HTTP
	out := r.Out.Header
	r.Out.URL.Scheme, r.Out.URL.Host = "http", "backend" // DialContext chooses it
	r.Out.Host = r.In.Host
	before := r.In.Header.Values("X-Forwarded-For")
	out.Set("X-Forwarded-For", strings.Join(append(before[:len(before):len(before)], x.client.Addr().String()), ", "))
	set := func(on bool, name, value string) {
		if on {
			out.Set(name, value)
		}
	}
	local, _ := r.In.Context().Value(http.LocalAddrContextKey).(net.Addr)
	var at netip.AddrPort
	if local != nil {
		at = clientOf(local.String())
	}
	set(h.ForwardedProto, "X-Forwarded-Proto", "http")
	set(h.ForwardedPort, "X-Forwarded-Port", strconv.Itoa(int(x.turn.Port)))
	set(h.ForwardedClientPort, "X-Forwarded-Clientsrcport", strconv.Itoa(int(x.client.Port())))
	set(h.ForwardedAddress, "SLB-IP", at.Addr().String())
	set(h.ForwardedID, "SLB-ID", p.balancer)
	if h.StickySession == stickyServer {
		stripCookie(r.Out, h.Cookie)
	}
}

const (
	stickyInsert = "insert"
	stickyServer = "server"
	// serverID is the cookie of the service for inserted sessions.
	serverID = "SERVERID"
)

func cookieID(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:16])
}

// preferred returns the backend that the request's cookie names, if it takes new connections.
func preferred(t *turn, r *http.Request) netip.AddrPort {
	name := ""
	switch t.HTTP.StickySession {
	case stickyInsert:
		name = serverID
	case stickyServer:
		name = t.HTTP.Cookie
	default:
		return netip.AddrPort{}
	}
	c, err := r.Cookie(name)
	if err != nil {
		return netip.AddrPort{}
	}
	id, _, _ := strings.Cut(c.Value, "|")
	return t.ids[id]
}

// setCookie binds the client to the backend that answered.
func (p *Proxy) setCookie(r *http.Response) error {
	x := r.Request.Context().Value(exchangeKey{}).(*exchange)
	h, id := x.turn.HTTP, ""
	for known, a := range x.turn.ids {
		if a == x.backend {
			id = known
		}
	}
	switch {
	case id == "":
	case h.StickySession == stickyInsert:
		now := time.Now().Unix()
		c := http.Cookie{Name: serverID, Value: fmt.Sprintf("%s|%d|%d", id, now, now), Path: "/", MaxAge: int(h.CookieTimeout / time.Second)}
		r.Header.Add("Set-Cookie", c.String())
	case h.StickySession == stickyServer:
		all := r.Header.Values("Set-Cookie")
		for i, line := range all {
			if value, ok := strings.CutPrefix(line, h.Cookie+"="); ok {
				value, quoted := strings.CutPrefix(value, `"`)
				all[i] = h.Cookie + "=" + map[bool]string{true: `"`}[quoted] + id + "|" + value
			}
		}
	}
	return nil
}

// stripCookie removes the backend's name from the application's cookie.
func stripCookie(r *http.Request, name string) {
	all := r.Cookies()
	r.Header.Del("Cookie")
	for _, c := range all {
		if _, value, ok := strings.Cut(c.Value, "|"); ok && c.Name == name {
			c.Value = value
		}
		r.AddCookie(c)
	}
}
