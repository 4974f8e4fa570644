package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
)

// statusPause is the least time between two reports: a burst of pods is one
// report, and a waiting pod's demand is heard within this time.
const statusPause = 100 * time.Millisecond

// retryPause is how long a failed report waits.
const retryPause = time.Second

// NodeSync carries the controller's word to the agent and the agent's report
// back. It watches two objects: the node's own NodeNetwork and Node.
type NodeSync struct {
	agent  *Agent
	name   string
	cache  cache.Cache
	client client.Client

	// written is the status that the API server has from us, in the object writtenTo.
	written   v1alpha1.NodeNetworkStatus
	writtenTo types.UID
}

// NewNodeSync makes the clients; nothing is asked of the API server yet.
func NewNodeSync(a *Agent, cfg *rest.Config, nodeName string) (*NodeSync, error) {
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		return nil, err
	}
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	own := fields.OneTermEqualSelector("metadata.name", nodeName)
	c, err := cache.New(cfg, cache.Options{
		Scheme: scheme,
		ByObject: map[client.Object]cache.ByObject{
			&v1alpha1.NodeNetwork{}: {Field: own},
			&corev1.Node{}:          {Field: own},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("watch of node %s: %w", nodeName, err)
	}
	cl, err := client.New(cfg, client.Options{Scheme: scheme, Cache: &client.CacheOptions{Reader: c}})
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return &NodeSync{agent: a, name: nodeName, cache: c, client: cl}, nil
}

// Run watches and reports until ctx is done.
func (s *NodeSync) Run(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	for _, obj := range []client.Object{&v1alpha1.NodeNetwork{}, &corev1.Node{}} {
		inf, err := s.cache.GetInformer(ctx, obj)
		if err != nil {
			return fmt.Errorf("watch: %w", err)
		}
		poke := func(any) { signal(changed) }
		if _, err := inf.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc: poke, UpdateFunc: func(_, n any) { poke(n) }, DeleteFunc: poke,
		}); err != nil {
			return fmt.Errorf("watch: %w", err)
		}
	}
	stopped := make(chan error, 1)
	go func() { stopped <- s.cache.Start(ctx) }()

	go s.report(ctx)
	seen := ""
	for {
		select {
		case <-changed:
			seen = s.take(ctx, seen)
		case err := <-stopped:
			return err
		case <-ctx.Done():
			return <-stopped
		}
	}
}

// take hands the controller's word to the agent if it differs from the last.
func (s *NodeSync) take(ctx context.Context, seen string) string {
	nn := &v1alpha1.NodeNetwork{}
	if err := s.cache.Get(ctx, client.ObjectKey{Name: s.name}, nn); err != nil {
		if !apierrors.IsNotFound(err) {
			s.agent.Log.Error("read NodeNetwork", "error", err)
		}
		return seen
	}
	node := &corev1.Node{}
	if err := s.cache.Get(ctx, client.ObjectKey{Name: s.name}, node); err != nil {
		if !apierrors.IsNotFound(err) {
			s.agent.Log.Error("read Node", "error", err)
		}
		return seen
	}
	addresses := internalAddresses(node)
	now := fmt.Sprint(nn.UID, nn.Generation, addresses)
	if now == seen {
		return seen // our own status, or the kubelet's heartbeat
	}
	w, err := ParseWant(nn, addresses)
	if err != nil {
		s.agent.Log.Error("NodeNetwork has parts that cannot be used; they are left out", "error", err)
	}
	if err := s.agent.SetWant(w); err != nil {
		s.agent.Log.Error("apply NodeNetwork", "error", err)
		return seen
	}
	return now
}

// report writes the agent's half of NodeNetwork whenever it changes.
func (s *NodeSync) report(ctx context.Context) {
	for {
		select {
		case <-s.agent.Dirty():
		case <-ctx.Done():
			return
		}
		pause := statusPause
		if err := s.write(ctx); err != nil && ctx.Err() == nil {
			s.agent.Log.Warn("report to NodeNetwork", "error", err)
			pause = retryPause
			signal(s.agent.dirty)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// write sends the whole status, not a difference to what the cache has: the cache
// lags behind our own last report, and a difference to it would lose changes.
func (s *NodeSync) write(ctx context.Context) error {
	nn := &v1alpha1.NodeNetwork{}
	if err := s.cache.Get(ctx, client.ObjectKey{Name: s.name}, nn); err != nil {
		if apierrors.IsNotFound(err) {
			return nil // the controller has not made it yet; its arrival makes us dirty
		}
		return err
	}
	if s.writtenTo != nn.UID {
		s.writtenTo, s.written = nn.UID, nn.Status
	}
	st := s.agent.Status(s.written)
	if equality.Semantic.DeepEqual(s.written, st) {
		return nil
	}
	patch, err := statusPatch(st)
	if err != nil {
		return err
	}
	if err := s.client.Status().Patch(ctx, nn, client.RawPatch(types.MergePatchType, patch)); err != nil {
		return err
	}
	s.written = st
	return nil
}

// statusPatch is a merge patch that makes the status exactly st: what st leaves
// out is removed.
func statusPatch(st v1alpha1.NodeNetworkStatus) ([]byte, error) {
	raw, err := json.Marshal(st)
	if err != nil {
		return nil, err
	}
	full := map[string]any{"observedGeneration": nil, "datapath": nil, "used": nil, "cooling": nil, "released": nil, "conditions": nil}
	if err := json.Unmarshal(raw, &full); err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{"status": full})
}

func internalAddresses(n *corev1.Node) []netip.Addr {
	var out []netip.Addr
	for _, a := range n.Status.Addresses {
		if a.Type != corev1.NodeInternalIP {
			continue
		}
		if ip, err := netip.ParseAddr(a.Address); err == nil {
			out = append(out, ip)
		}
	}
	return out
}
