package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	bpf "github.com/cilium/ebpf"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	"terway.dev/terway/internal/agent"
	"terway.dev/terway/internal/agent/nodepolicy"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/ebpf"
	"terway.dev/terway/internal/policy/node"
)

// stateFile has what the policy hub said last.
const stateFile = "policy"

// hubWait is how long a pod waits for the policy hub before the attempt fails with the reason.
const hubWait = 10 * time.Second

// policies are the node's, and where they come from.
type policies struct {
	*nodepolicy.Policies
	hub *agent.PolicyHub
}

// enforcer judges pods' packets (ebpf.Policy).
type enforcer interface {
	Prepare() (map[string]*bpf.Map, error)
	On() error
	Off() error
	Denied() (ingress, egress uint64, err error)
}

// incapable is the enforcer of a kernel that cannot have one.
type incapable struct{ why error }

func (e incapable) Prepare() (map[string]*bpf.Map, error)     { return nil, e.why }
func (e incapable) On() error                                 { return e.why }
func (incapable) Off() error                                  { return nil }
func (incapable) Denied() (ingress, egress uint64, err error) { return 0, 0, nil }

// enforcerOf returns a node's. There is no policy only if kind ebpf is among those that the kernel lacks, or route, which all need.
func enforcerOf(policy *ebpf.Policy, lacking map[string]error) enforcer {
	if policy != nil {
		return policy
	}
	why := lacking[claims.EBPF]
	if why == nil {
		why = lacking[claims.Route]
	}
	return incapable{why}
}

// newPolicies returns nil if policy is off; what was kept of them is removed then, so that it does not count when policy
// is on again, and so are programs that judge, with the next Sync. repair asks for a Sync.
func newPolicies(cfg *rest.Config, f flags, e enforcer, alarm func(reason, note string), repair func(), log *slog.Logger) (*policies, error) {
	path := filepath.Join(f.policyDir, stateFile)
	if f.policyHub == "" {
		if err := errors.Join(e.Off(), remove(path)); err != nil {
			log.Error("cannot remove what was kept of the policies", "error", err)
		}
		return nil, nil
	}
	if f.namespace == "" {
		return nil, fmt.Errorf("--namespace is empty: want the namespace of the Service %s (--policy-hub)", f.policyHub)
	}
	if err := os.MkdirAll(f.policyDir, 0o700); err != nil {
		return nil, fmt.Errorf("--policy-dir: %w", err)
	}
	hub, err := agent.NewPolicyHub(cfg, f.namespace, f.policyHub)
	if err != nil {
		return nil, err
	}
	version := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
	}
	return &policies{nodepolicy.New(nodepolicy.Options{
		Hub: node.Config{
			Path: path, Version: version, Hubs: hub.Replicas, ServerName: hub.ServerName(), Trust: hub.Trust,
			Token: func() (string, error) {
				b, err := os.ReadFile(f.policyToken)
				if err != nil {
					return "", fmt.Errorf("--policy-token: %w", err)
				}
				return strings.TrimSpace(string(b)), nil
			},
			Log: log, Clock: clock.RealClock{},
		},
		Maps: e.Prepare,
		Written: func() error {
			if err := e.On(); err != nil {
				return err
			}
			repair()
			return nil
		},
		Denied: e.Denied, Lines: os.Stdout,
		Wait: hubWait, Alarm: alarm, Log: log, Clock: clock.RealClock{},
	}), hub}, nil
}

// Run follows the hub until ctx is done.
func (p *policies) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.Policies.Run(ctx)
	}()
	err := p.hub.Run(ctx)
	<-done
	return err
}
