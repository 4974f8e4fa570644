package vpcsim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"terway.dev/terway/internal/vpcsim/balance"
	"terway.dev/terway/internal/vpcsim/fabric"
	"terway.dev/terway/internal/vpcsim/state"
)

// balancers is the plane of what load balancers do as processes: health checks, and listeners
// that are proxies. It works in the namespaces that the fabric makes for load balancers.
type balancers struct {
	server *Server
	at     interface {
		NetNSPath(id string) (string, error)
	}
	checker *balance.Checker
	running sync.WaitGroup
	cloud   Feedback

	mu      sync.Mutex
	stopped bool
	proxies map[proxyKey]*balance.Proxy
}

// proxyKey is an address of a listener, with what a proxy cannot change while it runs.
type proxyKey struct {
	listener, namespace string
	address             netip.AddrPort
	http                bool
	request, idle       time.Duration
}

// newBalancers returns nil if the fabric has no namespaces.
func newBalancers(s *Server) *balancers {
	at, ok := s.Fabric.(interface {
		NetNSPath(id string) (string, error)
	})
	if !ok {
		return nil
	}
	b := &balancers{server: s, at: at, proxies: map[proxyKey]*balance.Proxy{}}
	b.checker = balance.NewChecker(b.report)
	return b
}

// Connect stores the Feedback.
func (b *balancers) Connect(f Feedback) { b.cloud = f }

func (b *balancers) report(news []state.BackendHealth) {
	if err := b.cloud.Report(func(api state.API) error {
		api.ReportHealth(news)
		return nil
	}); err != nil {
		b.server.Log.Error("report the health of backends", "err", err)
	}
}

// Apply makes the checks and the proxies those of the view.
func (b *balancers) Apply(_ context.Context, view *state.View) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		return nil
	}
	var checked []balance.Listener
	wanted := map[proxyKey]func() error{}
	for i := range view.Balancers {
		lb := &view.Balancers[i]
		if lb.VpcId == "" {
			continue
		}
		namespace := fabric.BalancersOf(lb.VpcId)
		path, err := b.at.NetNSPath(namespace)
		if err != nil {
			return err
		}
		dial := func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
			return fabric.DialAt(ctx, path, network, to)
		}
		for _, l := range lb.Listeners {
			checked = append(checked, balance.Listener{BalancerListener: l, Dial: dial})
			if !isProxy(&l) {
				continue
			}
			for _, a := range lb.Addresses {
				key := proxyKey{listener: l.ListenerId, namespace: namespace, address: netip.AddrPortFrom(a.Address, l.Port)}
				if l.HTTP != nil {
					key.http, key.request, key.idle = true, l.HTTP.RequestTimeout, l.HTTP.IdleTimeout
				}
				wanted[key] = func() error { return b.serve(key, lb.LoadBalancerId, l, dial) }
			}
		}
	}
	b.checker.Set(checked)
	for key, p := range b.proxies { // first, as a port may be wanted by another listener
		if wanted[key] == nil {
			p.Close()
			delete(b.proxies, key)
		}
	}
	var errs []error
	for _, serve := range wanted {
		errs = append(errs, serve())
	}
	return errors.Join(errs...)
}

// serve updates a proxy, or starts it. The caller holds mu.
func (b *balancers) serve(key proxyKey, id string, l state.BalancerListener, dial balance.Dial) error {
	if p := b.proxies[key]; p != nil {
		p.Set(l)
		return nil
	}
	listener, err := b.server.Fabric.Listen(key.namespace, "tcp", key.address.String())
	if err != nil {
		return fmt.Errorf("serve listener %s of load balancer %s at %s: %w", l.ListenerId, id, key.address, err)
	}
	p := balance.NewProxy(listener, id, l, dial, b.server.Log)
	b.proxies[key] = p
	b.running.Go(func() {
		if err := p.Serve(); err != nil {
			b.server.Log.Warn("a listener of a load balancer stopped", "listener", l.ListenerId, "address", key.address, "err", err)
			b.lost(key, p)
		}
	})
	return nil
}

// lost removes a proxy whose listener broke, and has it opened again.
func (b *balancers) lost(key proxyKey, p *balance.Proxy) {
	b.mu.Lock()
	again := b.proxies[key] == p && !b.stopped
	if again {
		delete(b.proxies, key)
	}
	b.mu.Unlock()
	p.Close()
	if again {
		b.cloud.Lost()
	}
}

// Close ends the checks and the proxies.
func (b *balancers) Close() error {
	b.checker.Close()
	b.mu.Lock()
	b.stopped = true
	for _, p := range b.proxies {
		p.Close()
	}
	b.proxies = map[proxyKey]*balance.Proxy{}
	b.mu.Unlock()
	b.running.Wait()
	return nil
}
