package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"go4.org/netipx"

	"terway.dev/terway/internal/agent/journal"
	"terway.dev/terway/internal/agent/pool"
	"terway.dev/terway/internal/agent/request"
	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
)

// Add wires a pod. A repeated call returns the stored result; a call after an unfinished one cleans
// up and starts over.
func (a *Agent) Add(ctx context.Context, r *request.Request) (*types100.Result, error) {
	k := journal.Key{Sandbox: r.ContainerID, IfName: r.IfName}
	unlock, err := a.keys.lock(ctx, k)
	if err != nil {
		return nil, tryAgain("another call for this sandbox is in progress", err)
	}
	defer unlock()

	if !a.Alive(r.NetNS) {
		return nil, types.NewError(types.ErrInvalidNetNS, fmt.Sprintf("CNI_NETNS %q is not a network namespace that the agent can see", r.NetNS), "")
	}
	if e := a.lookup(k); e != nil {
		if e.State == journal.Ready && e.NetNS == r.NetNS {
			var res types100.Result
			if err := json.Unmarshal(e.Result, &res); err != nil {
				return nil, fmt.Errorf("journal: result of %s: %w", k, err)
			}
			return &res, nil
		}
		if err := a.release(ctx, e, cool); err != nil {
			return nil, fmt.Errorf("clean up after an unfinished ADD: %w", err)
		}
	}

	limits, priority, err := limitsOf(r)
	if err != nil {
		return nil, err
	}
	exclusive, counted, sure, err := a.wantsExclusive(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := a.awaitPolicies(ctx, r.Namespace); err != nil {
		return nil, err
	}
	limits = a.limitsNow(r.UID, limits)
	lease, err := a.take(ctx, k, r, exclusive)
	if err != nil {
		return nil, err
	}
	kind := a.nodeNow().Kind // it has been chosen before take returns
	if exclusive {
		kind = claims.Exclusive
	}
	e := &journal.Entry{
		Key: k, Datapath: kind, State: journal.Allocating, Namespace: r.Namespace, Name: r.Name, UID: r.UID,
		NetNS: r.NetNS, Addresses: lease.Addresses, ENI: lease.ENI, Limits: limits, Priority: priority, Network: r.Network, Since: a.Now(),
	}
	if exclusive {
		e.Uncounted, e.Unsure = !counted, !sure
		if e.Exclusive = a.eni(lease.ENI); e.Exclusive == nil {
			a.putBack(lease, k)
			return nil, tryAgain("the ENI chosen for the pod is being detached from the node", nil)
		}
	}
	if err := a.enterPolicies(e); err != nil {
		a.putBack(lease, k)
		return nil, err
	}
	if err := a.Journal.Put(*e); err != nil {
		a.leavePolicies(e)
		a.putBack(lease, k)
		return nil, err
	}
	a.remember(e)

	// Other nodes learn the pod's address while it is wired here. The journal is on disk before the
	// node is read: the node may have got an ENI in the meantime.
	told := a.tell(ctx, e)
	wiring, err := a.Datapath.AddPod(ctx, a.nodeNow(), PodOf(e))
	if err != nil {
		err = fmt.Errorf("wire pod %s: %w", e.Pod(), err)
	} else {
		err = told()
	}
	if err != nil {
		// The caller may be gone; the clean-up runs anyway.
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if left := a.release(undo, e, noCool); left != nil {
			return nil, fmt.Errorf("%w; the agent continues the clean-up: %w", err, left)
		}
		return nil, err
	}
	res := result(r, e, wiring)
	raw, err := json.Marshal(res)
	if err != nil {
		return nil, fmt.Errorf("result of %s: %w", k, err)
	}
	done := *e
	done.State, done.Result, done.HostIfName = journal.Ready, raw, wiring.HostIfName
	if err := a.Journal.Put(done); err != nil {
		return nil, err
	}
	a.remember(&done)
	signal(a.dirty)
	return res, nil
}

// nodeNow returns the current desired node. Its Kind is the kind of new pods, empty until one is
// chosen.
func (a *Agent) nodeNow() datapath.Node {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.node
}

func (a *Agent) putBack(l pool.Lease, k journal.Key) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, addr := range l.Addresses {
		a.pool.Return(addr, k.String(), a.Now())
	}
	a.wakeLocked()
}

// take returns a free address, or waits until the controller assigns one. It returns none before
// the first successful Sync.
func (a *Agent) take(ctx context.Context, k journal.Key, r *request.Request, exclusive bool) (pool.Lease, error) {
	start := a.Now()
	ctx, cancel := context.WithTimeout(ctx, a.WaitForAddress)
	defer cancel()
	c, waits := waiter{pod(k, r), k.IfName}, false
	defer func() {
		if !waits {
			return
		}
		a.mu.Lock()
		a.endWaitLocked(c)
		a.mu.Unlock()
		signal(a.dirty)
		a.Metrics.waited(a.Now().Sub(start))
	}()
	h := pool.Holder{Key: k.String(), Pod: c.pod, Sandbox: k.Sandbox}
	for {
		a.mu.Lock()
		if a.closing {
			a.mu.Unlock()
			return pool.Lease{}, errClosing
		}
		now := a.Now()
		if a.synced {
			take := a.pool.Take
			if exclusive {
				take = a.pool.TakeExclusive
			}
			if l, ok := take(h, now); ok {
				delete(a.waiting, c) // earlier sandboxes of the pod do not wait either
				a.mu.Unlock()
				return l, nil
			}
		}
		news := false
		if !waits {
			waits, news = true, a.beginWaitLocked(c, k.Sandbox, exclusive)
		}
		wake := a.wake
		var timer <-chan time.Time
		if at, ok := a.pool.NextCooled(now); ok {
			timer = time.After(at.Sub(now))
		}
		a.mu.Unlock()
		if news {
			a.Log.Info("a pod waits for an address", "pod", c.pod, "sandbox", k.Sandbox, "exclusive ENI", exclusive)
			signal(a.dirty) // the demand has grown: report it at once
		}
		select {
		case <-wake:
		case <-timer:
		case <-ctx.Done():
			return pool.Lease{}, tryAgain(a.whyNone(exclusive), nil)
		}
	}
}

// whyNone explains why there is no address; pods' events show the text.
func (a *Agent) whyNone(exclusive bool) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.synced {
		return "no address for the pod yet: " + a.notOK
	}
	if exclusive {
		return a.whyNoENI()
	}
	now := a.Now()
	c := a.pool.Count(now)
	s := fmt.Sprintf("no address for the pod: the node has %d (%d used, %d resting after use, %d on their way back to the cloud", c.Total, c.Used, c.Cooling, c.Releasing)
	if c.Held > 0 {
		s += fmt.Sprintf(", %d that load balancers still have as backends", c.Held)
	}
	if c.Unusable > 0 {
		s += fmt.Sprintf(", %d on ENIs that are being attached", c.Unusable)
	}
	s += ")"
	if at, ok := a.pool.NextCooled(now); ok {
		s += fmt.Sprintf("; the next can be used in %s", at.Sub(now).Round(time.Second))
	}
	silence := a.silenceLocked()
	switch {
	case a.whyNoMore != "":
		s += "; " + a.whyNoMore
	case silence != "":
		s += "; " + silence
	case a.desired.Limit > 0 && c.Total >= a.desired.Limit:
		s += fmt.Sprintf("; TypeLimit: the instance type allows %d pods with their own address", a.desired.Limit)
	default:
		s += "; the controller has not assigned more yet"
	}
	return s
}

// result is the CNI result of a wired pod.
func result(r *request.Request, e *journal.Entry, w datapath.Wiring) *types100.Result {
	pod := 1 // index of the pod's end in Interfaces
	res := &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{
			{Name: w.HostIfName, Mac: w.HostMAC.String(), Mtu: w.MTU},
			{Name: e.IfName, Mac: w.PodMAC.String(), Mtu: w.MTU, Sandbox: r.NetNS},
		},
	}
	for _, addr := range e.Addresses {
		ip := &types100.IPConfig{
			Interface: &pod,
			Address:   *netipx.AddrIPNet(addr),
		}
		for _, g := range w.Gateways {
			if g.BitLen() != addr.BitLen() {
				continue
			}
			ip.Gateway = g.AsSlice()
			all := netipx.PrefixIPNet(netip.PrefixFrom(addr, 0).Masked())
			res.Routes = append(res.Routes, &types.Route{Dst: *all, GW: g.AsSlice()})
		}
		res.IPs = append(res.IPs, ip)
	}
	return res
}

// pod returns the pod's name as the journal's entries have it.
func pod(k journal.Key, r *request.Request) string {
	e := journal.Entry{Key: k, Namespace: r.Namespace, Name: r.Name}
	return e.Pod()
}

// errClosing is the answer to calls that wait when the agent stops.
var errClosing = tryAgain("terwayd, the node's network agent, is being restarted", nil)

func tryAgain(msg string, cause error) error {
	details := ""
	if cause != nil {
		details = cause.Error()
	}
	return types.NewError(types.ErrTryAgainLater, msg, details)
}
