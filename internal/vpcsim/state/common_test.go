package state_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"terway.dev/terway/internal/vpcsim/state"
)

func TestClientToken(t *testing.T) {
	w := newWorld(t)
	req := state.CreateNetworkInterfaceRequest{ClientToken: "tok", VSwitchId: w.vsw, SecurityGroupId: w.sg}
	w.refused(403, "InvalidVSwitchId.IpInvalid", func() error {
		bad := req
		bad.PrimaryIpAddress = "10.0.0.1"
		return errOf(w.CreateNetworkInterface(bad))
	})
	// The failed call did not use up the token.
	first := must(w.CreateNetworkInterface(req))
	before := w.Revision()
	again := must(w.CreateNetworkInterface(req))
	if again.NetworkInterfaceId != first.NetworkInterfaceId || !slices.Equal(again.PrivateIpAddresses, first.PrivateIpAddresses) || w.Revision() != before {
		t.Errorf("first %s, again %s, revision %d → %d", first.NetworkInterfaceId, again.NetworkInterfaceId, before, w.Revision())
	}
	other := req
	other.Description = "x"
	w.refused(400, "IdempotentParameterMismatch", func() error { return errOf(w.CreateNetworkInterface(other)) })
	w.settle()
	// A token belongs to an action.
	assign := state.AssignPrivateIpAddressesRequest{ClientToken: "tok", NetworkInterfaceId: first.NetworkInterfaceId, SecondaryPrivateIpAddressCount: 3}
	a, b := must(w.AssignPrivateIpAddresses(assign)), must(w.AssignPrivateIpAddresses(assign))
	if !slices.Equal(a.PrivateIpAddress, b.PrivateIpAddress) || len(w.getENI(first.NetworkInterfaceId).PrivateIpAddresses) != 4 {
		t.Errorf("assigned %v, then %v", a.PrivateIpAddress, b.PrivateIpAddress)
	}
	// It survives a restart, and is forgotten after a day.
	loaded := must(state.Load(options(w.clock), must(w.MarshalJSON())))
	if c := must(loaded.AssignPrivateIpAddresses(assign)); !slices.Equal(a.PrivateIpAddress, c.PrivateIpAddress) {
		t.Errorf("after a restart %v", c.PrivateIpAddress)
	}
	w.clock.now = w.clock.now.Add(25 * time.Hour)
	w.Tick(w.clock.now)
	if c := must(w.AssignPrivateIpAddresses(assign)); slices.Equal(a.PrivateIpAddress, c.PrivateIpAddress) {
		t.Errorf("a day later still %v", c.PrivateIpAddress)
	}
}

func TestTags(t *testing.T) {
	w := newWorld(t, func(o *state.Options) { o.Limits.TagsPerResource = 3 })
	eni := w.eni().NetworkInterfaceId
	tag := func(tags ...state.Tag) error {
		return w.TagResources(state.TagResourcesRequest{ResourceType: "eni", ResourceId: []string{eni}, Tag: tags})
	}
	check(tag(state.Tag{"a", "1"}, state.Tag{"b", ""}))
	check(tag(state.Tag{"a", "2"}))
	w.refused(400, "OperationDenied.QuotaExceed", func() error { return tag(state.Tag{"c", ""}, state.Tag{"d", ""}) })
	w.refused(400, "InvalidTagKey.Malformed", func() error { return tag(state.Tag{"acs:x", ""}) })
	w.refused(400, "InvalidTagValue.Malformed", func() error { return tag(state.Tag{"x", strings.Repeat("v", 129)}) })
	w.refused(404, "InvalidResourceId.NotFound", func() error {
		return w.TagResources(state.TagResourcesRequest{ResourceType: "eni", ResourceId: []string{eni, "eni-x"}, Tag: []state.Tag{{"a", "9"}}})
	})
	w.refused(404, "InvalidResourceType.NotFound", func() error {
		return w.TagResources(state.TagResourcesRequest{ResourceType: "disk", ResourceId: []string{eni}, Tag: []state.Tag{{"a", "9"}}})
	})
	got := must(w.ListTagResources(state.ListTagResourcesRequest{ResourceType: "eni", Tag: []state.Tag{{"a", "2"}}}))
	if fmt.Sprint(got) != fmt.Sprintf("[{eni %s a 2} {eni %s b }]", eni, eni) {
		t.Errorf("%v", got)
	}
	check(w.UntagResources(state.UntagResourcesRequest{ResourceType: "eni", ResourceId: []string{eni}, TagKey: []string{"a"}}))
	check(w.UntagResources(state.UntagResourcesRequest{ResourceType: "eni", ResourceId: []string{eni}, All: true}))
	if left := w.getENI(eni).Tags; len(left) != 0 {
		t.Errorf("left %v", left)
	}
	for kind, id := range map[string]string{"VPC": w.vpc, "VSWITCH": w.vsw, "ROUTETABLE": w.table, "securitygroup": w.sg, "instance": w.instance("ecs.g6.2xlarge")} {
		check(w.TagResources(state.TagResourcesRequest{ResourceType: kind, ResourceId: []string{id}, Tag: []state.Tag{{"k", "v"}}}))
		if got := must(w.ListTagResources(state.ListTagResourcesRequest{ResourceType: kind})); len(got) != 1 || got[0].ResourceId != id {
			t.Errorf("%s: %v", kind, got)
		}
	}
}

// The same seed and calls give the same cloud; another seed gives other ids.
func TestDeterminism(t *testing.T) {
	build := func(seed uint64) string {
		w := newWorld(t, func(o *state.Options) { o.Seed = seed })
		w.attached(w.instance("ecs.g6.2xlarge"))
		return w.saved()
	}
	if once, again := build(1), build(1); once != again {
		t.Error("the same seed gave different clouds")
	}
	if build(1) == build(2) {
		t.Error("different seeds gave the same cloud")
	}
}

func TestLoadRefusesWhatItCannotUse(t *testing.T) {
	c := &clock{time.Unix(0, 0)}
	for name, text := range map[string]string{
		"not JSON":     `{`,
		"other format": `{"Format":99}`,
		"unknown type": `{"Format":1,"Data":{"Instances":{"i-1":{"InstanceType":"ecs.none"}}}}`,
		"no generator": `{"Format":1}`,
	} {
		if _, err := state.Load(options(c), []byte(text)); err == nil {
			t.Errorf("%s was loaded", name)
		}
	}
	if _, err := state.New(state.Options{}); err == nil {
		t.Error("a state without a clock was accepted")
	}
}
