package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/utils/clock"

	"terway.dev/terway/internal/policy/wire"
)

// A Consumer enforces the policies.
type Consumer interface {
	// Apply brings the node to the state of part. keys are the entries that may have changed or
	// gone since the last call; nil means any. A new entry must come after what it refers to,
	// and an entry must be removed after those that refer to it. part belongs to the Client,
	// and must not be used after the call. After an error the next call has nil keys.
	Apply(part *wire.Part, keys *wire.Keys) error
}

// Config configures a Client.
type Config struct {
	// Path is the state file. Its directory must exist.
	Path     string
	Consumer Consumer
	// Version is the agent's version, for people.
	Version string
	// Hubs returns the addresses of all replicas, as host:port. The node connects to one of
	// them.
	Hubs func(context.Context) ([]string, error)
	// ServerName is the DNS name in the hub's certificate.
	ServerName string
	// Trust returns the trusted certificates, in PEM. It is called for each connection.
	Trust func() ([]byte, error)
	// Token returns this node's current token.
	Token func() (string, error)
	Log   *slog.Logger
	Clock clock.Clock
}

// A Client receives the policies from a hub.
type Client struct {
	Config

	mu    sync.Mutex
	part  *wire.Part
	state Status
	// whole: the Consumer needs the complete state.
	whole bool
	// put and remove are the changes since the last Settled.
	put    map[wire.Name]*wire.Resource
	remove map[wire.Name]struct{}
	// unsaved has capacity 1, and is full when the file is not up to date.
	unsaved chan struct{}

	stream  atomic.Pointer[stream]
	others  sync.Map      // target: *stream, to the replicas that the node is not connected to
	ask     atomic.Uint64 // the last id of a PodAddress
	waiting sync.Map      // id: chan answer
	// requests limits the requests that wait.
	requests chan struct{}
	stats    stats
}

// Status describes what the node has, and from which replica.
type Status struct {
	// Following: a stream to a hub is open.
	Following bool
	// Hub, Revision and Settled are the replica's name, its revision number and the time of the
	// last revision. Zero: none yet.
	Hub      string
	Revision uint64
	Settled  time.Time
	// Refused is the Consumer's error for the last revision, or empty.
	Refused string
	// Error is why there is no stream.
	Error string
}

// Stats are counters of a Client.
type Stats struct {
	// Connects counts the streams that were opened.
	Connects uint64
	// Put and Removed count resources; Bytes is the size of those in Put.
	Put, Removed, Bytes uint64
	// Addresses counts reported addresses; Late those that some nodes did not have in time, or
	// that no hub accepted.
	Addresses, Late uint64
}

type stats struct{ connects, put, removed, bytes, addresses, late atomic.Uint64 }

const (
	// First and longest pause between two attempts to connect.
	retryFirst, retryLast = 100 * time.Millisecond, 10 * time.Second
	// First and longest pause between two attempts of the Consumer.
	applyFirst, applyLast = time.Second, 30 * time.Second
	// saveEvery is the minimum time between two writes of the file.
	saveEvery = time.Second
	// tokenEvery is the interval for reading the token file. The kubelet renews a token after
	// 80 % of its lifetime, which is at least 10 minutes.
	tokenEvery = time.Minute
)

// New returns a Client with the state on disk, and gives it to the Consumer. If the file cannot
// be read or used, New logs it, and the Client is empty.
func New(c Config) *Client {
	cl := &Client{Config: c, part: wire.NewPart(), whole: true, put: map[wire.Name]*wire.Resource{}, remove: map[wire.Name]struct{}{}, unsaved: make(chan struct{}, 1), requests: make(chan struct{}, requests)}
	s, err := load(c.Path)
	if err == nil && s != nil {
		err = cl.restore(s)
	}
	if err != nil {
		c.Log.Error("the policies on disk cannot be used; pods have no rules until a hub sends them", "why", err)
	}
	return cl
}

func (c *Client) restore(s *wire.State) error {
	resources := names(s.Resources)
	var digest wire.Digest
	for n := range resources {
		digest.Add(n)
	}
	if _, err := c.part.Change(resources, nil, digest); err != nil {
		return err
	}
	c.state = Status{Hub: s.Hub, Revision: s.Revision, Settled: time.UnixMilli(s.Settled)}
	c.consume(nil)
	return nil
}

// consume gives the part to the Consumer. The caller holds mu, or nothing else uses the Client
// yet.
func (c *Client) consume(keys *wire.Keys) {
	if c.whole {
		keys = nil
	}
	c.state.Refused = ""
	c.whole = false
	if err := c.Consumer.Apply(c.part, keys); err != nil {
		c.whole = true
		c.state.Refused = err.Error()
		c.Log.Error("the policies cannot be applied", "revision", c.state.Revision, "why", err)
	}
}

// Status returns what the node has.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.state
	s.Following = c.stream.Load() != nil
	return s
}

// Stats returns the Client's counters.
func (c *Client) Stats() Stats {
	return Stats{
		c.stats.connects.Load(), c.stats.put.Load(), c.stats.removed.Load(), c.stats.bytes.Load(),
		c.stats.addresses.Load(), c.stats.late.Load(),
	}
}

// Open reports whether, by the last revision, no policy can deny any connection of a pod of the
// namespace, whatever its labels. Then a pod may start while no hub can be reached. False also
// if it is not known.
func (c *Client) Open(namespace string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.part.Open(namespace)
}

// Run keeps a connection to a hub until the context is done.
func (c *Client) Run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { c.retry(ctx) })
	all.Go(func() { c.keep(ctx) })
	all.Go(func() { c.tellOthers(ctx) })
	wait := retryFirst
	for n := rand.N(1 << 16); ; n++ {
		settled, err := c.follow(ctx, n)
		if ctx.Err() != nil {
			return
		}
		if settled {
			wait = retryFirst
		}
		c.mu.Lock()
		c.state.Error = err.Error()
		c.mu.Unlock()
		c.Log.Warn("no connection to a policy hub", "why", err, "again in", wait)
		// All nodes lose a replica at the same time. The random wait spreads their reconnects.
		if !c.sleep(ctx, wait/2+rand.N(wait)) {
			return
		}
		wait = min(2*wait, retryLast)
	}
}

// sleep returns false if the context ends first.
func (c *Client) sleep(ctx context.Context, d time.Duration) bool {
	t := c.Clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
		return true
	case <-ctx.Done():
		return false
	}
}

// Again gives the part to the Consumer once more, which may make something else of it now, and returns what it says.
// While there is no part it does nothing.
func (c *Client) Again() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Settled.IsZero() {
		return nil
	}
	c.again(&wire.Keys{})
	if c.state.Refused != "" {
		return errors.New(c.state.Refused)
	}
	return nil
}

// again gives the part to the Consumer, and tells the hub if it can be done now. The caller holds mu.
func (c *Client) again(keys *wire.Keys) {
	refused := c.state.Refused != ""
	c.consume(keys)
	if s := c.stream.Load(); refused && s != nil && s.settled && c.state.Refused == "" {
		_ = s.send(ack(c.state.Revision, "")) // the one who reads finds out if the stream has ended
	}
}

// retry gives the part again to a Consumer that could not do it.
func (c *Client) retry(ctx context.Context) {
	wait := applyFirst
	for c.sleep(ctx, wait) {
		c.mu.Lock()
		failed := c.state.Refused != ""
		if !failed {
			wait = applyFirst
		} else {
			wait = min(2*wait, applyLast)
			c.again(nil)
		}
		c.mu.Unlock()
	}
}

func ack(revision uint64, refused string) *wire.FromNode {
	return &wire.FromNode{Message: &wire.FromNode_Ack{Ack: &wire.Ack{Revision: revision, Refused: refused}}}
}

// update stores a part of a difference.
func (c *Client) update(u *wire.Update) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	gone, err := wire.Names(u.Remove)
	if err != nil {
		return err
	}
	for _, r := range u.Put {
		n := r.Name()
		delete(c.remove, n)
		c.put[n] = r
		c.stats.bytes.Add(uint64(len(r.Body)))
	}
	for _, n := range gone {
		delete(c.put, n)
		c.remove[n] = struct{}{}
	}
	c.stats.put.Add(uint64(len(u.Put)))
	c.stats.removed.Add(uint64(len(gone)))
	return nil
}

// settle applies the updates and returns the answer. After an error the stream must end.
func (c *Client) settle(st *stream, m *wire.Settled) (*wire.FromNode, error) {
	if len(m.Digest) != len(wire.Digest{}) {
		return nil, fmt.Errorf("digest %x of revision %d has %d bytes: want %d", m.Digest, m.Revision, len(m.Digest), len(wire.Digest{}))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	keys, err := c.part.Change(c.put, c.remove, wire.Digest(m.Digest))
	clear(c.put)
	clear(c.remove)
	if err != nil {
		// The part is unchanged, and the next stream starts from it.
		return ack(m.Revision, err.Error()), fmt.Errorf("revision %d of hub %s: %w", m.Revision, m.Hub, err)
	}
	st.settled = true
	c.state = Status{Hub: m.Hub, Revision: m.Revision, Settled: c.Clock.Now(), Refused: c.state.Refused}
	if c.whole || !keys.Empty() {
		c.consume(keys)
	}
	select {
	case c.unsaved <- struct{}{}:
	default:
	}
	return ack(m.Revision, c.state.Refused), nil
}

// keep writes the file when it is not up to date: at once, but not more often than saveEvery.
func (c *Client) keep(ctx context.Context) {
	for done := false; !done; {
		select {
		case <-c.unsaved:
			c.save()
			done = !c.sleep(ctx, saveEvery)
		case <-ctx.Done():
			done = true
		}
	}
	select {
	case <-c.unsaved:
		c.save()
	default:
	}
}

func (c *Client) save() {
	c.mu.Lock()
	s := c.file()
	c.mu.Unlock()
	if err := save(c.Path, s); err != nil {
		// The rules are in force; only a restart without a hub would lose them.
		c.Log.Error("the policies cannot be kept on disk", "why", err)
	}
}

// file returns the content of an up-to-date file. The caller holds mu.
func (c *Client) file() *wire.State {
	s := &wire.State{Revision: c.state.Revision, Hub: c.state.Hub, Settled: c.state.Settled.UnixMilli()}
	for _, r := range c.part.Resources() {
		s.Resources = append(s.Resources, r)
	}
	return s
}
