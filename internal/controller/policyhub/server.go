package policyhub

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	authv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/feed"
	"terway.dev/terway/internal/policy/hub"
	"terway.dev/terway/internal/policy/translate"
)

// Options configure a Server.
type Options struct {
	// Namespace of the Secret, the ConfigMap and the agents.
	Namespace string
	// Address to listen on, host:port.
	Address string
	// Replica is this one's name, for people.
	Replica string
	// Cache has the objects that policies are made of, and nothing else does: see CacheOptions. The Server runs it.
	Cache cache.Cache
	// Live reads without a cache; Client writes.
	Live   client.Reader
	Client client.Client
	Budget compile.Budget
	// Settings are those of the cluster's configuration, as they are now.
	Settings func() translate.Options
	Events   events.EventRecorder
	Metrics  prometheus.Registerer
	Log      *slog.Logger
	Clock    clock.Clock
	// Retry is the pause after an error, Look that between two looks for kinds that are not installed and at the
	// certificates.
	Retry, Look time.Duration
}

// A Server is the policy hub of a replica.
type Server struct {
	Options
	hub      *hub.Hub
	feed     *feed.Feed
	changes  changes
	agents   agents
	reports  *reports
	metrics  *metrics
	watching *watching
	// serving is nil until the Secret has been read.
	serving atomic.Pointer[tls.Certificate]
	// synced: the hub has been told everything. broken is why it cannot be told what came after, and serves no node.
	synced atomic.Bool
	broken atomic.Pointer[error]
}

// New is a Server that does nothing yet.
func New(o Options) *Server {
	s := &Server{Options: o, feed: feed.New(translate.Options{}), changes: newChanges(), agents: agents{of: map[policy.NamespacedName]agent{}}, reports: newReports()}
	s.hub = hub.New(hub.Config{
		Name: o.Replica, Budget: o.Budget, Log: o.Log, Clock: o.Clock,
		Authenticator: hub.Tokens{Reviews: reviews{o.Client}, ServiceAccount: policy.NamespacedName{Namespace: o.Namespace, Name: Agents}, NodeOf: s.nodeOf},
		Settled:       func(took time.Duration, first bool) { s.metrics.settled(took, first) },
	})
	s.watching = newWatching(s.put)
	s.metrics = newMetrics(o.Metrics, s)
	return s
}

// SetupWithManager runs the Server on all replicas, and where the controller leads what tells authors.
func (s *Server) SetupWithManager(mgr ctrl.Manager) error {
	if err := mgr.Add(everywhere(s.Start)); err != nil {
		return err
	}
	return mgr.Add(leader(s.Report))
}

// everywhere is what runs on all replicas, leader what runs where the controller leads.
type (
	everywhere func(context.Context) error
	leader     func(context.Context) error
)

func (f everywhere) Start(ctx context.Context) error { return f(ctx) }
func (everywhere) NeedLeaderElection() bool          { return false }
func (f leader) Start(ctx context.Context) error     { return f(ctx) }
func (leader) NeedLeaderElection() bool              { return true }

// Ready is nil if nodes can follow.
func (s *Server) Ready(*http.Request) error {
	if s.serving.Load() == nil {
		return s.noCertificate()
	}
	if err := s.broken.Load(); err != nil {
		return *err
	}
	if !s.synced.Load() {
		return fmt.Errorf("the policy hub has not read the cluster yet: %s", s.watching)
	}
	return nil
}

// Start runs until the context is done.
func (s *Server) Start(ctx context.Context) error {
	l, err := net.Listen("tcp", s.Address)
	if err != nil {
		return fmt.Errorf("--policy-port: %w", err)
	}
	server := s.hub.Server(s.certificate)
	ctx, cancel := context.WithCancelCause(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel(nil)
	// Streams do not end by themselves, and nodes go to another replica at once.
	context.AfterFunc(ctx, server.Stop)
	run := func(what string, f func(context.Context) error) {
		all.Go(func() {
			if err := f(ctx); err != nil {
				cancel(fmt.Errorf("policy hub: %s: %w", what, err))
			}
		})
	}
	run("serve", func(context.Context) error {
		if err := server.Serve(l); !errors.Is(err, grpc.ErrServerStopped) && ctx.Err() == nil {
			return err
		}
		return nil
	})
	run("cache", s.Cache.Start)
	run("certificate", s.keepCertificate)
	run("watch", s.watch)
	run("tell", func(ctx context.Context) error {
		if err := s.tell(ctx); err != nil {
			// Nodes go to another replica. The rest of the controller goes on: pods need addresses.
			server.Stop()
		}
		return nil
	})
	<-ctx.Done()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// SettingsChanged has the Settings asked for at once.
func (s *Server) SettingsChanged() { s.changes.wake() }

// tell tells the hub what changes, as soon as everything has been read, until the hub cannot take a change.
func (s *Server) tell(ctx context.Context) error {
	select {
	case <-s.watching.read:
	case <-ctx.Done():
		return nil
	}
	for first := true; ; first = false {
		s.feed.SetOptions(s.Settings())
		if err := s.apply(first); err != nil {
			return err
		}
		select {
		case <-s.changes.due:
		case <-ctx.Done():
			return nil
		}
	}
}

// apply tells the hub what has changed.
func (s *Server) apply(first bool) error {
	for _, c := range s.changes.take() {
		s.feed.Set(c.object, c.there)
	}
	d, notes := s.feed.Changes()
	if !first && reflect.ValueOf(d).IsZero() && len(notes) == 0 {
		return nil
	}
	began := s.Clock.Now()
	err := s.hub.Apply(d)
	s.metrics.applied(s.Clock.Since(began), err)
	if err != nil {
		// What package feed makes can always be: this is a fault of the program, after which nodes would miss something.
		err = fmt.Errorf("the policy hub cannot take a change, and serves no node until this replica is restarted: %w", err)
		s.Log.Error("policies", "error", err)
		s.broken.Store(&err)
		return err
	}
	s.reports.say(notes, s.hub.Errors())
	if first {
		s.Log.Info("the policy hub has read the cluster", "took", s.Clock.Since(began).Round(time.Millisecond))
		s.synced.Store(true)
	}
	return nil
}

// agents are the pods of Terway's namespace, which the cache does not have as the API server does.
type agents struct {
	mu sync.Mutex
	of map[policy.NamespacedName]agent
}

type agent struct{ uid, node string }

// put says what an object is now, or that it is gone.
func (s *Server) put(o client.Object, there bool) {
	if o.GetNamespace() == s.Namespace {
		if p, ok := feed.Kept(o).(*feed.Pod); ok {
			s.agents.put(policy.NamespacedName(client.ObjectKeyFromObject(o)), agent{string(p.UID), p.Node()}, there)
		}
	}
	s.changes.put(o, there)
}

func (a *agents) put(name policy.NamespacedName, of agent, there bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.of[name] = of; !there {
		delete(a.of, name)
	}
}

// nodeOf is the node of an agent's pod.
func (s *Server) nodeOf(_ context.Context, name policy.NamespacedName, uid string) (string, error) {
	if !s.synced.Load() {
		return "", errors.New("this replica has not read the cluster yet")
	}
	s.agents.mu.Lock()
	defer s.agents.mu.Unlock()
	if a := s.agents.of[name]; a.uid == uid {
		return a.node, nil
	}
	return "", nil
}

// reviews creates TokenReviews.
type reviews struct{ client.Writer }

func (r reviews) Create(ctx context.Context, review *authv1.TokenReview, _ metav1.CreateOptions) (*authv1.TokenReview, error) {
	out := review.DeepCopy()
	return out, r.Writer.Create(ctx, out)
}

// changes are the objects that changed and the hub has not been told of: the newest of each.
type changes struct {
	mu  sync.Mutex
	of  map[object]change
	due chan struct{} // of capacity 1
}

type object struct {
	kind reflect.Type
	name client.ObjectKey
}

type change struct {
	object client.Object
	there  bool
}

func newChanges() changes {
	return changes{of: map[object]change{}, due: make(chan struct{}, 1)}
}

func (c *changes) put(o client.Object, there bool) {
	c.mu.Lock()
	c.of[object{reflect.TypeOf(o), client.ObjectKeyFromObject(o)}] = change{o, there}
	c.mu.Unlock()
	c.wake()
}

func (c *changes) wake() {
	select {
	case c.due <- struct{}{}:
	default:
	}
}

func (c *changes) take() map[object]change {
	c.mu.Lock()
	defer c.mu.Unlock()
	took := c.of
	c.of = map[object]change{}
	return took
}
