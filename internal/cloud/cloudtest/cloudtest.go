// Package cloudtest tests the contract of cloud.API: what every implementation must do. It must
// not depend on an implementation.
package cloudtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"terway.dev/terway/internal/cloud"
)

// Env is a cloud prepared for one test.
type Env struct {
	API cloud.API

	// VPC has two vSwitches, both in Zone. Small has so few addresses that a test can use them
	// up.
	VPC, Zone        string
	CIDR             netip.Prefix
	VSwitch, Small   string
	VSwitchCIDR      netip.Prefix
	SecurityGroup    string
	Instance, Other  string // running, with their primary ENI only
	InstanceType     string
	ENIs, IPv4PerENI int // of the type

	// Fault makes calls of an action fail.
	Fault func(t *testing.T, f Fault)
	// Fill makes a vSwitch refuse new addresses.
	Fill func(t *testing.T, vSwitch string)
	// Many creates n ENIs with one tag, faster than by the API.
	Many func(t *testing.T, n int, tag, value string)
	// As returns the same cloud with another credential.
	As func(t *testing.T, c Credential) cloud.API
}

// Fault describes what happens to the next Count calls of an action.
type Fault struct {
	Action string
	Count  int
	// LostAnswer does the work and drops the answer. Otherwise the answer is Code.
	LostAnswer bool
	Code       string
	Status     int
}

// Credential is a credential that the cloud refuses.
type Credential string

const (
	UnknownKey   Credential = "unknown key"
	WrongSecret  Credential = "wrong secret"
	ExpiredToken Credential = "expired token"
)

// Run runs the tests, each with its own cloud from env, in parallel.
func Run(t *testing.T, env func(t *testing.T) *Env) {
	for name, test := range map[string]func(*testing.T, *Env){
		"life of an ENI":        lifeOfAnENI,
		"describes":             describes,
		"unknown ids":           unknownIDs,
		"same token":            sameToken,
		"repeated operations":   repeatedOperations,
		"partial unassign":      partialUnassign,
		"as many as a call may": asManyAsACallMay,
		"lost answers":          lostAnswers,
		"throttling burst":      throttlingBurst,
		"server trouble":        serverTrouble,
		"full vSwitch":          fullVSwitch,
		"used-up vSwitch":       usedUpVSwitch,
		"limits of the type":    limitsOfTheType,
		"refused credentials":   refusedCredentials,
		"filters and pages":     filtersAndPages,
		"concurrent callers":    concurrentCallers,
		"a canceled context":    givenUpContext,
		"errors have a reason":  errorsHaveAReason,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, env(t))
		})
	}
}

// create creates an ENI and waits until it is Available.
func (e *Env) create(t *testing.T, token string, secondary int) *cloud.ENI {
	t.Helper()
	eni, err := e.API.CreateENI(t.Context(), e.request(token, secondary))
	if err != nil {
		t.Fatalf("create an ENI: %v", err)
	}
	return e.await(t, eni.ID, cloud.ENIAvailable)
}

func (e *Env) request(token string, secondary int) cloud.CreateENIRequest {
	return cloud.CreateENIRequest{Token: token, VSwitchID: e.VSwitch, SecurityGroups: []string{e.SecurityGroup}, SecondaryCount: secondary,
		Name: "contract", Description: "made by a test", Tags: map[string]string{"test": "contract", "token": token}}
}

// attached creates an ENI and attaches it to an instance.
func (e *Env) attached(t *testing.T, token, instance string, secondary int) *cloud.ENI {
	t.Helper()
	eni := e.create(t, token, secondary)
	must(t, e.API.AttachENI(t.Context(), eni.ID, instance))
	return e.await(t, eni.ID, cloud.ENIInUse)
}

// await polls until the ENI has the status.
func (e *Env) await(t *testing.T, id string, status cloud.ENIStatus) *cloud.ENI {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		eni := e.look(t, id)
		if eni != nil && eni.Status == status || eni == nil && status == "" {
			return eni
		}
		select {
		case <-ctx.Done():
			t.Fatalf("ENI %s does not become %q: %+v", id, status, eni)
		case <-tick.C:
		}
	}
}

// look returns the ENI, or nil if it does not exist.
func (e *Env) look(t *testing.T, id string) *cloud.ENI {
	t.Helper()
	enis, err := e.API.DescribeENIs(t.Context(), cloud.ENIFilter{IDs: []string{id}})
	must(t, err)
	if len(enis) == 0 {
		return nil
	}
	if len(enis) > 1 || enis[0].ID != id {
		t.Fatalf("asked for %s, got %+v", id, enis)
	}
	return &enis[0]
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantError checks class and code; an empty code matches any.
func wantError(t *testing.T, err error, class cloud.Class, code string) {
	t.Helper()
	var e *cloud.Error
	if !errors.As(err, &e) || e.Class != class || code != "" && e.Code != code {
		t.Errorf("error %v, want class %s, code %q", err, class, code)
	}
}

func lifeOfAnENI(t *testing.T, e *Env) {
	ctx := t.Context()
	eni := e.create(t, "token-1", 2)
	if len(eni.Addresses) != 3 || !slices.Contains(eni.Addresses, eni.Primary) || eni.VSwitchID != e.VSwitch || eni.VPCID != e.VPC || eni.Zone != e.Zone ||
		eni.Type != "Secondary" || eni.InstanceID != "" || !slices.Equal(eni.SecurityGroups, []string{e.SecurityGroup}) ||
		!maps.Equal(eni.Tags, map[string]string{"test": "contract", "token": "token-1"}) {
		t.Fatalf("created: %+v", eni)
	}
	for _, a := range eni.Addresses {
		if !e.VSwitchCIDR.Contains(a) {
			t.Errorf("%s is not in the vSwitch's %s", a, e.VSwitchCIDR)
		}
	}

	must(t, e.API.AttachENI(ctx, eni.ID, e.Instance))
	if on := e.await(t, eni.ID, cloud.ENIInUse); on.InstanceID != e.Instance || on.MAC != eni.MAC || !slices.Equal(on.Addresses, eni.Addresses) {
		t.Fatalf("attached: %+v, created: %+v", on, eni)
	}

	added, err := e.API.AssignAddresses(ctx, eni.ID, 2, "token-2")
	must(t, err)
	if len(added) != 2 || slices.ContainsFunc(added, func(a netip.Addr) bool { return slices.Contains(eni.Addresses, a) || !e.VSwitchCIDR.Contains(a) }) {
		t.Fatalf("assigned %v to %v", added, eni.Addresses)
	}
	all := append(slices.Clone(eni.Addresses), added...)
	if now := e.look(t, eni.ID); !sameSet(now.Addresses, all) || now.Primary != eni.Primary {
		t.Fatalf("after assign: %v, want %v", now.Addresses, all)
	}

	must(t, e.API.UnassignAddresses(ctx, eni.ID, added))
	if now := e.look(t, eni.ID); !sameSet(now.Addresses, eni.Addresses) {
		t.Fatalf("after unassign: %v, want %v", now.Addresses, eni.Addresses)
	}
	wantError(t, e.API.DeleteENI(ctx, eni.ID), cloud.Conflict, "InvalidOperation.InvalidEniState")

	must(t, e.API.DetachENI(ctx, eni.ID, e.Instance))
	e.await(t, eni.ID, cloud.ENIAvailable)
	must(t, e.API.DeleteENI(ctx, eni.ID))
	e.await(t, eni.ID, "")
}

func sameSet(a, b []netip.Addr) bool {
	sorted := func(s []netip.Addr) []netip.Addr { return slices.SortedFunc(slices.Values(s), netip.Addr.Compare) }
	return slices.Equal(sorted(a), sorted(b))
}

func describes(t *testing.T, e *Env) {
	ctx := t.Context()
	list, err := e.API.DescribeInstances(ctx, []string{e.Instance})
	must(t, err)
	if len(list) != 1 {
		t.Fatalf("instances: %+v", list)
	}
	i := list[0]
	if i.ID != e.Instance || i.Type != e.InstanceType || i.Zone != e.Zone || i.VPCID != e.VPC || i.VSwitchID != e.VSwitch || i.Status != "Running" || !slices.Contains(i.SecurityGroups, e.SecurityGroup) {
		t.Errorf("instance: %+v", i)
	}
	it, err := e.API.DescribeInstanceType(ctx, e.InstanceType)
	must(t, err)
	if it.Name != e.InstanceType || it.ENIs != e.ENIs || it.IPv4PerENI != e.IPv4PerENI {
		t.Errorf("instance type: %+v", it)
	}
	some, err := e.API.DescribeInstances(ctx, []string{e.Other, "i-unknown", e.Instance})
	must(t, err)
	if len(some) != 2 || some[0].ID == some[1].ID {
		t.Errorf("two instances and one that is not there: %+v", some)
	}
	v, err := e.API.DescribeVPC(ctx, e.VPC)
	must(t, err)
	if v.ID != e.VPC || len(v.CIDRs) == 0 || v.CIDRs[0] != e.CIDR {
		t.Errorf("VPC: %+v", v)
	}
	before := e.vSwitch(t, e.VSwitch)
	if before.CIDR != e.VSwitchCIDR || before.Zone != e.Zone || before.VPCID != e.VPC || e.vSwitch(t, e.Small).Available == 0 {
		t.Fatalf("vSwitch: %+v", before)
	}
	e.create(t, "token", 3)
	if n := before.Available - e.vSwitch(t, e.VSwitch).Available; n != 4 {
		t.Errorf("an ENI with 4 addresses took %d from the vSwitch", n)
	}
}

// vSwitch returns a vSwitch of the VPC.
func (e *Env) vSwitch(t *testing.T, id string) cloud.VSwitch {
	t.Helper()
	all, err := e.API.ListVSwitches(t.Context(), e.VPC)
	must(t, err)
	i := slices.IndexFunc(all, func(s cloud.VSwitch) bool { return s.ID == id })
	if i < 0 {
		t.Fatalf("no %s in %+v", id, all)
	}
	return all[i]
}

func unknownIDs(t *testing.T, e *Env) {
	ctx := t.Context()
	for what, do := range map[string]func() error{
		"instance type": func() error { _, err := e.API.DescribeInstanceType(ctx, "ecs.unknown.large"); return err },
		"VPC":           func() error { _, err := e.API.DescribeVPC(ctx, "vpc-unknown"); return err },
		"ENI to attach": func() error { return e.API.AttachENI(ctx, "eni-unknown", e.Instance) },
		"ENI to assign": func() error { _, err := e.API.AssignAddresses(ctx, "eni-unknown", 1, "tok"); return err },
		"vSwitch of an ENI": func() error {
			r := e.request("tok-v", 0)
			r.VSwitchID = "vsw-unknown"
			_, err := e.API.CreateENI(ctx, r)
			return err
		},
		"security group": func() error {
			r := e.request("tok-s", 0)
			r.SecurityGroups = []string{"sg-unknown"}
			_, err := e.API.CreateENI(ctx, r)
			return err
		},
	} {
		if err := do(); cloud.ClassOf(err) != cloud.NotFound || cloud.CodeOf(err) == "" {
			t.Errorf("%s: %v, want class NotFound with a code", what, err)
		}
	}
	enis, err := e.API.DescribeENIs(ctx, cloud.ENIFilter{IDs: []string{"eni-unknown"}})
	if err != nil || len(enis) != 0 {
		t.Errorf("unknown ENI: %v, %v; want none", enis, err)
	}
}

func sameToken(t *testing.T, e *Env) {
	ctx := t.Context()
	first := e.attached(t, "token", e.Instance, 0)
	again, err := e.API.CreateENI(ctx, e.request("token", 0))
	must(t, err)
	if again.ID != first.ID {
		t.Errorf("the same token made %s and %s", first.ID, again.ID)
	}
	a, err := e.API.AssignAddresses(ctx, first.ID, 2, "assign")
	must(t, err)
	b, err := e.API.AssignAddresses(ctx, first.ID, 2, "assign")
	must(t, err)
	if !sameSet(a, b) {
		t.Errorf("the same token assigned %v and %v", a, b)
	}
	if n := len(e.look(t, first.ID).Addresses); n != 3 {
		t.Errorf("the ENI has %d addresses, want 3", n)
	}
	other := e.request("token", 1)
	if _, err := e.API.CreateENI(ctx, other); cloud.ClassOf(err) != cloud.Invalid || err == nil {
		t.Errorf("the same token for another request: %v, want class Invalid", err)
	}
	for _, do := range []func() error{
		func() error { _, err := e.API.CreateENI(ctx, e.request("", 0)); return err },
		func() error { _, err := e.API.AssignAddresses(ctx, first.ID, 1, ""); return err },
		func() error { _, err := e.API.AssignAddresses(ctx, first.ID, 0, "x"); return err },
		func() error {
			_, err := e.API.AssignAddresses(ctx, first.ID, cloud.MaxAddressesPerCall+1, "x")
			return err
		},
	} {
		wantError(t, do(), cloud.Invalid, "")
	}
}

func repeatedOperations(t *testing.T, e *Env) {
	ctx := t.Context()
	eni := e.attached(t, "token", e.Instance, 1)
	must(t, e.API.AttachENI(ctx, eni.ID, e.Instance))
	if err := e.API.AttachENI(ctx, eni.ID, e.Other); err == nil {
		t.Error("an ENI of one instance can be attached to another")
	}
	secondary := eni.Addresses[1:]
	must(t, e.API.UnassignAddresses(ctx, eni.ID, secondary))
	must(t, e.API.UnassignAddresses(ctx, eni.ID, secondary))
	must(t, e.API.UnassignAddresses(ctx, eni.ID, nil))
	must(t, e.API.DetachENI(ctx, eni.ID, e.Other)) // not attached there
	if now := e.look(t, eni.ID); now.Status != cloud.ENIInUse || now.InstanceID != e.Instance {
		t.Fatalf("detaching it from another instance changed it: %+v", now)
	}
	must(t, e.API.DetachENI(ctx, eni.ID, e.Instance))
	must(t, e.API.DetachENI(ctx, eni.ID, e.Instance))
	e.await(t, eni.ID, cloud.ENIAvailable)
	must(t, e.API.DetachENI(ctx, eni.ID, e.Instance))
	must(t, e.API.DeleteENI(ctx, eni.ID))
	must(t, e.API.DeleteENI(ctx, eni.ID))
	e.await(t, eni.ID, "")
	must(t, e.API.DeleteENI(ctx, eni.ID))
	must(t, e.API.DetachENI(ctx, eni.ID, e.Instance))
	must(t, e.API.UnassignAddresses(ctx, eni.ID, secondary))
}

func partialUnassign(t *testing.T, e *Env) {
	ctx := t.Context()
	eni := e.attached(t, "token", e.Instance, 4)
	secondary := eni.Addresses[1:]
	must(t, e.API.UnassignAddresses(ctx, eni.ID, secondary[:2]))
	must(t, e.API.UnassignAddresses(ctx, eni.ID, secondary[1:3])) // one gone, one assigned
	if now := e.look(t, eni.ID); !sameSet(now.Addresses, []netip.Addr{eni.Primary, secondary[3]}) {
		t.Errorf("left are %v, want %s and %s", now.Addresses, eni.Primary, secondary[3])
	}
	wantError(t, e.API.UnassignAddresses(ctx, eni.ID, []netip.Addr{eni.Primary}), cloud.Invalid, "")
	if now := e.look(t, eni.ID); now.Primary != eni.Primary || len(now.Addresses) != 2 {
		t.Errorf("the primary address is gone: %+v", now)
	}
	wantError(t, e.API.UnassignAddresses(ctx, eni.ID, make([]netip.Addr, cloud.MaxAddressesPerCall+1)), cloud.Invalid, "")
}

func asManyAsACallMay(t *testing.T, e *Env) {
	ctx := t.Context()
	eni := e.create(t, "token", 0)
	added, err := e.API.AssignAddresses(ctx, eni.ID, cloud.MaxAddressesPerCall, "assign")
	must(t, err)
	if len(added) != cloud.MaxAddressesPerCall {
		t.Fatalf("%d addresses, want %d", len(added), cloud.MaxAddressesPerCall)
	}
	must(t, e.API.UnassignAddresses(ctx, eni.ID, added))
	if now := e.look(t, eni.ID); !slices.Equal(now.Addresses, eni.Addresses) {
		t.Errorf("left are %v, want %v", now.Addresses, eni.Addresses)
	}
}

func filtersAndPages(t *testing.T, e *Env) {
	const n = 1203 // three pages of the largest size
	e.Many(t, n, "many", "yes")
	eni := e.attached(t, "token", e.Instance, 0)
	count := func(what string, f cloud.ENIFilter) []cloud.ENI {
		t.Helper()
		enis, err := e.API.DescribeENIs(t.Context(), f)
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		seen := map[string]bool{}
		for _, x := range enis {
			if seen[x.ID] {
				t.Errorf("%s comes twice", x.ID)
			}
			seen[x.ID] = true
		}
		return enis
	}
	many := count("by tag", cloud.ENIFilter{Tags: map[string]string{"many": "yes"}})
	if len(many) != n {
		t.Fatalf("%d ENIs by tag, want %d", len(many), n)
	}
	var ids []string
	for _, x := range many[:250] { // more than one call accepts
		ids = append(ids, x.ID)
	}
	for _, c := range []struct {
		what string
		f    cloud.ENIFilter
		want int
	}{
		{"by ids", cloud.ENIFilter{IDs: ids}, 250},
		{"by ids given twice", cloud.ENIFilter{IDs: append(slices.Clone(ids[:3]), ids[:3]...)}, 3},
		{"by ids and tag", cloud.ENIFilter{IDs: append(slices.Clone(ids[:3]), eni.ID), Tags: map[string]string{"many": "yes"}}, 3},
		{"by another tag value", cloud.ENIFilter{Tags: map[string]string{"many": "no"}}, 0},
		{"by two tags", cloud.ENIFilter{Tags: map[string]string{"test": "contract", "token": "token"}}, 1},
		{"by instance", cloud.ENIFilter{InstanceID: e.Instance}, 2},
		{"by instance and type", cloud.ENIFilter{InstanceID: e.Instance, Type: "Primary"}, 1},
		{"by type and status", cloud.ENIFilter{VPCID: e.VPC, Type: "Secondary", Status: cloud.ENIInUse}, 1},
		{"by unknown instance", cloud.ENIFilter{InstanceID: "i-unknown"}, 0},
		{"all", cloud.ENIFilter{VPCID: e.VPC}, n + 3}, // and two primary ENIs
	} {
		if got := count(c.what, c.f); len(got) != c.want {
			t.Errorf("%s: %d ENIs, want %d", c.what, len(got), c.want)
		}
	}
}

func concurrentCallers(t *testing.T, e *Env) {
	const callers = 16
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		enis  = map[string]bool{}
		addrs = map[netip.Addr]bool{}
	)
	host := e.create(t, "host", 0)
	for i := range callers {
		wg.Go(func() {
			eni, err := e.API.CreateENI(t.Context(), e.request("shared", 0))
			if err != nil {
				t.Error(err)
				return
			}
			added, err := e.API.AssignAddresses(t.Context(), host.ID, 2, fmt.Sprintf("assign-%d", i))
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			enis[eni.ID] = true
			for _, a := range added {
				addrs[a] = true
			}
		})
	}
	wg.Wait()
	if len(enis) != 1 {
		t.Errorf("one token made %d ENIs", len(enis))
	}
	if now := e.look(t, host.ID); len(addrs) != 2*callers || len(now.Addresses) != 1+2*callers {
		t.Errorf("%d different addresses were answered, the ENI has %d; want %d and one more", len(addrs), len(now.Addresses), 2*callers)
	}
}

func givenUpContext(t *testing.T, e *Env) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := e.API.CreateENI(ctx, e.request("token", 0))
	if !errors.Is(err, context.Canceled) || cloud.ClassOf(err) != cloud.Transient {
		t.Errorf("%v, want context.Canceled of class Transient", err)
	}
	enis, err := e.API.DescribeENIs(t.Context(), cloud.ENIFilter{Tags: map[string]string{"token": "token"}})
	must(t, err)
	if len(enis) != 0 {
		t.Error("a call that was canceled before it began created an ENI")
	}
}

// errorsHaveAReason: an error has the action, the code and the request id, on one line.
func errorsHaveAReason(t *testing.T, e *Env) {
	_, err := e.API.AssignAddresses(t.Context(), "eni-unknown", 1, "token")
	var ce *cloud.Error
	if !errors.As(err, &ce) || ce.Action != "AssignPrivateIpAddresses" || ce.Code != "InvalidEniId.NotFound" || ce.Status != 404 || ce.RequestID == "" || ce.Message == "" {
		t.Errorf("%#v", err)
	}
	if s := fmt.Sprint(err); strings.Contains(s, "\n") || !strings.Contains(s, "InvalidEniId.NotFound") {
		t.Errorf("%q", s)
	}
}
