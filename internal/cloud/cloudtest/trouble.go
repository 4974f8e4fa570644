package cloudtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"terway.dev/terway/internal/cloud"
)

// What an implementation does if the cloud refuses a call or does not answer.

// lostAnswers: the cloud does the work of the first call, and the answer is lost.
func lostAnswers(t *testing.T, e *Env) {
	ctx := t.Context()
	lose := func(action string) { e.Fault(t, Fault{Action: action, Count: 2, LostAnswer: true}) }

	lose("CreateNetworkInterface")
	eni := e.create(t, "token", 1)
	mine, err := e.API.DescribeENIs(ctx, cloud.ENIFilter{Tags: map[string]string{"token": "token"}})
	must(t, err)
	if len(mine) != 1 {
		t.Errorf("%d ENIs were made, want 1", len(mine))
	}

	lose("AttachNetworkInterface")
	must(t, e.API.AttachENI(ctx, eni.ID, e.Instance))
	e.await(t, eni.ID, cloud.ENIInUse)

	lose("AssignPrivateIpAddresses")
	added, err := e.API.AssignAddresses(ctx, eni.ID, 2, "assign")
	must(t, err)
	if now := e.look(t, eni.ID); !sameSet(now.Addresses, append(slices.Clone(eni.Addresses), added...)) {
		t.Errorf("the ENI has %v, want %v and %v", now.Addresses, eni.Addresses, added)
	}

	lose("UnassignPrivateIpAddresses")
	must(t, e.API.UnassignAddresses(ctx, eni.ID, added))
	if now := e.look(t, eni.ID); !sameSet(now.Addresses, eni.Addresses) {
		t.Errorf("the ENI has %v, want %v", now.Addresses, eni.Addresses)
	}

	lose("DetachNetworkInterface")
	must(t, e.API.DetachENI(ctx, eni.ID, e.Instance))
	e.await(t, eni.ID, cloud.ENIAvailable)

	lose("DeleteNetworkInterface")
	must(t, e.API.DeleteENI(ctx, eni.ID))
	e.await(t, eni.ID, "")
}

func throttlingBurst(t *testing.T, e *Env) {
	for _, code := range []string{"Throttling", "Throttling.User", "Throttling.Api"} {
		e.Fault(t, Fault{Action: "DescribeNetworkInterfaces", Count: 2, Code: code, Status: 400})
		if _, err := e.API.DescribeENIs(t.Context(), cloud.ENIFilter{}); err != nil {
			t.Errorf("the call fails after a burst of %s: %v", code, err)
		}
	}
	e.Fault(t, Fault{Action: "DescribeInstances", Count: 1000, Code: "Throttling", Status: 400})
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := e.API.DescribeInstances(ctx, []string{e.Instance})
		cancel()
		if cloud.ClassOf(err) == cloud.Transient && errors.Is(err, context.DeadlineExceeded) {
			continue // the context ended during an attempt, whose result is unknown
		}
		wantError(t, err, cloud.Throttled, "")
		return
	}
	t.Error("the context ended during an attempt five times")
}

func serverTrouble(t *testing.T, e *Env) {
	for _, f := range []Fault{
		{Code: "InternalError", Status: 500}, {Code: "ServiceUnavailable", Status: 503}, {Code: "SystemBusy", Status: 400},
		{Code: "Operation.Conflict", Status: 403}, {Code: "LastTokenProcessing", Status: 400},
	} {
		f.Action, f.Count = "CreateNetworkInterface", 1
		e.Fault(t, f)
		if _, err := e.API.CreateENI(t.Context(), e.request("token", 0)); err != nil {
			t.Errorf("%s: %v", f.Code, err)
		}
	}
	enis, err := e.API.DescribeENIs(t.Context(), cloud.ENIFilter{Tags: map[string]string{"token": "token"}})
	must(t, err)
	if len(enis) != 1 {
		t.Errorf("%d ENIs, want 1", len(enis))
	}
}

func fullVSwitch(t *testing.T, e *Env) {
	ctx := t.Context()
	eni := e.create(t, "token", 0)
	e.Fill(t, e.VSwitch)
	_, err := e.API.AssignAddresses(ctx, eni.ID, 1, "assign")
	wantError(t, err, cloud.VSwitchFull, "InvalidVSwitchId.IpNotEnough")
	_, err = e.API.CreateENI(ctx, e.request("token-2", 0))
	wantError(t, err, cloud.VSwitchFull, "InvalidVSwitchId.IpNotEnough")
	if x := cloud.Explain(err); x.Reason != "VSwitchFull" {
		t.Errorf("reason %s", x.Reason)
	}
}

func usedUpVSwitch(t *testing.T, e *Env) {
	ctx := t.Context()
	available := func() int {
		return e.vSwitch(t, e.Small).Available
	}
	n := available()
	r := e.request("too-many", n)
	r.VSwitchID = e.Small
	_, err := e.API.CreateENI(ctx, r)
	wantError(t, err, cloud.VSwitchFull, "InvalidVSwitchId.IpNotEnough")
	if available() != n {
		t.Errorf("a refused call took addresses: %d of %d left", available(), n)
	}
	r.Token, r.SecondaryCount = "just-right", n-1
	eni, err := e.API.CreateENI(ctx, r)
	must(t, err)
	e.await(t, eni.ID, cloud.ENIAvailable)
	if available() != 0 {
		t.Errorf("%d addresses left, want none", available())
	}
	_, err = e.API.AssignAddresses(ctx, eni.ID, 1, "assign")
	wantError(t, err, cloud.VSwitchFull, "InvalidVSwitchId.IpNotEnough")
}

func limitsOfTheType(t *testing.T, e *Env) {
	ctx := t.Context()
	var last *cloud.ENI
	for i := 1; i < e.ENIs; i++ { // the primary ENI counts
		last = e.attached(t, fmt.Sprintf("token-%d", i), e.Instance, 0)
	}
	surplus := e.create(t, "surplus", 0)
	err := e.API.AttachENI(ctx, surplus.ID, e.Instance)
	wantError(t, err, cloud.Quota, "EniPerInstanceLimitExceeded")
	if x := cloud.Explain(err); x.Reason != "InstanceENILimit" {
		t.Errorf("reason %s", x.Reason)
	}

	for i := len(last.Addresses); i < e.IPv4PerENI; i++ {
		_, err := e.API.AssignAddresses(ctx, last.ID, 1, fmt.Sprintf("assign-%d", i))
		must(t, err)
	}
	_, err = e.API.AssignAddresses(ctx, last.ID, 1, "one-more")
	wantError(t, err, cloud.Quota, "")
	if n := len(e.look(t, last.ID).Addresses); n != e.IPv4PerENI {
		t.Errorf("%d addresses, want %d", n, e.IPv4PerENI)
	}
}

func refusedCredentials(t *testing.T, e *Env) {
	for c, reason := range map[Credential]string{UnknownKey: "BadAccessKey", WrongSecret: "BadSecret", ExpiredToken: "TokenExpired"} {
		_, err := e.As(t, c).DescribeInstances(t.Context(), []string{e.Instance})
		if x := cloud.Explain(err); x.Class != cloud.Auth || x.Reason != reason {
			t.Errorf("%s: %v, explained as %s; want %s", c, err, x.Reason, reason)
		}
	}
}
