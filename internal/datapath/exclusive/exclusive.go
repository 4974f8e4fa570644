// Package exclusive gives a pod an ENI of its own: the device is moved into the
// pod and becomes its eth0. Nothing of the node is between the pod and the VPC.
//
// What such a pod still needs the node for (Services, whose addresses kube-proxy
// translates on the node; the node's own address; probes of the kubelet) goes over a
// veth beside it, which is package route's work: see datapath.Pod.Own and
// claims.OwnIfName. Whoever syncs the node's other datapath has these pods in its list
// too. Pods that share ENIs are that datapath's alone; so a node can have both kinds.
//
// The package owns a device only while its pod lives. DelPod brings it back to the
// node, down and without an address. If the pod's namespace is destroyed first, the
// kernel moves a network card back to the node by itself.
package exclusive

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/vishvananda/netns"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/route"
)

var _ datapath.Datapath = (*Datapath)(nil)

// Options of New.
type Options struct {
	// Beside wires the veth, and keeps it in order: package route.
	Beside datapath.Datapath
	// NetNS is the path of the node's network namespace; empty means the one the
	// process runs in.
	NetNS string
	// ProcSys is where sysctls are, "/proc/sys" if empty.
	ProcSys string
	// Log may be nil.
	Log *slog.Logger
}

// Datapath implements datapath.Datapath. It is safe for concurrent use; calls for
// one pod wait for each other.
type Datapath struct {
	beside  datapath.Datapath
	ns      netns.NsHandle
	procSys string
	log     *slog.Logger
	turns   turns
}

// New touches nothing on the node.
func New(o Options) (*Datapath, error) {
	d := &Datapath{beside: o.Beside, procSys: o.ProcSys, log: o.Log}
	var err error
	if o.NetNS == "" {
		d.ns, err = netns.Get()
	} else {
		d.ns, err = netns.GetFromPath(o.NetNS)
	}
	if err != nil {
		return nil, fmt.Errorf("open the node's network namespace %s: %w", o.NetNS, err)
	}
	if d.procSys == "" {
		d.procSys = "/proc/sys"
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	return d, nil
}

// Close lets go of the node's namespace. Pods stay wired.
func (d *Datapath) Close() error { return d.ns.Close() }

// Name implements datapath.Datapath.
func (d *Datapath) Name() string { return claims.Exclusive }

// AddPod implements datapath.Datapath. The veth comes first: when the ENI is up in
// the pod, everything is there.
func (d *Datapath) AddPod(ctx context.Context, node datapath.Node, pod datapath.Pod) (datapath.Wiring, error) {
	if err := validate(pod); err != nil {
		return datapath.Wiring{}, err
	}
	t := d.turns.take(pod)
	defer t.release()
	t.setDeleted(false)
	wiring, err := d.addPod(ctx, node, pod)
	if err != nil {
		return datapath.Wiring{}, podError(pod, errors.Join(err, d.giveBack(ctx, pod), d.beside.DelPod(ctx, pod)))
	}
	return wiring, nil
}

func (d *Datapath) addPod(ctx context.Context, node datapath.Node, pod datapath.Pod) (datapath.Wiring, error) {
	in, err := d.enter(pod)
	if err != nil {
		return datapath.Wiring{}, err
	}
	defer in.close()
	own, err := in.find(ctx)
	if err != nil {
		return datapath.Wiring{}, err
	}
	pod.Own = withMTU(*pod.Own, own.link.Attrs().MTU)
	wiring, err := d.beside.AddPod(ctx, node, pod)
	if err != nil {
		return datapath.Wiring{}, err
	}
	if err := in.wire(ctx, own); err != nil {
		return datapath.Wiring{}, err
	}
	if err := route.AwaitIPv6(ctx, in.h, pod.Addresses); err != nil {
		return datapath.Wiring{}, err
	}
	wiring.PodMAC, wiring.MTU, wiring.Gateways = pod.Own.MAC, pod.Own.MTU, pod.Own.Gateways
	return wiring, nil
}

// Teardown implements datapath.Datapath. What is on the node goes with the node's other
// datapath; ENIs come back with their pods, which DelPod undoes.
func (d *Datapath) Teardown(context.Context) error { return nil }

func withMTU(e datapath.ENI, device int) *datapath.ENI {
	if e.MTU == 0 {
		e.MTU = device
	}
	return &e
}

// DelPod implements datapath.Datapath. It waits for the move of the device, so that
// the ENI can serve the next pod when it returns.
func (d *Datapath) DelPod(ctx context.Context, pod datapath.Pod) error {
	t := d.turns.take(pod)
	defer t.release()
	t.setDeleted(true)
	if err := errors.Join(d.giveBack(ctx, pod), d.beside.DelPod(ctx, pod)); err != nil {
		return podError(pod, err)
	}
	return nil
}

// CheckPod implements datapath.Datapath.
func (d *Datapath) CheckPod(ctx context.Context, node datapath.Node, pod datapath.Pod) error {
	if err := validate(pod); err != nil {
		return err
	}
	t := d.turns.take(pod)
	defer t.release()
	problems, err := d.problems(ctx, pod)
	if err == nil && len(problems) > 0 {
		err = errors.New(problems[0])
	}
	if err == nil {
		err = d.beside.CheckPod(ctx, node, pod)
	}
	if err != nil {
		return podError(pod, err)
	}
	return nil
}

// problems names what is missing or wrong with the pod's ENI.
func (d *Datapath) problems(ctx context.Context, pod datapath.Pod) ([]string, error) {
	in, err := d.enter(pod)
	if err != nil {
		return nil, err
	}
	defer in.close()
	return in.problems(ctx)
}

// Sync implements datapath.Datapath. It looks at the ENIs of pods' own alone: all else
// is in the Sync of the node's other datapath.
func (d *Datapath) Sync(ctx context.Context, _ datapath.Node, pods []datapath.Pod) (repairs []string, err error) {
	d.turns.begin(pods)
	var errs []error
	for _, pod := range pods {
		if pod.Own == nil || pod.HostIfName == "" || !exists(pod.NetNS) {
			continue // a call is at work, or the agent cleans up after a dead sandbox
		}
		done, err := d.repair(ctx, pod)
		repairs = append(repairs, done...)
		if err != nil {
			errs = append(errs, podError(pod, err))
		}
	}
	return repairs, errors.Join(errs...)
}

func (d *Datapath) repair(ctx context.Context, pod datapath.Pod) (repairs []string, err error) {
	if err := validate(pod); err != nil {
		return nil, err
	}
	t := d.turns.take(pod)
	defer t.release()
	if t.deleted() {
		return nil, nil // since the list was made
	}
	in, err := d.enter(pod)
	if err != nil {
		return nil, err
	}
	defer in.close()
	problems, err := in.problems(ctx)
	if err != nil || len(problems) == 0 {
		return nil, err
	}
	own, err := in.find(ctx)
	if err == nil {
		err = in.wire(ctx, own)
	}
	if err == nil {
		err = route.AwaitIPv6(ctx, in.h, pod.Addresses)
	}
	if err != nil {
		return nil, fmt.Errorf("repair %q: %w", problems[0], err)
	}
	for _, p := range problems {
		repairs = append(repairs, fmt.Sprintf("pod %s/%s: %s: repaired", pod.Namespace, pod.Name, p))
	}
	return repairs, nil
}

func podError(pod datapath.Pod, err error) error {
	return &datapath.PodError{Sandbox: pod.Sandbox, IfName: pod.IfName, Err: fmt.Errorf("pod %s/%s (sandbox %s, %s): %w", pod.Namespace, pod.Name, pod.Sandbox, pod.IfName, err)}
}

// validate checks what only this package uses; the datapath beside it checks the rest.
func validate(pod datapath.Pod) error {
	e := pod.Own
	switch {
	case e == nil:
		return podError(pod, errors.New("field Own is missing: must be the ENI that the pod has for itself"))
	case len(e.MAC) != 6 || !strings.EqualFold(e.MAC.String(), pod.ENI):
		return podError(pod, fmt.Errorf("Own.MAC %q: must be the MAC of the pod's ENI, %s", e.MAC, pod.ENI))
	case len(e.Gateways) == 0:
		return podError(pod, fmt.Errorf("Own.Gateways is empty: must be the vSwitch's gateways"))
	}
	for _, a := range pod.Addresses {
		if !gateway(e, a).IsValid() {
			return podError(pod, fmt.Errorf("Own.Gateways %v: must have one of the family of address %s", e.Gateways, a))
		}
	}
	return nil
}

// turns makes calls for one pod wait for each other, and remembers the pods that
// were deleted after a Sync's list was made.
type turns struct {
	mu   sync.Mutex
	pods map[key]*turn
}

type key struct{ sandbox, ifName string }

type turn struct {
	all   *turns
	key   key
	mu    sync.Mutex
	users int
	gone  bool
}

func (ts *turns) take(pod datapath.Pod) *turn {
	k := key{pod.Sandbox, pod.IfName}
	ts.mu.Lock()
	if ts.pods == nil {
		ts.pods = map[key]*turn{}
	}
	t := ts.pods[k]
	if t == nil {
		t = &turn{all: ts, key: k}
		ts.pods[k] = t
	}
	t.users++
	ts.mu.Unlock()
	t.mu.Lock()
	return t
}

func (t *turn) release() {
	t.mu.Unlock()
	t.all.mu.Lock()
	defer t.all.mu.Unlock()
	t.users--
	if t.users == 0 && !t.gone {
		delete(t.all.pods, t.key)
	}
}

func (t *turn) setDeleted(gone bool) {
	t.all.mu.Lock()
	defer t.all.mu.Unlock()
	t.gone = gone
}

func (t *turn) deleted() bool {
	t.all.mu.Lock()
	defer t.all.mu.Unlock()
	return t.gone
}

// begin forgets deleted pods that a newer list does not have.
func (ts *turns) begin(pods []datapath.Pod) {
	listed := map[key]bool{}
	for _, p := range pods {
		listed[key{p.Sandbox, p.IfName}] = true
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for k, t := range ts.pods {
		if t.gone && !listed[k] && t.users == 0 {
			delete(ts.pods, k)
		}
	}
}
