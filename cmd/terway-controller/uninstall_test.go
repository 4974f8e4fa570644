package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// memoryLock is a Lease in memory.
type memoryLock struct {
	has *resourcelock.LeaderElectionRecord
}

func (l *memoryLock) Get(context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	if l.has == nil {
		return nil, nil, apierrors.NewNotFound(schema.GroupResource{Resource: "leases"}, leader)
	}
	r := *l.has
	return &r, []byte(r.HolderIdentity + r.RenewTime.String()), nil
}

func (l *memoryLock) Create(_ context.Context, r resourcelock.LeaderElectionRecord) error {
	l.has = &r
	return nil
}

func (l *memoryLock) Update(_ context.Context, r resourcelock.LeaderElectionRecord) error {
	l.has = &r
	return nil
}

func (l *memoryLock) RecordEvent(string) {}
func (l *memoryLock) Identity() string   { return "uninstall" }
func (l *memoryLock) Describe() string   { return leader }

func TestLead(t *testing.T) {
	lock, failed := &memoryLock{}, errors.New("failed")
	err := lead(t.Context(), lock, func(context.Context) error {
		if lock.has.HolderIdentity != "uninstall" {
			t.Errorf("meanwhile %q has the Lease", lock.has.HolderIdentity)
		}
		return failed
	})
	if !errors.Is(err, failed) {
		t.Errorf("%v, want what the function returned", err)
	}
	if lock.has.HolderIdentity != "" {
		t.Errorf("afterwards %q has the Lease", lock.has.HolderIdentity)
	}

	now := metav1.Now()
	lock.has = &resourcelock.LeaderElectionRecord{HolderIdentity: "a replica", LeaseDurationSeconds: 3600, RenewTime: now, AcquireTime: now}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, errors.New("time is up"))
	defer cancel()
	err = lead(ctx, lock, func(context.Context) error { t.Error("it acts beside a replica"); return nil })
	if err == nil || !strings.Contains(err.Error(), "time is up") || !strings.Contains(err.Error(), leader) {
		t.Errorf("%v, want which Lease it waited for, and why no longer", err)
	}
}
