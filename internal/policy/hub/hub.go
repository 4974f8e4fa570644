package hub

import (
	"crypto/tls"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"k8s.io/utils/clock"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/wire"
)

// Config configures a Hub.
type Config struct {
	// Name is the replica's name, for people.
	Name          string
	Authenticator Authenticator
	Budget        compile.Budget
	Log           *slog.Logger
	Clock         clock.Clock
	// Settled, if not nil, is told how long it took from a change to a node's answer that it has it; first: from
	// the node's Hello.
	Settled func(took time.Duration, first bool)
}

// A Hub serves nodes from one replica of the controller.
type Hub struct {
	wire.UnimplementedHubServer
	Config

	mu       sync.RWMutex
	compiler *compile.Compiler
	synced   bool
	// revision counts the changes by Apply and by reported addresses.
	revision uint64
	pods     pods
	open     openNamespaces
	opened   []wire.Named
	sessions map[string]*session // by node
	// arrived is closed when a new pod is added.
	arrived chan struct{}

	tables tables
	// whole limits the sessions that send a whole part at a time: each holds all of it in
	// memory.
	whole chan struct{}
	stats stats
}

// Stats are counters of a Hub.
type Stats struct {
	// Nodes that are connected now.
	Nodes int
	// Refused streams because of an invalid token.
	Refused uint64
	// Revisions that were sent, and those of them that nodes refused.
	Sent, Nacked uint64
	// Resources that were sent, and the bytes of them.
	Resources, Bytes uint64
	// Addresses that nodes told of their pods; Late are those that not all nodes that follow had in AddressWait.
	Addresses, Late uint64
}

type stats struct{ refused, sent, nacked, resources, bytes, addresses, late atomic.Uint64 }

// New returns an empty Hub. Nodes cannot connect before the first Apply.
func New(c Config) *Hub {
	return &Hub{
		Config:   c,
		compiler: compile.New(c.Budget),
		pods:     newPods(),
		open:     newOpenNamespaces(),
		sessions: map[string]*session{},
		arrived:  make(chan struct{}),
		tables:   tables{of: map[compile.Hash]wire.Name{}},
		whole:    make(chan struct{}, 2*runtime.GOMAXPROCS(0)),
	}
}

// gcPercent is the garbage collector's setting for a process with a hub (GOGC). What a hub has is
// large and stays: with Go's 100 the process has twice of it, and collects rarely.
const gcPercent = 30

// SaveMemory makes the process collect garbage more often, for less memory: more so near seven
// eighths of limit, the bytes that the process may have (0: unknown). The rest is for what the
// collector does not count, and for moments. The environment variables GOGC and GOMEMLIMIT have
// precedence.
func SaveMemory(limit int64) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" && limit > 0 {
		debug.SetMemoryLimit(limit / 8 * 7)
	}
}

// Server returns a gRPC server for the Hub. It accepts only TLS connections. certificate
// returns the current certificate, which may change while the server runs.
func (h *Hub) Server(certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *grpc.Server {
	s := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{GetCertificate: certificate, MinVersion: tls.VersionTLS13})),
		grpc.MaxRecvMsgSize(wire.MaxMessage), grpc.MaxSendMsgSize(wire.MaxMessage),
		// Nodes say little. Each connection has such a buffer.
		grpc.ReadBufferSize(4<<10),
		// The keepalive detects nodes that disappeared without closing the connection, and lets
		// the agents detect the same of the hub.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	)
	wire.RegisterHubServer(s, h)
	return s
}

// Apply applies a change of the cluster. The first Delta has everything. An error means that
// the Delta is not valid, and that nothing was changed.
func (h *Hub) Apply(d compile.Delta) error {
	since := h.Clock.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	undo := h.pods.tell(&d)
	nodes, err := h.compiler.Apply(d)
	if err != nil {
		undo()
		return err
	}
	h.synced = true
	h.revision++
	h.mark(h.reopen(d, nodes), since)
	h.tables.limit(h.compiler.Tables())
	if len(d.Pods) > 0 {
		close(h.arrived)
		h.arrived = make(chan struct{})
	}
	return nil
}

// reopen updates the open namespaces after the compiler has applied a Delta, and returns the nodes whose part has changed: these, or all
// if the open namespaces may have. The caller holds mu.
func (h *Hub) reopen(d compile.Delta, nodes []string) []string {
	if !h.open.apply(d, h.compiler.Closing()) {
		return nodes
	}
	h.opened = wire.EncodeNamespaces(h.open.list())
	return slices.Collect(maps.Keys(h.sessions))
}

// Stats returns the Hub's counters.
func (h *Hub) Stats() Stats {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return Stats{
		Nodes: len(h.sessions), Refused: h.stats.refused.Load(),
		Sent: h.stats.sent.Load(), Nacked: h.stats.nacked.Load(), Resources: h.stats.resources.Load(), Bytes: h.stats.bytes.Load(),
		Addresses: h.stats.addresses.Load(), Late: h.stats.late.Load(),
	}
}

// Errors returns the policies whose pods fail closed because the rules exceed the budget.
func (h *Hub) Errors() []*compile.BudgetError {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.compiler.Errors()
}

// mark marks nodes whose parts changed in this revision, because of a change that came at since. The
// caller holds mu.
func (h *Hub) mark(nodes []string, since time.Time) {
	for _, n := range nodes {
		if s := h.sessions[n]; s != nil {
			s.mark(h.revision, since)
		}
	}
}

// take returns the pieces of a node's part that may have changed, the open namespaces, and the
// revision of both.
func (h *Hub) take(f *compile.Follower) (*compile.Pieces, []wire.Named, uint64) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return f.Take(), h.opened, h.revision
}

// claim adds addresses of a pod before the API server has them, or removes them. It returns the
// sessions of the nodes whose part changes, the number of such nodes without a session, and the
// revision.
func (h *Hub) claim(name policy.NamespacedName, node string, addresses []netip.Addr) (follow []*session, elsewhere int, revision uint64, err error) {
	since := h.Clock.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.pods.claims[name]
	d, undo, err := h.pods.claim(name, node, addresses)
	if err != nil {
		return nil, 0, 0, err
	}
	nodes, err := h.compiler.Apply(d)
	if err != nil {
		undo()
		return nil, 0, 0, err
	}
	if marked := h.reopen(d, nodes); len(marked) > 0 {
		h.revision++
		h.mark(marked, since)
	}
	revision = h.revision
	if len(nodes) == 0 && slices.Equal(before.addresses, addresses) {
		// The pod was claimed before, and some nodes may not have its address yet.
		nodes, revision = before.nodes, before.revision
	}
	if len(addresses) > 0 {
		h.pods.claims[name] = claim{addresses, nodes, revision}
	}
	for _, n := range nodes {
		if s := h.sessions[n]; s != nil {
			follow = append(follow, s)
		} else {
			elsewhere++
		}
	}
	return follow, elsewhere, revision, nil
}
