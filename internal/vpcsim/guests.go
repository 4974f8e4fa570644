package vpcsim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"terway.dev/terway/internal/vpcsim/metadata"
	"terway.dev/terway/internal/vpcsim/state"
)

// APIAddress is the address of the OpenAPI endpoint in instances, beside the metadata service.
const APIAddress = "100.100.100.201"

// guests is the plane of the services in instances: metadata and OpenAPI, without the admin
// endpoint. It depends on the fabric.
type guests struct {
	server  *Server
	cloud   Feedback
	running sync.WaitGroup

	mu      sync.Mutex
	open    map[string]*guest
	stopped bool
}

// guest has the services of one instance.
type guest struct {
	servers []*http.Server
}

func newGuests(s *Server) *guests { return &guests{server: s, open: map[string]*guest{}} }

// Connect stores the Feedback.
func (g *guests) Connect(f Feedback) { g.cloud = f }

// Apply opens the services of new instances and closes those of deleted ones.
func (g *guests) Apply(_ context.Context, view *state.View) error {
	want := map[string]bool{}
	var errs []error
	for _, i := range view.Instances {
		if !i.Powered() {
			continue
		}
		want[i.InstanceId] = true
		errs = append(errs, g.ensure(i.InstanceId))
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, x := range g.open {
		if !want[id] {
			x.close()
			delete(g.open, id)
		}
	}
	return errors.Join(errs...)
}

func (g *guests) ensure(id string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open[id] != nil || g.stopped {
		return nil
	}
	s := g.server
	x := &guest{}
	for address, handler := range map[string]http.Handler{
		metadata.Address: metadata.New(metadata.Options{
			InstanceID: id, Lookup: s.instance, Authority: s.authority, Now: s.Now, RoleLife: s.RoleLife, Log: s.Log,
		}),
		APIAddress: s.api,
	} {
		l, err := s.Fabric.Listen(id, "tcp", net.JoinHostPort(address, "80"))
		if err != nil {
			x.close()
			return fmt.Errorf("serve %s in instance %s: %w", address, id, err)
		}
		h := &http.Server{Handler: handler, ReadHeaderTimeout: 30 * time.Second, ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug)}
		x.servers = append(x.servers, h)
		g.running.Go(func() {
			err := h.Serve(l)
			if errors.Is(err, http.ErrServerClosed) {
				return
			}
			// The namespace was removed under the listener; if the instance still exists, the
			// next commit opens a new one.
			s.Log.Warn("a listener inside an instance stopped", "instance", id, "address", l.Addr().String(), "err", err)
			g.lost(id, x)
		})
	}
	g.open[id] = x
	return nil
}

// lost removes a guest whose listener broke, and has the services opened again.
func (g *guests) lost(id string, x *guest) {
	g.mu.Lock()
	x.close()
	again := g.open[id] == x && !g.stopped
	if again {
		delete(g.open, id)
	}
	g.mu.Unlock()
	if again {
		g.cloud.Lost()
	}
}

// Close ends all services.
func (g *guests) Close() error {
	g.mu.Lock()
	g.stopped = true
	for _, x := range g.open {
		x.close()
	}
	g.open = map[string]*guest{}
	g.mu.Unlock()
	g.running.Wait()
	return nil
}

func (x *guest) close() {
	for _, h := range x.servers {
		// Close fails only if closing a listener does: it is closed anyway.
		_ = h.Close()
	}
}

// Metadata returns the metadata service of an instance, for use without a fabric.
func (s *Server) Metadata(instanceID string) http.Handler {
	return metadata.New(metadata.Options{
		InstanceID: instanceID, Lookup: s.instance, Authority: s.authority, Now: s.Now, RoleLife: s.RoleLife, Log: s.Log,
	})
}

// instance collects the data of the metadata service; nil if the instance does not exist.
func (s *Server) instance(id string) (*metadata.Instance, error) {
	var out *metadata.Instance
	err := s.Read(s.ctx, 0, func(api state.API) error {
		found, err := api.DescribeInstances(state.DescribeInstancesRequest{InstanceIds: []string{id}})
		if err != nil || len(found) == 0 {
			return err
		}
		in := &metadata.Instance{Instance: found[0], VSwitches: map[string]state.VSwitch{}, OwnerID: s.authority.Account().OwnerID}
		vpc, err := api.DescribeVpcAttribute(in.VpcId)
		if err != nil {
			return err
		}
		in.VPC = *vpc
		ids := []string{in.VSwitchId}
		for _, n := range in.NetworkInterfaces {
			ids = append(ids, n.VSwitchId)
		}
		switches, err := api.DescribeVSwitches(state.DescribeVSwitchesRequest{VSwitchId: strings.Join(ids, ",")})
		if err != nil {
			return err
		}
		for _, v := range switches {
			in.VSwitches[v.VSwitchId] = v
		}
		in.Type, _ = s.Catalog.Lookup(in.InstanceType)
		out = in
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look up instance %s: %w", id, err)
	}
	return out, nil
}
