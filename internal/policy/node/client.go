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

	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/wire"
)

// A Consumer does what the policies say.
type Consumer interface {
	// Apply brings the node to its part; keys are the entries that may be others than in the call before,
	// nil: all, also those that are gone. What a new entry refers to must be in place before it, and what is gone
	// is taken out after what referred to it. The part is the caller's, and must not be used after the call. After
	// an error the next call has nil keys.
	Apply(part *compile.Node, keys *wire.Keys) error
}

// Config is what a Client needs.
type Config struct {
	// Path is the state's file. Its folder must be there.
	Path     string
	Consumer Consumer
	// Version is the agent's, for people.
	Version string
	// Hubs are the addresses of all replicas, as host:port. The node follows any of them.
	Hubs func(context.Context) ([]string, error)
	// ServerName is the DNS name in the hub's certificate.
	ServerName string
	// Trust is the certificates to trust, in PEM; they are asked for each connection.
	Trust func() ([]byte, error)
	// Token is this node's token, as it is now.
	Token func() (string, error)
	Log   *slog.Logger
	Clock clock.Clock
}

// A Client follows the hub.
type Client struct {
	Config

	mu    sync.Mutex
	part  *wire.Part
	state Status
	// whole: the Consumer has to be given everything.
	whole bool
	// put and remove came after the last Settled.
	put    map[wire.Name]*wire.Resource
	remove map[wire.Name]struct{}
	// unsaved, of capacity 1: the file is not current.
	unsaved chan struct{}

	stream  atomic.Pointer[stream]
	others  sync.Map      // target: *stream, to the replicas that the node does not follow
	ask     atomic.Uint64 // the last id of a PodAddress
	waiting sync.Map      // id: chan answer
	// requests has room for those that wait.
	requests chan struct{}
	stats    stats
}

// Status says what the node has, and from whom.
type Status struct {
	// Following: a stream is open.
	Following bool
	// Hub is the replica's name, Revision its count, Settled the time: of the last revision. Zero: none yet.
	Hub      string
	Revision uint64
	Settled  time.Time
	// Refused is why the Consumer has not done it; empty: it has.
	Refused string
	// Error is why there is no stream.
	Error string
}

// Stats are what a Client has done.
type Stats struct {
	// Connects are streams that were opened.
	Connects uint64
	// Put and Removed are resources, Bytes those of the first.
	Put, Removed, Bytes uint64
	// Addresses were told; Late are those that not all nodes had in time, or that no hub took.
	Addresses, Late uint64
}

type stats struct{ connects, put, removed, bytes, addresses, late atomic.Uint64 }

const (
	// The wait between two attempts to follow grows from the first to the last of these.
	retryFirst, retryLast = 100 * time.Millisecond, 10 * time.Second
	// The same between two attempts of the Consumer.
	applyFirst, applyLast = time.Second, 30 * time.Second
	// saveEvery is the least time between two writes of the file.
	saveEvery = time.Second
	// tokenEvery is how often the token is looked at. The kubelet writes a new one when 80 % of the old one's time
	// is over, and that is 10 minutes at least.
	tokenEvery = time.Minute
)

// New is a Client with what is on disk, which the Consumer has been given. What cannot be read or used
// is logged; the Client has nothing then.
func New(c Config) *Client {
	cl := &Client{Config: c, part: wire.NewPart(), whole: true, put: map[wire.Name]*wire.Resource{}, remove: map[wire.Name]struct{}{}, unsaved: make(chan struct{}, 1), requests: make(chan struct{}, requests)}
	s, err := load(c.Path)
	if err == nil && s != nil {
		err = cl.restore(s)
	}
	if err != nil {
		c.Log.Error("the policies on disk cannot be used; what pods may do is not known before a hub says it", "why", err)
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

// consume gives the part to the Consumer. The caller holds mu, or is alone.
func (c *Client) consume(keys *wire.Keys) {
	if c.whole {
		keys = nil
	}
	c.state.Refused = ""
	c.whole = false
	if err := c.Consumer.Apply(c.part.Node(), keys); err != nil {
		c.whole = true
		c.state.Refused = err.Error()
		c.Log.Error("what policies say cannot be done", "revision", c.state.Revision, "why", err)
	}
}

// Status is what the node has.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.state
	s.Following = c.stream.Load() != nil
	return s
}

// Stats are what the Client has done.
func (c *Client) Stats() Stats {
	return Stats{
		c.stats.connects.Load(), c.stats.put.Load(), c.stats.removed.Load(), c.stats.bytes.Load(),
		c.stats.addresses.Load(), c.stats.late.Load(),
	}
}

// Open says whether, by the last revision, no policy can deny a pod of the namespace anything,
// whatever its labels. Then a pod may start while no hub answers. False also: not known.
func (c *Client) Open(namespace string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.part.Open(namespace)
}

// Run follows a hub until the context is done.
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
		c.Log.Warn("no policy hub", "why", err, "again in", wait)
		// All nodes lose a replica at once, and come to the others at different times.
		if !c.sleep(ctx, wait/2+rand.N(wait)) {
			return
		}
		wait = min(2*wait, retryLast)
	}
}

// sleep is false if the context ends first.
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

// update takes a part of a difference.
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

// settle does what the updates said, and returns the answer. After an error the stream must end.
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
		// The part is as it was, and the next stream begins with what it has.
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

// keep writes the file when it is not current: at once, but not more often than each saveEvery.
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
		// The node does what it is told; only a restart without a hub would miss it.
		c.Log.Error("the policies cannot be kept on disk", "why", err)
	}
}

// file is what is on disk when it is current. The caller holds mu.
func (c *Client) file() *wire.State {
	s := &wire.State{Revision: c.state.Revision, Hub: c.state.Hub, Settled: c.state.Settled.UnixMilli()}
	for _, r := range c.part.Resources() {
		s.Resources = append(s.Resources, r)
	}
	return s
}
