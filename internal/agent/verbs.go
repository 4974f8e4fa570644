package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"terway.dev/terway/internal/agent/journal"
	"terway.dev/terway/internal/agent/request"
	"terway.dev/terway/internal/cnicall"
)

// Del undoes Add. A missing attachment is no error.
func (a *Agent) Del(ctx context.Context, r *request.Request) error {
	k := journal.Key{Sandbox: r.ContainerID, IfName: r.IfName}
	unlock, err := a.keys.lock(ctx, k)
	if err != nil {
		return tryAgain("another call for this sandbox is in progress", err)
	}
	defer unlock()
	e := a.lookup(k)
	if e == nil {
		return nil
	}
	return a.release(ctx, e, cool)
}

// Check returns an error that names what is missing or wrong of what Add made.
func (a *Agent) Check(ctx context.Context, r *request.Request) error {
	k := journal.Key{Sandbox: r.ContainerID, IfName: r.IfName}
	unlock, err := a.keys.lock(ctx, k)
	if err != nil {
		return tryAgain("another call for this sandbox is in progress", err)
	}
	defer unlock()
	a.mu.Lock()
	e, node := a.entries[k], a.node
	a.mu.Unlock()
	if e == nil || e.State != journal.Ready {
		return types.NewError(types.ErrUnknownContainer, fmt.Sprintf("sandbox %s, interface %s: the agent has not wired it", k.Sandbox, k.IfName), "")
	}
	if e.NetNS != r.NetNS {
		return differs("CNI_NETNS is %s, the pod was wired in %s", r.NetNS, e.NetNS)
	}
	for _, p := range r.PrevAddresses {
		if !slices.Contains(e.Addresses, p) {
			return differs("prevResult has address %s, the pod was given %v", p, e.Addresses)
		}
	}
	for _, have := range e.Addresses {
		if !slices.Contains(r.PrevAddresses, have) {
			return differs("prevResult lacks address %s, which the pod was given", have)
		}
	}
	for name, sandbox := range map[string]string{e.HostIfName: "", e.IfName: e.NetNS} {
		if got, ok := r.PrevInterfaces[name]; !ok || got != sandbox {
			return differs("prevResult has no interface %q in sandbox %q", name, sandbox)
		}
	}
	if node.Kind == "" {
		return tryAgain("no datapath is chosen yet", nil)
	}
	if err := a.Datapath.CheckPod(ctx, node, PodOf(e)); err != nil {
		return differs("%v", err)
	}
	return nil
}

// GC undoes every Add of the network whose attachment is no longer valid.
func (a *Agent) GC(ctx context.Context, r *request.Request) error {
	valid := map[journal.Key]bool{}
	for _, v := range r.Valid {
		valid[journal.Key{Sandbox: v.ContainerID, IfName: v.IfName}] = true
	}
	a.mu.Lock()
	var stale []*journal.Entry
	for k, e := range a.entries {
		if e.Network == r.Network && !valid[k] {
			stale = append(stale, e)
		}
	}
	a.mu.Unlock()
	var errs []error
	for _, e := range stale {
		unlock, ok := a.keys.try(e.Key)
		if !ok {
			continue // an ADD or DEL works on it: it is newer than the list of valid attachments
		}
		if a.lookup(e.Key) == e {
			errs = append(errs, a.release(ctx, e, cool))
		}
		unlock()
	}
	return errors.Join(errs...)
}

// codeDiffers is CHECK's error when kernel, journal and request differ (the CNI specification
// leaves codes from 100 on to the plugin).
const codeDiffers = 100

func differs(format string, args ...any) error {
	return types.NewError(codeDiffers, fmt.Sprintf(format, args...), "")
}

// Serving returns an error if ADD cannot be served, with the codes that the CNI specification
// defines for STATUS.
func (a *Agent) Serving() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.notOK == "":
		return nil
	case a.synced && a.failed >= tolerated:
		return types.NewError(types.ErrLimitedConnectivity, "the node's network cannot be repaired: "+a.notOK, "")
	}
	return types.NewError(types.ErrPluginNotAvailable, "the node's network is not ready: "+a.notOK, "")
}

// Answer validates a call of the plugin, executes it, and converts the outcome to a reply.
func (a *Agent) Answer(ctx context.Context, in cnicall.Request) cnicall.Reply {
	r, bad := request.Parse(in)
	if bad != nil {
		a.Metrics.called(request.Verb(in.Verb), 0, bad)
		a.Log.Warn("CNI call rejected", "verb", in.Verb, "error", bad)
		return failed(bad)
	}
	start := a.Now()
	res, err := a.do(ctx, r)
	took := a.Now().Sub(start)
	a.Metrics.called(r.Verb, took, err)
	log := a.Log.With("verb", r.Verb, "sandbox", r.ContainerID, "pod", pod(journal.Key{Sandbox: r.ContainerID}, r), "took", took)
	if err != nil {
		log.Warn("CNI call failed", "error", err)
		return failed(err)
	}
	log.Debug("CNI call")
	if res == nil {
		return cnicall.Reply{}
	}
	out, err := res.GetAsVersion(r.CNIVersion)
	if err != nil {
		return failed(types.NewError(types.ErrIncompatibleCNIVersion, err.Error(), ""))
	}
	raw, err := json.Marshal(out)
	if err != nil {
		return failed(err)
	}
	return cnicall.Reply{Result: raw}
}

func (a *Agent) do(ctx context.Context, r *request.Request) (*types100.Result, error) {
	switch r.Verb {
	case request.Add:
		return a.Add(ctx, r)
	case request.Del:
		return nil, a.Del(ctx, r)
	case request.Check:
		return nil, a.Check(ctx, r)
	case request.GC:
		return nil, a.GC(ctx, r)
	default: // Parse accepts no other
		return nil, a.Serving()
	}
}

func failed(err error) cnicall.Reply {
	var e *types.Error
	if !errors.As(err, &e) {
		e = types.NewError(types.ErrInternal, err.Error(), "")
	}
	return cnicall.Reply{Error: &cnicall.Error{Code: e.Code, Msg: e.Msg, Details: e.Details}}
}
