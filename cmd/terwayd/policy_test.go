package main

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"k8s.io/client-go/rest"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
)

// programs are an enforcer that records what is done to it.
type programs struct {
	calls []string
	err   error
}

func (p *programs) note(call string) error {
	p.calls = append(p.calls, call)
	return p.err
}

func (p *programs) Prepare() (map[string]*ebpf.Map, error)    { return nil, p.note("prepare") }
func (p *programs) On() error                                 { return p.note("on") }
func (p *programs) Off() error                                { return p.note("off") }
func (*programs) Denied() (ingress, egress uint64, err error) { return 0, 0, nil }

// Switched off, nothing is kept of policies and nothing judges; switched on, the agent must know where to look for the hub, and programs judge
// when there is something to judge by.
func TestPolicySwitch(t *testing.T) {
	dir := t.TempDir()
	kept := filepath.Join(dir, stateFile)
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var e programs
	repairs := 0
	switched := func(f flags) (*policies, error) {
		f.policyDir = dir
		return newPolicies(&rest.Config{Host: "127.0.0.1:1"}, f, &e, func(string, string) {}, func() { repairs++ }, slog.New(slog.DiscardHandler))
	}
	p, err := switched(flags{policyHub: "terway-policy", namespace: "kube-system"})
	if err != nil || p == nil {
		t.Fatalf("switched on: %v, %v", p, err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("switched on: %v", err)
	}
	if _, err := p.Maps(); err != nil {
		t.Error(err)
	}
	if err := p.Written(); err != nil || !slices.Equal(e.calls, []string{"prepare", "on"}) || repairs != 1 {
		t.Errorf("when something is written: %v, %q and %d repairs; want the programs on, and a repair that attaches them", err, e.calls, repairs)
	}
	if e.err = errors.New("no memory"); p.Written() == nil || repairs != 1 {
		t.Error("programs that cannot be turned on are no error")
	}
	if _, err := switched(flags{policyHub: "terway-policy"}); err == nil || !strings.Contains(err.Error(), "--namespace") {
		t.Errorf("without a namespace: %v", err)
	}
	e = programs{}
	for range 2 { // the second time there is nothing to remove
		if p, err := switched(flags{}); err != nil || p != nil {
			t.Errorf("switched off: %v, %v", p, err)
		}
		if _, err := os.Stat(kept); !os.IsNotExist(err) {
			t.Errorf("switched off, and what was kept is there (%v)", err)
		}
	}
	if !slices.Equal(e.calls, []string{"off", "off"}) {
		t.Errorf("switched off, %q is done to the programs", e.calls)
	}
}

// A kernel without programs says what it lacks.
func TestNoPrograms(t *testing.T) {
	for _, kind := range []string{claims.EBPF, claims.Route} {
		why := &datapath.UnsupportedError{Feature: kind, Err: errors.New("EINVAL")}
		e := enforcerOf(nil, map[string]error{kind: why})
		if _, err := e.Prepare(); !errors.Is(err, why) {
			t.Errorf("without %s: %v, want %v", kind, err, why)
		}
	}
}
