package vpcsim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/vpcsim/fabric"
	"terway.dev/terway/internal/vpcsim/state"
)

// names is the plane that resolves the names of load balancers, by DNS over UDP: for a VPC in the namespace of
// its load balancers, at their own address, and for clients outside in theirs. It has no other names.
type names struct {
	at interface {
		NetNSPath(id string) (string, error)
	}
	log     *slog.Logger
	running sync.WaitGroup
	// addresses are those of each name, which has a dot at its end.
	addresses atomic.Pointer[map[string][]netip.Addr]

	mu      sync.Mutex
	stopped bool
	open    map[string]*resolver // by the ids of their namespaces
}

// resolver answers in one namespace.
type resolver struct {
	net.PacketConn
	inode uint64 // of the namespace, which may be made anew under the same path
}

// Connect has nothing to connect: the plane reports nothing.
func (n *names) Connect(Feedback) {}

// Apply makes the names those of the view, and answers in all namespaces that there are now.
func (n *names) Apply(_ context.Context, view *state.View) error {
	addresses := map[string][]netip.Addr{}
	want := map[string]netip.Addr{}
	for i := range view.Balancers {
		b := &view.Balancers[i]
		if b.VpcId == "" {
			continue
		}
		want[fabric.BalancersOf(b.VpcId)] = fabric.BalancerSource.Addr()
		var private, public []netip.Addr
		for _, a := range b.Addresses {
			if !a.Public {
				private = append(private, a.Address)
				continue
			}
			public = append(public, a.Address)
			want[fabric.OutsideID] = fabric.Outside.Addr()
		}
		if b.DNSName == "" {
			continue
		}
		if public == nil {
			public = private
		}
		addresses[strings.ToLower(b.DNSName)+"."] = public
	}
	n.addresses.Store(&addresses)

	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stopped {
		return nil
	}
	var errs []error
	for id, r := range n.open {
		if !want[id].IsValid() {
			errs = append(errs, r.Close())
			delete(n.open, id)
		}
	}
	for id, address := range want {
		if err := n.ensure(id, address); err != nil {
			errs = append(errs, fmt.Errorf("resolve names in %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

// ensure answers at an address in a namespace. The caller holds mu.
func (n *names) ensure(id string, at netip.Addr) error {
	path, err := n.at.NetNSPath(id)
	if err != nil {
		return err
	}
	var now unix.Stat_t
	if err := unix.Stat(path, &now); err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	if old := n.open[id]; old != nil {
		if old.inode == now.Ino {
			return nil
		}
		_ = old.Close() // nobody reaches it any more
		delete(n.open, id)
	}
	r := &resolver{inode: now.Ino}
	if err := kernel.InNSAt(path, func() (err error) {
		r.PacketConn, err = net.ListenPacket("udp4", netip.AddrPortFrom(at, 53).String())
		return err
	}); err != nil {
		return err
	}
	n.open[id] = r
	n.running.Go(func() { n.serve(r) })
	return nil
}

// serve answers until the socket is closed.
func (n *names) serve(r *resolver) {
	query := make([]byte, 4096)
	for {
		size, from, err := r.ReadFrom(query)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			if reply := answer(query[:size], *n.addresses.Load()); reply != nil {
				_, err = r.WriteTo(reply, from)
			}
		}
		if err != nil {
			n.log.Debug("a query for a load balancer's name", "err", err)
		}
	}
}

// Close ends all answers.
func (n *names) Close() error {
	n.mu.Lock()
	n.stopped = true
	var errs []error
	for _, r := range n.open {
		errs = append(errs, r.Close())
	}
	n.open = nil
	n.mu.Unlock()
	n.running.Wait()
	return errors.Join(errs...)
}

// nameTTL is for how many seconds an answer may be used: one, because load balancers come and go in the simulated cloud.
const nameTTL = 1

// answer returns the reply to a query, and nil to what is none.
func answer(query []byte, addresses map[string][]netip.Addr) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil || h.Response {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	reply := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: h.ID, Response: true, OpCode: h.OpCode, Authoritative: true, RecursionDesired: h.RecursionDesired, RecursionAvailable: true},
		Questions: []dnsmessage.Question{q},
	}
	list, ok := addresses[strings.ToLower(q.Name.String())]
	switch {
	case h.OpCode != 0:
		reply.RCode = dnsmessage.RCodeNotImplemented
	case !ok:
		reply.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA && q.Class == dnsmessage.ClassINET:
		for _, a := range list {
			reply.Answers = append(reply.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: nameTTL},
				Body:   &dnsmessage.AResource{A: a.As4()},
			})
		}
	}
	out, err := reply.Pack()
	if err != nil {
		return nil
	}
	return out
}
