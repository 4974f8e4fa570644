package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	"terway.dev/terway/internal/agent"
	"terway.dev/terway/internal/agent/nodepolicy"
	"terway.dev/terway/internal/datapath/policymap"
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

// newPolicies returns nil if policy is off; what was kept of them is removed then, so that it does not count when policy
// is on again.
func newPolicies(cfg *rest.Config, f flags, alarm func(reason, note string), written func(), log *slog.Logger) (*policies, error) {
	path := filepath.Join(f.policyDir, stateFile)
	if f.policyHub == "" {
		if err := remove(path); err != nil {
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
		Maps: func() (map[string]*ebpf.Map, func() error, error) {
			m, err := policymap.Create()
			return m, func() error { return policymap.Close(m) }, err
		},
		Wait: hubWait, Written: written, Alarm: alarm, Log: log, Clock: clock.RealClock{},
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
