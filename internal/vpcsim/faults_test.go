package vpcsim_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	sdkerrors "github.com/aliyun/alibaba-cloud-sdk-go/sdk/errors"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/ecs"

	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/faults"
)

func add(t *testing.T, s *vpcsim.Server, rules ...faults.Rule) {
	t.Helper()
	if err := s.AddFaults(rules...); err != nil {
		t.Fatal(err)
	}
}

// An answer is lost after the call was executed: a retry with the same token must return its
// result and not execute it again.
func TestLostAnswerAndRetryWithTheSameToken(t *testing.T) {
	s := start(t)
	c := connect(t, s)
	n := makeNetwork(t, c)
	id := makeENI(t, c, n)
	add(t, s, faults.Rule{Action: "AssignPrivateIpAddresses", LostAnswer: true, Count: 1})
	_, err := assign(c, id, 5, "token-1")
	if err == nil {
		t.Fatal("the answer came although it was to be lost")
	}
	if _, isAnswer := err.(*sdkerrors.ServerError); isAnswer {
		t.Fatalf("an error came as an answer: %v", err)
	}
	if got := len(eni(t, c, id).PrivateIpSets.PrivateIpSet); got != 6 {
		t.Fatalf("%d addresses after the lost answer, want 6", got)
	}
	again := must(assign(c, id, 5, "token-1"))(t)
	x := eni(t, c, id).PrivateIpSets.PrivateIpSet
	if len(again) != 5 || len(x) != 6 {
		t.Errorf("the retry answered %d addresses, the ENI has %d; want 5 and 6", len(again), len(x))
	}
	if got := s.Stats().Snapshot()["AssignPrivateIpAddresses"].LostAnswers; got != 1 {
		t.Errorf("%d lost answers counted", got)
	}
}

func TestInjectedError(t *testing.T) {
	s := start(t)
	c := connect(t, s)
	add(t, s, faults.Rule{Action: "DescribeRegions", Error: &faults.Error{Code: "Throttling.User"}, Skip: 1, Count: 1})
	ask := func() error {
		_, err := c.ecs.DescribeRegions(ecs.CreateDescribeRegionsRequest())
		return err
	}
	if err := ask(); err != nil {
		t.Error(err)
	}
	wantError(t, ask(), "Throttling.User", 400)
	if err := ask(); err != nil {
		t.Error(err)
	}
}

func TestLatency(t *testing.T) {
	s := start(t)
	c := connect(t, s)
	add(t, s, faults.Rule{Action: "DescribeRegions", Latency: &faults.Latency{Fixed: faults.Duration(50 * time.Millisecond)}})
	before := time.Now()
	must(c.ecs.DescribeRegions(ecs.CreateDescribeRegionsRequest()))(t)
	if took := time.Since(before); took < 50*time.Millisecond {
		t.Errorf("answered after %v, before the injected delay was over", took)
	}
}

func TestStuckAttaching(t *testing.T) {
	s := start(t)
	c := connect(t, s)
	n := makeNetwork(t, c)
	node, id := runInstance(t, c, n), makeENI(t, c, n)
	add(t, s, faults.Rule{Name: "stuck", StuckAttaching: true})
	r := ecs.CreateAttachNetworkInterfaceRequest()
	r.NetworkInterfaceId, r.InstanceId = id, node
	must(c.ecs.AttachNetworkInterface(r))(t)
	// Meanwhile another ENI is created completely.
	makeENI(t, c, n)
	if got := eni(t, c, id).Status; got != "Attaching" {
		t.Errorf("status %s, want Attaching", got)
	}
	s.RemoveFault("stuck")
	waitENI(t, c, id, "InUse")
}

func TestFailingAttach(t *testing.T) {
	s := start(t, func(o *vpcsim.Options) { o.Faults = []faults.Rule{{FailingAttach: true}} })
	c := connect(t, s)
	n := makeNetwork(t, c)
	node, id := runInstance(t, c, n), makeENI(t, c, n)
	r := ecs.CreateAttachNetworkInterfaceRequest()
	r.NetworkInterfaceId, r.InstanceId = id, node
	must(c.ecs.AttachNetworkInterface(r))(t)
	waitENI(t, c, id, "Available")
	if got := eni(t, c, id).InstanceId; got != "" {
		t.Errorf("the ENI is with %s after a failed attachment", got)
	}
}

func TestStrictDetach(t *testing.T) {
	s := start(t)
	c := connect(t, s)
	n := makeNetwork(t, c)
	node, id := runInstance(t, c, n), makeENI(t, c, n)
	r := ecs.CreateDetachNetworkInterfaceRequest()
	r.NetworkInterfaceId, r.InstanceId = id, node
	must(c.ecs.DetachNetworkInterface(r))(t)
	add(t, s, faults.Rule{Name: "strict", StrictDetach: true})
	_, err := c.ecs.DetachNetworkInterface(r)
	wantError(t, err, "InvalidOperation.InvalidEniState", 400)
	s.RemoveFault("strict")
	must(c.ecs.DetachNetworkInterface(r))(t)
}

func TestTypeBandwidth(t *testing.T) {
	plane := &recorder{}
	s := start(t, func(o *vpcsim.Options) { o.Planes = []vpcsim.Plane{plane} })
	c := connect(t, s)
	held := func() bool {
		must(c.ecs.DescribeInstances(ecs.CreateDescribeInstancesRequest()))(t) // what is seen is applied
		return plane.last() != nil && plane.last().TypeBandwidth
	}
	for _, want := range []bool{false, true, false} {
		if want {
			add(t, s, faults.Rule{Name: "held", TypeBandwidth: true})
		} else {
			s.RemoveFault("held")
		}
		if got := held(); got != want {
			t.Errorf("instances are held to their type's bandwidth: %t, want %t", got, want)
		}
	}
}

// A rule may name a vSwitch that is created later, and its effect ends with it.
func TestVSwitchFull(t *testing.T) {
	s := start(t)
	c := connect(t, s)
	n := makeNetwork(t, c)
	id := makeENI(t, c, n)
	other := n
	other.vswitch = makeVSwitch(t, c, n.vpc, "192.168.32.0/24")
	add(t, s, faults.Rule{Name: "full", VSwitchFull: []string{n.vswitch, "vsw-none"}})
	_, err := assign(c, id, 1, "")
	wantError(t, err, "InvalidVSwitchId.IpNotEnough", 403)
	if !strings.Contains(err.Error(), n.vswitch) {
		t.Errorf("the error does not name the vSwitch: %v", err)
	}
	makeENI(t, c, other)
	s.RemoveFault("full")
	must(assign(c, id, 1, ""))(t)
}

func TestStaleDescribe(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	clock := &manualClock{now: now}
	s := start(t, func(o *vpcsim.Options) { o.Now = clock.Now })
	c := connect(t, s)
	n := makeNetwork(t, c)
	id := makeENI(t, c, n)
	add(t, s, faults.Rule{Action: "DescribeNetworkInterfaces", Stale: faults.Duration(10 * time.Second)})
	count := func() int { return len(eni(t, c, id).PrivateIpSets.PrivateIpSet) }
	clock.Advance(5 * time.Second)
	must(assign(c, id, 2, ""))(t)
	if got := count(); got != 1 {
		t.Errorf("%d addresses at once, want the 1 of 10 s ago", got)
	}
	clock.Advance(9 * time.Second)
	if got := count(); got != 1 {
		t.Errorf("%d addresses after 9 s, want the 1 of 10 s ago", got)
	}
	clock.Advance(time.Second)
	if got := count(); got != 3 {
		t.Errorf("%d addresses after 10 s, want 3", got)
	}
	s.RemoveFault("")
	must(assign(c, id, 2, ""))(t)
	if got := count(); got != 5 {
		t.Errorf("%d addresses without the rule, want 5", got)
	}
}

func TestAdminEndpoint(t *testing.T) {
	s := start(t)
	c := connect(t, s)
	admin(t, s, "POST", "/faults", `{"name":"x","action":"DescribeRegions","error":{"code":"ServiceUnavailable","status":503}}`)
	_, err := c.ecs.DescribeRegions(ecs.CreateDescribeRegionsRequest())
	wantError(t, err, "ServiceUnavailable", 503)
	var list []faults.Status
	if err := json.Unmarshal(admin(t, s, "GET", "/faults", ""), &list); err != nil || len(list) != 1 || list[0].Hits != 1 {
		t.Errorf("rules %+v, err %v", list, err)
	}
	admin(t, s, "DELETE", "/faults?name=x", "")
	must(c.ecs.DescribeRegions(ecs.CreateDescribeRegionsRequest()))(t)
	must(raw(t, c, "2022-04-30", "DescribeRegions", nil))(t) // NLB's is another action

	var report vpcsim.Report
	if err := json.Unmarshal(admin(t, s, "GET", "/stats", ""), &report); err != nil {
		t.Fatal(err)
	}
	if got := report.Actions["Ecs:DescribeRegions"]; report.Actions["Nlb:DescribeRegions"].Calls != 1 || got.Calls != 2 || got.Errors != 1 || got.ErrorCodes["ServiceUnavailable"] != 1 || !report.Committed {
		t.Errorf("stats %+v", report)
	}
	text := string(admin(t, s, "GET", "/metrics", ""))
	for _, want := range []string{
		`vpcsim_calls_total{action="Ecs:DescribeRegions"} 2`,
		`vpcsim_errors_total{action="Ecs:DescribeRegions",code="ServiceUnavailable"} 1`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("metrics lack %s:\n%s", want, text)
		}
	}
	id := makeENI(t, c, makeNetwork(t, c))
	raw := admin(t, s, "GET", "/view", "")
	var view vpcsim.ViewReport
	if err := json.Unmarshal(raw, &view); err != nil || view.RegionId != "cn-hangzhou" || len(view.VSwitches) != 1 ||
		len(view.NetworkInterfaces) != 1 || view.NetworkInterfaces[0].NetworkInterfaceId != id {
		t.Errorf("view %+v, err %v", view, err)
	}
	// For people: ENIs first, one field on each line.
	if want := "{\n  \"NetworkInterfaces\": [\n    {\n      \"NetworkInterfaceId\": \"" + id + "\",\n"; !strings.HasPrefix(string(raw), want) {
		t.Errorf("the view begins %.200s", raw)
	}
}
