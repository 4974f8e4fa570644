package agent

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/policy"
)

// fakePolicies record who is here. Package nodepolicy's tests have hubs and maps.
type fakePolicies struct {
	mu    sync.Mutex
	here  map[netip.Addr]policy.NamespacedName
	calls []string
	// await, enter and tell are what the calls return.
	await, enter, tell error
	// telling, if set, is called in Tell.
	telling func()
}

func newFakePolicies() *fakePolicies {
	return &fakePolicies{here: map[netip.Addr]policy.NamespacedName{}}
}

func (f *fakePolicies) note(call string, pod policy.NamespacedName) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call+" "+pod.Name)
}

func (f *fakePolicies) enters(pod policy.NamespacedName, addresses []netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range addresses {
		f.here[a] = pod
	}
}

func (f *fakePolicies) Restore(pod policy.NamespacedName, addresses []netip.Addr) {
	f.note("restore", pod)
	f.enters(pod, addresses)
}

func (f *fakePolicies) Await(context.Context, string) error { return f.await }

func (f *fakePolicies) Enter(pod policy.NamespacedName, addresses []netip.Addr) error {
	f.note("enter", pod)
	if f.enter == nil {
		f.enters(pod, addresses)
	}
	return f.enter
}

func (f *fakePolicies) Tell(_ context.Context, pod policy.NamespacedName, _ []netip.Addr) error {
	f.note("tell", pod)
	if f.telling != nil {
		f.telling()
	}
	return f.tell
}

func (f *fakePolicies) Forget(pod policy.NamespacedName, addresses []netip.Addr) {
	f.note("forget", pod)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range addresses {
		if f.here[a] == pod {
			delete(f.here, a)
		}
	}
}

func (f *fakePolicies) State() (bool, string, string) {
	return false, "HubAway", "nobody answers"
}

func withPolicies(t *testing.T) (*env, *fakePolicies) {
	e := newEnv(t, 2)
	f := newFakePolicies()
	e.configure = func(o *Options) { o.Policies = f }
	e.restart()
	return e, f
}

// A pod that policies do not let start has nothing, and its owner is told why.
func TestAPodMayNotStart(t *testing.T) {
	for what, fail := range map[string]func(*fakePolicies, error){
		"before it has an address": func(f *fakePolicies, err error) { f.await = err },
		"before it is wired":       func(f *fakePolicies, err error) { f.enter = err },
		"after it is wired":        func(f *fakePolicies, err error) { f.tell = err },
	} {
		t.Run(what, func(t *testing.T) {
			e, f := withPolicies(t)
			fail(f, errors.New("no replica of the policy hub answers"))
			if _, err := e.add("a"); !says(err, types.ErrTryAgainLater, "no replica of the policy hub answers") {
				t.Errorf("%+v: want the cause, and that it is tried again", err)
			}
			if len(e.dp.wired) != 0 || len(f.here) != 0 || len(e.a.entries) != 0 || e.a.pool.Count(e.now).Used != 0 {
				t.Errorf("wired %v, here %v, %d in the journal: want nothing left", e.dp.wired, f.here, len(e.a.entries))
			}
			fail(f, nil)
			e.mustAdd("a")
		})
	}
}

// A pod is closed before it is wired, its address is told meanwhile, and ADD waits for both.
func TestPoliciesKnowAPodBeforeItStarts(t *testing.T) {
	e, f := withPolicies(t)
	wiring := make(chan struct{})
	var before []string
	e.dp.onAdd = func(s step) {
		if s == after {
			return
		}
		f.mu.Lock()
		before = slices.Clone(f.calls)
		f.mu.Unlock()
		close(wiring)
	}
	f.telling = func() { <-wiring }
	address := netip.MustParsePrefix(e.mustAdd("a")).Addr()
	if !slices.Contains(before, "enter pod-a") {
		t.Errorf("before it is wired: %q", before)
	}
	if f.calls[len(f.calls)-1] != "tell pod-a" || f.here[address] != (policy.NamespacedName{Namespace: "default", Name: "pod-a"}) {
		t.Errorf("%q, %v", f.calls, f.here)
	}
	e.dp.onAdd = nil
	// Another agent names the pods that there are, and the rest goes with the pod.
	f.here = map[netip.Addr]policy.NamespacedName{}
	e.restart()
	if _, ok := f.here[address]; !ok {
		t.Error("after a restart nobody knows the pod")
	}
	e.del("a")
	if len(f.here) != 0 {
		t.Errorf("after DEL: %v", f.here)
	}
}

// The condition is there while policy is on, and says why.
func TestConditionPolicyReady(t *testing.T) {
	e, _ := withPolicies(t)
	st := e.a.Status(v1alpha1.NodeNetworkStatus{})
	c := meta.FindStatusCondition(st.Conditions, v1alpha1.ConditionPolicyReady)
	if c == nil || c.Status != metav1.ConditionFalse || c.Reason != "HubAway" || c.Message != "nobody answers" {
		t.Errorf("%+v", c)
	}
	e.configure = nil
	e.restart()
	if c := meta.FindStatusCondition(e.a.Status(st).Conditions, v1alpha1.ConditionPolicyReady); c != nil {
		t.Errorf("policy is off, and %+v", c)
	}
}

// hereAndInTheJournal says what differs between the pods that policies know and the journal's.
func (f *fakePolicies) hereAndInTheJournal(a *Agent) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	want := map[netip.Addr]policy.NamespacedName{}
	for _, e := range a.entries {
		for _, addr := range e.Addresses {
			want[addr] = nameOf(e)
		}
	}
	if maps.Equal(want, f.here) {
		return ""
	}
	return strings.Join([]string{"policies know", text(f.here), "the journal has", text(want)}, " ")
}

func text(m map[netip.Addr]policy.NamespacedName) (s string) {
	for _, a := range slices.SortedFunc(maps.Keys(m), netip.Addr.Compare) {
		s += a.String() + "=" + m[a].String() + ","
	}
	return "{" + s + "}"
}

// Each replica that is ready counts once.
func TestReplicasOfTheHub(t *testing.T) {
	yes, no, policyPort, otherPort := true, false, int32(10366), int32(1)
	name, other := "policy", "other"
	slice := func(family discoveryv1.AddressType, ready *bool, addresses ...string) discoveryv1.EndpointSlice {
		s := discoveryv1.EndpointSlice{AddressType: family, Ports: []discoveryv1.EndpointPort{{Name: &other, Port: &otherPort}, {Name: &name, Port: &policyPort}}}
		for _, a := range addresses {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}, Conditions: discoveryv1.EndpointConditions{Ready: ready}})
		}
		return s
	}
	const v4, v6 = discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6
	noPort := slice(v4, &yes, "10.0.0.9")
	noPort.Ports = noPort.Ports[:1]
	for _, tt := range []struct {
		what string
		list []discoveryv1.EndpointSlice
		want []string
	}{
		{"none", nil, nil},
		{"in order", []discoveryv1.EndpointSlice{slice(v4, &yes, "10.0.0.2", "10.0.0.1")}, []string{"10.0.0.1:10366", "10.0.0.2:10366"}},
		{"not ready", []discoveryv1.EndpointSlice{slice(v4, &no, "10.0.0.2"), slice(v4, nil, "10.0.0.1")}, []string{"10.0.0.1:10366"}},
		{"in two slices", []discoveryv1.EndpointSlice{slice(v4, &yes, "10.0.0.1"), slice(v4, &yes, "10.0.0.1")}, []string{"10.0.0.1:10366"}},
		{"of two families", []discoveryv1.EndpointSlice{slice(v6, &yes, "fd00::1"), slice(v4, &yes, "10.0.0.1")}, []string{"10.0.0.1:10366"}},
		{"of IPv6", []discoveryv1.EndpointSlice{slice(v6, &yes, "fd00::1"), slice(v4, &no, "10.0.0.1")}, []string{"[fd00::1]:10366"}},
		{"without the port", []discoveryv1.EndpointSlice{noPort}, nil},
	} {
		if got := replicas(tt.list); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.what, got, tt.want)
		}
	}
}
