// Package vpcsim runs the simulated VPC. It owns the state under one lock, the clock, the
// files, the listeners, and the order in which a change is saved, applied to the data plane,
// and answered.
//
// It must never decide what the cloud does (package state), the form of a call (package
// openapi) or the path of a frame (package fabric). The product never imports it.
package vpcsim

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/vpcsim/faults"
	"terway.dev/terway/internal/vpcsim/openapi"
	"terway.dev/terway/internal/vpcsim/openapi/sts"
	"terway.dev/terway/internal/vpcsim/state"
)

// Options configure a Server. The zero value is a simulator in memory, without a fabric, on a
// free port of loopback.
type Options struct {
	// Listen is the address of the API; default 127.0.0.1:0.
	Listen string
	// StateDir has the state and the account's keys; empty: nothing is saved.
	StateDir string
	// RegionID, Zones, OwnerID, Seed, Timing and Limits are options of the state. Seed is also
	// used for faults.
	RegionID string
	Zones    []string
	OwnerID  string
	Seed     uint64
	Timing   state.Timing
	Limits   state.Limits
	Catalog  *catalog.Catalog // default: the built-in one
	// Fabric is the first plane, with the instances; nil: none.
	Fabric Fabric
	// Planes are the other planes. Changes are applied in this order, after the fabric, and the
	// planes are closed in reverse order. The Server closes all planes, also when New fails.
	Planes []Plane
	// Faults are the initial rules.
	Faults []faults.Rule
	// Throttle has the rates of calls.
	Throttle openapi.Throttle
	// RefuseReplay checks timestamps and nonces of calls.
	RefuseReplay bool
	// RoleLife is the lifetime of RAM role credentials of instances; default 6 hours.
	RoleLife time.Duration
	// Now is the clock; default time.Now. Waiting always uses real time.
	Now func() time.Time
	// Random is the source of keys and request ids; default crypto/rand.
	Random io.Reader
	Log    *slog.Logger
}

// Server is a running simulator.
type Server struct {
	Options
	authority *sts.Authority
	faults    *faults.Set
	stats     *openapi.Stats
	api       *openapi.Handler
	store     *store
	planes    []Plane
	// checksHealth: a plane checks the backends of load balancers.
	checksHealth bool

	listener net.Listener
	http     *http.Server
	stop     context.CancelFunc
	ctx      context.Context
	running  sync.WaitGroup
	closing  sync.Once
	closed   error
	wake     chan struct{}

	// mu guards the fields below.
	mu         sync.Mutex
	cloud      *state.State
	conditions *faults.Conditions // as last set in the cloud; nil: not yet
	history    []snapshot
	reapply    bool   // a plane lost something
	committed  uint64 // revision plus one; 0: never

	// commits is held while a change is saved and applied. It is locked before mu.
	commits sync.Mutex
	saved   uint64 // like committed
	applied uint64
}

// New loads the state, applies it to the planes and starts to serve.
func New(o Options) (*Server, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Catalog == nil {
		o.Catalog = catalog.Default()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{Options: o, wake: make(chan struct{}, 1), stats: openapi.NewStats(), faults: faults.New(o.Seed)}
	s.ctx, s.stop = context.WithCancel(context.Background())
	if s.Fabric != nil {
		s.planes = append(s.planes, s.Fabric, newGuests(s))
		if b := newBalancers(s); b != nil {
			s.planes = append(s.planes, b, &names{at: b.at, log: s.Log, open: map[string]*resolver{}})
			s.checksHealth = true
		}
	}
	s.planes = append(s.planes, s.Planes...)
	if err := s.start(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Server) start() error {
	var err error
	if s.store, err = openStore(s.StateDir); err != nil {
		return err
	}
	saved, changes, err := s.store.load()
	if err != nil {
		return err
	}
	if saved == nil {
		s.cloud, err = state.New(s.stateOptions())
	} else {
		s.cloud, err = state.Load(s.stateOptions(), saved, changes...)
	}
	if err != nil {
		return fmt.Errorf("set up the cloud's state: %w", err)
	}
	account, err := s.store.account(s.cloud.OwnerId(), s.Random)
	if err != nil {
		return err
	}
	s.authority = sts.NewAuthority(account)
	if _, err := s.faults.Add(s.Now(), s.Faults...); err != nil {
		return err
	}
	s.api = openapi.New(openapi.Options{
		Backend: s, Authority: s.authority, Faults: s.faults, Stats: s.stats, Throttle: s.Throttle,
		RegionID: s.cloud.RegionId(), Now: s.Now, Sleep: sleep, RefuseReplay: s.RefuseReplay, Random: s.Random, Log: s.Log,
	})
	for _, p := range s.planes {
		p.Connect(feedback{s})
	}
	s.step(nil)
	if err := s.commit(); err != nil {
		return fmt.Errorf("bring the data plane up to the saved state: %w", err)
	}
	if s.listener, err = net.Listen("tcp", cmp.Or(s.Listen, "127.0.0.1:0")); err != nil {
		return fmt.Errorf("listen for API calls: %w", err)
	}
	s.http = &http.Server{Handler: s.handler(), ReadHeaderTimeout: 30 * time.Second, ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug)}
	s.running.Go(func() {
		if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
			s.Log.Error("the API listener stopped", "err", err)
		}
	})
	s.running.Go(s.loop)
	return nil
}

func (s *Server) stateOptions() state.Options {
	return state.Options{
		Now: s.Now, Seed: s.Seed, RegionId: s.RegionID, Zones: s.Zones, OwnerId: s.OwnerID,
		Timing: s.Timing, Limits: s.Limits, Catalog: s.Catalog,
		AssumeHealthy: !s.checksHealth,
	}
}

// Close stops serving. All answered changes are on disk; the fabric's namespaces stay for the
// next start.
func (s *Server) Close() error {
	s.closing.Do(func() {
		s.stop()
		var errs []error
		if s.http != nil {
			errs = append(errs, s.http.Close())
		} else if s.listener != nil {
			errs = append(errs, s.listener.Close())
		}
		s.running.Wait()
		for _, p := range slices.Backward(s.planes) {
			errs = append(errs, p.Close())
		}
		errs = append(errs, s.store.close())
		s.closed = errors.Join(errs...)
	})
	return s.closed
}

// Endpoint returns the API's URL.
func (s *Server) Endpoint() string { return "http://" + s.listener.Addr().String() }

// Account returns the account's key pair.
func (s *Server) Account() sts.Account { return s.authority.Account() }

// Region returns the region.
func (s *Server) Region() string { return s.cloud.RegionId() }

// ZoneIDs returns the region's zones.
func (s *Server) ZoneIDs() []string {
	var ids []string
	for _, z := range s.cloud.DescribeZones() {
		ids = append(ids, z.ZoneId)
	}
	return ids
}

// View returns a copy of the cloud, as the planes get it.
func (s *Server) View() *state.View {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cloud.View()
}

// Stats returns the counters of calls.
func (s *Server) Stats() *openapi.Stats { return s.stats }

// AddFaults adds fault rules, like POST /_admin/faults.
func (s *Server) AddFaults(rules ...faults.Rule) error {
	if _, err := s.faults.Add(s.Now(), rules...); err != nil {
		return err
	}
	s.faultsChanged()
	return nil
}

// RemoveFault removes a fault rule; an empty name removes all.
func (s *Server) RemoveFault(name string) {
	s.faults.Remove(name)
	s.faultsChanged()
}

// SetThrottle changes the rates of calls from now on.
func (s *Server) SetThrottle(t openapi.Throttle) { s.api.SetThrottle(t) }

// sleep waits, or returns early with the context's error.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
