package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/wire"
)

const (
	// AddressWait is how long the hub waits until nodes have a pod's address. A pod's start
	// waits half a second; the rest is for the network.
	AddressWait = 450 * time.Millisecond
	// requests is the number of address requests of a node that are handled at a time. More
	// wait.
	requests = 64
	// reviewTimeout limits a TokenReview.
	reviewTimeout = 10 * time.Second
	// wholeTimeout is how long a node may take to read its whole part before another one's is
	// made. A part is usually some 100 kB.
	wholeTimeout = time.Second
)

// A session is a node's stream.
type session struct {
	hub    *Hub
	node   string
	stream wire.Hub_FollowServer
	cancel context.CancelCauseFunc

	dirty   chan struct{} // capacity 1
	acks    chan *wire.Ack
	tokens  chan string
	answers chan *wire.ToNode

	follower *compile.Follower
	holdings *holdings
	// digest is that of what the node has after it applies everything that was sent.
	digest wire.Digest
	// settled: the node has applied the last revision that was sent to it.
	settled bool

	mu sync.Mutex
	// due is the last revision that changes the node's part. reached is the revision that the
	// node has.
	due, reached uint64
	// asked is when the first change came that is not on the way, sent the same of what is; zero: none.
	asked, sent time.Time
	first       bool // nothing has been settled yet
	// progress is closed when reached has grown.
	progress chan struct{}
}

// Follow implements wire.HubServer.
func (h *Hub) Follow(stream wire.Hub_FollowServer) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	token, id, err := h.admit(ctx)
	if err != nil {
		return err
	}
	h.mu.RLock()
	synced := h.synced
	h.mu.RUnlock()
	if !synced {
		return status.Error(codes.Unavailable, "this replica has not read the cluster yet")
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil || hello.Format == 0 {
		return status.Errorf(codes.InvalidArgument, "the first message of node %s is %T: want Hello with a format", id.Node, first.Message)
	}
	names, err := wire.Names(hello.Have)
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "Hello of node %s: %v", id.Node, err)
	}
	s := &session{
		hub: h, node: id.Node, stream: stream, cancel: cancel,
		dirty: make(chan struct{}, 1), acks: make(chan *wire.Ack), tokens: make(chan string), answers: make(chan *wire.ToNode),
		holdings: newHoldings(names), progress: make(chan struct{}), first: true,
	}
	for _, h := range s.holdings.names { // each once
		s.digest.Add(h.name)
	}
	if !hello.AddressesOnly {
		s.enter()
		defer s.leave()
	}
	go s.listen(ctx)
	h.Log.Debug("node connected", "node", s.node, "agent", hello.Version, "has", len(names))
	err = s.run(ctx, token, id.Expires)
	h.Log.Debug("node disconnected", "node", s.node, "why", err)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if _, ok := status.FromError(err); !ok {
		err = status.FromContextError(err).Err()
	}
	return err
}

// admit authenticates the caller.
func (h *Hub) admit(ctx context.Context) (token string, id Identity, err error) {
	defer func() {
		if status.Code(err) == codes.Unauthenticated {
			h.stats.refused.Add(1)
		}
	}()
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", id, status.Error(codes.Unauthenticated, "the connection has no peer")
	}
	if _, ok := p.AuthInfo.(credentials.TLSInfo); !ok {
		return "", id, status.Error(codes.Unauthenticated, "the connection has no TLS")
	}
	md, _ := metadata.FromIncomingContext(ctx)
	header := md.Get("authorization")
	if len(header) != 1 || !strings.HasPrefix(header[0], "Bearer ") {
		return "", id, status.Errorf(codes.Unauthenticated, "%d authorization headers: want one, \"Bearer TOKEN\"", len(header))
	}
	token = strings.TrimPrefix(header[0], "Bearer ")
	id, err = h.review(ctx, token)
	return token, id, err
}

// review asks the Authenticator whose token it is.
func (h *Hub) review(ctx context.Context, token string) (Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	id, err := h.Authenticator.Review(ctx, token)
	var refused *RefusedError
	switch {
	case errors.As(err, &refused):
		h.Log.Warn("a node's token was refused", "why", refused.Why)
		return id, status.Error(codes.Unauthenticated, refused.Error())
	case err != nil:
		return id, status.Errorf(codes.Unavailable, "review the token: %v", err)
	case !h.Clock.Now().Before(id.Expires):
		return id, status.Errorf(codes.Unauthenticated, "the token of node %s expired at %s", id.Node, id.Expires.UTC().Format(time.RFC3339))
	}
	return id, nil
}

// enter makes the session the current one of its node.
func (s *session) enter() {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if was := h.sessions[s.node]; was != nil {
		was.cancel(status.Errorf(codes.Aborted, "node %s has a newer stream", s.node))
	}
	h.sessions[s.node] = s
	s.follower = h.compiler.Follow(s.node)
	s.mark(h.revision, h.Clock.Now())
}

func (s *session) leave() {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sessions[s.node] == s {
		delete(h.sessions, s.node)
	}
	h.compiler.Unfollow(s.follower)
}

// mark records that the node's part changes with a revision, because of a change that came at since.
func (s *session) mark(revision uint64, since time.Time) {
	s.mu.Lock()
	s.due = revision
	if s.asked.IsZero() {
		s.asked = since
	}
	s.mu.Unlock()
	select {
	case s.dirty <- struct{}{}:
	default:
	}
}

// reach records that the node has a revision.
func (s *session) reach(revision uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reached = max(s.reached, revision)
	close(s.progress)
	s.progress = make(chan struct{})
	if !s.sent.IsZero() {
		if s.hub.Settled != nil {
			s.hub.Settled(s.hub.Clock.Since(s.sent), s.first)
		}
		s.sent, s.first = time.Time{}, false
	}
}

// wait waits until the node has a revision.
func (s *session) wait(ctx context.Context, revision uint64) bool {
	for {
		s.mu.Lock()
		has, progress := s.reached >= revision || s.reached >= s.due, s.progress
		s.mu.Unlock()
		if has {
			return true
		}
		select {
		case <-progress:
		case <-ctx.Done():
			return false
		}
	}
}

// run sends the differences to the node, and the answers to its requests. Only run sends on the
// stream.
func (s *session) run(ctx context.Context, token string, expires time.Time) error {
	var onTheWay bool
	var revision uint64
	expiry := s.hub.Clock.NewTimer(expires.Sub(s.hub.Clock.Now()))
	defer func() { expiry.Stop() }()
	renew := func() error {
		id, err := s.hub.review(ctx, token)
		if err != nil {
			return err
		}
		if id.Node != s.node {
			return status.Errorf(codes.Unauthenticated, "the token is of node %s, the stream of node %s", id.Node, s.node)
		}
		expiry.Stop()
		expiry = s.hub.Clock.NewTimer(id.Expires.Sub(s.hub.Clock.Now()))
		return nil
	}
	for {
		dirty := s.dirty
		if onTheWay {
			dirty = nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-dirty:
			var err error
			if revision, onTheWay, err = s.push(ctx); err != nil {
				return err
			}
		case a := <-s.acks:
			// A node that refused an earlier revision may accept it now.
			if a.Revision == revision {
				onTheWay, s.settled = false, a.Refused == ""
			}
			if a.Refused != "" {
				s.hub.stats.nacked.Add(1)
				s.hub.Log.Warn("node cannot apply the policies", "node", s.node, "revision", a.Revision, "why", a.Refused)
			} else if a.Revision <= revision {
				s.reach(a.Revision)
			}
		case m := <-s.answers:
			if err := s.stream.Send(m); err != nil {
				return err
			}
		case token = <-s.tokens:
			// While the API server cannot be reached, the former token stays valid.
			if err := renew(); err != nil && status.Code(err) != codes.Unavailable {
				return err
			}
		case <-expiry.C():
			if err := renew(); err != nil {
				return err
			}
		}
	}
}

// push sends the difference between what the node should have and what it has. If there is
// none, nothing is sent.
func (s *session) push(ctx context.Context) (revision uint64, onTheWay bool, err error) {
	done, err := s.turn(ctx)
	if err != nil {
		return 0, false, err
	}
	defer done()
	s.mu.Lock()
	if s.sent.IsZero() { // the node has refused what was sent before
		s.sent = s.asked
	}
	s.asked = time.Time{}
	s.mu.Unlock()
	pieces, open, revision := s.hub.take(s.follower)
	d := s.holdings.update(pieces, open, &s.hub.tables)
	if len(d.put)+len(d.remove) == 0 && s.settled {
		s.reach(revision)
		return revision, false, nil
	}
	m, size := &wire.Update{}, 0
	flush := func() error {
		if size == 0 {
			return nil
		}
		s.hub.stats.resources.Add(uint64(len(m.Put)))
		s.hub.stats.bytes.Add(uint64(size))
		out := m
		m, size = &wire.Update{}, 0
		return s.stream.Send(&wire.ToNode{Message: &wire.ToNode_Update{Update: out}})
	}
	add := func(by int) error {
		if size += by; size >= wire.MaxUpdate {
			return flush()
		}
		return nil
	}
	for i, r := range d.put {
		d.put[i] = wire.Named{} // what has been sent is garbage
		s.digest.Add(r.Name)
		m.Put = append(m.Put, r.Resource)
		if err := add(len(r.Body)); err != nil {
			return 0, false, err
		}
	}
	for _, name := range d.remove {
		s.digest.Add(name)
		m.Remove = append(m.Remove, name[:])
		if err := add(len(name)); err != nil {
			return 0, false, err
		}
	}
	if err := flush(); err != nil {
		return 0, false, err
	}
	s.hub.stats.sent.Add(1)
	digest := s.digest
	return revision, true, s.stream.Send(&wire.ToNode{Message: &wire.ToNode_Settled{Settled: &wire.Settled{Revision: revision, Hub: s.hub.Name, Digest: digest[:]}}})
}

// turn waits, if the next difference is of the whole part, until few others send theirs. A node
// that does not read keeps others waiting for wholeTimeout at most.
func (s *session) turn(ctx context.Context) (done func(), err error) {
	s.hub.mu.RLock()
	whole := s.follower.Whole()
	s.hub.mu.RUnlock()
	if !whole {
		return func() {}, nil
	}
	select {
	case s.hub.whole <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	free := sync.OnceFunc(func() { <-s.hub.whole })
	timer := time.AfterFunc(wholeTimeout, free)
	return func() {
		timer.Stop()
		free()
	}, nil
}

// listen reads the node's messages.
func (s *session) listen(ctx context.Context) {
	waiting := make(chan struct{}, requests)
	for {
		m, err := s.stream.Recv()
		if err != nil {
			s.cancel(err)
			return
		}
		// A message that this version does not know matches no case.
		switch m := m.Message.(type) {
		case *wire.FromNode_Ack:
			say(ctx, s.acks, m.Ack)
		case *wire.FromNode_Token:
			say(ctx, s.tokens, m.Token.Token)
		case *wire.FromNode_PodAddress:
			if !say(ctx, waiting, struct{}{}) {
				return
			}
			go func() {
				defer func() { <-waiting }()
				answer := s.hub.podAddress(ctx, s.node, m.PodAddress)
				say(ctx, s.answers, &wire.ToNode{Message: &wire.ToNode_AddressKnown{AddressKnown: answer}})
			}()
		}
	}
}

func say[T any](ctx context.Context, to chan<- T, what T) bool {
	select {
	case to <- what:
		return true
	case <-ctx.Done():
		return false
	}
}

// podAddress handles a pod's address: it waits until the nodes whose rules select the pod have
// it.
func (h *Hub) podAddress(ctx context.Context, node string, m *wire.PodAddress) *wire.AddressKnown {
	out := &wire.AddressKnown{Id: m.Id}
	h.stats.addresses.Add(1)
	defer func() {
		if out.Late > 0 {
			h.stats.late.Add(1)
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	timer := h.Clock.NewTimer(AddressWait)
	defer timer.Stop()
	go func() {
		select {
		case <-timer.C():
			cancel()
		case <-ctx.Done():
		}
	}()
	addresses, err := podAddresses(m)
	if err != nil {
		out.Refused = err.Error()
		return out
	}
	name := policy.NamespacedName{Namespace: m.Namespace, Name: m.Pod}
	var follow []*session
	var elsewhere int
	var revision uint64
	for {
		h.mu.RLock()
		arrived := h.arrived
		h.mu.RUnlock()
		follow, elsewhere, revision, err = h.claim(name, node, addresses)
		var notThere errNotThere
		if !errors.As(err, &notThere) {
			break
		}
		// The agent may know a pod before the hub does.
		select {
		case <-arrived:
			continue
		case <-ctx.Done():
		}
		break
	}
	if err != nil {
		out.Refused = err.Error()
		return out
	}
	out.Elsewhere = uint32(elsewhere)
	for _, s := range follow {
		if s.wait(ctx, revision) {
			out.Nodes++
		} else {
			out.Late++
		}
	}
	return out
}

func podAddresses(m *wire.PodAddress) ([]netip.Addr, error) {
	if m.Namespace == "" || m.Pod == "" {
		return nil, fmt.Errorf("address of pod %q in namespace %q: want both names", m.Pod, m.Namespace)
	}
	var out []netip.Addr
	for _, b := range m.Addresses {
		a, err := wire.Address(b)
		if err != nil {
			return nil, fmt.Errorf("pod %s/%s: %w", m.Namespace, m.Pod, err)
		}
		if !a.IsGlobalUnicast() {
			return nil, fmt.Errorf("pod %s/%s: address %s: want one of a host's", m.Namespace, m.Pod, a)
		}
		for _, o := range out {
			if o.Is4() == a.Is4() {
				return nil, fmt.Errorf("pod %s/%s: addresses %s and %s: want at most one of each family", m.Namespace, m.Pod, o, a)
			}
		}
		out = append(out, a)
	}
	return out, nil
}
