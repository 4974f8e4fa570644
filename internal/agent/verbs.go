package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	cniv1 "terway.dev/terway/api/cni/v1"
	"terway.dev/terway/internal/agent/journal"
	"terway.dev/terway/internal/agent/request"
)

// Del undoes Add. What is not there is no error.
func (a *Agent) Del(ctx context.Context, r *request.Request) error {
	k := journal.Key{Sandbox: r.ContainerID, IfName: r.IfName}
	unlock, err := a.keys.lock(ctx, k)
	if err != nil {
		return tryAgain("another call for this sandbox is at work", err)
	}
	defer unlock()
	e := a.lookup(k)
	if e == nil {
		return nil
	}
	return a.release(ctx, e)
}

// Check says what of Add's work is missing or wrong.
func (a *Agent) Check(ctx context.Context, r *request.Request) error {
	k := journal.Key{Sandbox: r.ContainerID, IfName: r.IfName}
	unlock, err := a.keys.lock(ctx, k)
	if err != nil {
		return tryAgain("another call for this sandbox is at work", err)
	}
	defer unlock()
	a.mu.Lock()
	e, dp, node := a.entries[k], a.dp, a.node
	a.mu.Unlock()
	if e == nil || e.State != journal.Ready {
		return types.NewError(types.ErrUnknownContainer, fmt.Sprintf("sandbox %s, interface %s: the agent has not wired it", k.Sandbox, k.IfName), "")
	}
	for _, p := range r.PrevAddresses {
		if !slices.Contains(e.Addresses, p) {
			return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("prevResult has address %s, the pod was given %v", p, e.Addresses), "")
		}
	}
	if dp == nil {
		return tryAgain("no datapath is chosen yet", nil)
	}
	return dp.CheckPod(ctx, node, podOf(e))
}

// GC undoes every Add of the network whose attachment is not valid any more.
func (a *Agent) GC(ctx context.Context, r *request.Request) error {
	valid := map[journal.Key]bool{}
	for _, v := range r.Valid {
		valid[journal.Key{Sandbox: v.ContainerID, IfName: v.IfName}] = true
	}
	a.mu.Lock()
	var stale []journal.Key
	for k, e := range a.entries {
		if e.Network == r.Network && !valid[k] {
			stale = append(stale, k)
		}
	}
	a.mu.Unlock()
	var errs []error
	for _, k := range stale {
		unlock, err := a.keys.lock(ctx, k)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if e := a.lookup(k); e != nil {
			errs = append(errs, a.release(ctx, e))
		}
		unlock()
	}
	return errors.Join(errs...)
}

// Service answers the plugin.
type Service struct {
	cniv1.UnimplementedCNIServer
	Agent *Agent
}

func (s *Service) Add(ctx context.Context, in *cniv1.Request) (*cniv1.Reply, error) {
	return s.serve(request.Add, in, func(r *request.Request) (*types100.Result, error) { return s.Agent.Add(ctx, r) })
}

func (s *Service) Del(ctx context.Context, in *cniv1.Request) (*cniv1.Reply, error) {
	return s.serve(request.Del, in, func(r *request.Request) (*types100.Result, error) { return nil, s.Agent.Del(ctx, r) })
}

func (s *Service) Check(ctx context.Context, in *cniv1.Request) (*cniv1.Reply, error) {
	return s.serve(request.Check, in, func(r *request.Request) (*types100.Result, error) { return nil, s.Agent.Check(ctx, r) })
}

func (s *Service) GC(ctx context.Context, in *cniv1.Request) (*cniv1.Reply, error) {
	return s.serve(request.GC, in, func(r *request.Request) (*types100.Result, error) { return nil, s.Agent.GC(ctx, r) })
}

func (s *Service) Status(_ context.Context, in *cniv1.Request) (*cniv1.Reply, error) {
	return s.serve(request.Status, in, func(*request.Request) (*types100.Result, error) {
		if ok, why := s.Agent.Ready(); !ok {
			return nil, types.NewError(types.ErrPluginNotAvailable, "the node's network is not ready: "+why, "")
		}
		return nil, nil
	})
}

// serve validates a call, does it, and turns the outcome into a reply.
func (s *Service) serve(v request.Verb, in *cniv1.Request, do func(*request.Request) (*types100.Result, error)) (*cniv1.Reply, error) {
	r, bad := request.Parse(v, in)
	if bad != nil {
		return failed(bad), nil
	}
	start := s.Agent.Now()
	res, err := do(r)
	log := s.Agent.Log.With("verb", v, "sandbox", r.ContainerID, "pod", r.Namespace+"/"+r.Name, "took", s.Agent.Now().Sub(start))
	if err != nil {
		log.Warn("CNI call failed", "error", err)
		return failed(err), nil
	}
	log.Debug("CNI call")
	if res == nil {
		return &cniv1.Reply{}, nil
	}
	out, err := res.GetAsVersion(r.CNIVersion)
	if err != nil {
		return failed(types.NewError(types.ErrIncompatibleCNIVersion, err.Error(), "")), nil
	}
	raw, err := json.Marshal(out)
	if err != nil {
		return failed(err), nil
	}
	return &cniv1.Reply{Result: raw}, nil
}

func failed(err error) *cniv1.Reply {
	var e *types.Error
	if !errors.As(err, &e) {
		e = types.NewError(types.ErrInternal, err.Error(), "")
	}
	return &cniv1.Reply{Error: &cniv1.Error{Code: uint32(e.Code), Msg: e.Msg, Details: e.Details}}
}
