package nodepolicy

import (
	"encoding/binary"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"terway.dev/terway/internal/agent/policyapi"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/policytest"
)

// ask asks the agent as terwayctl does.
func (a *agent) ask(path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	a.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w
}

// The answer to terwayctl is the kernel's: of pods that are wired what policies say, of others nothing passes.
func TestTheKernelIsAsked(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	h := serve(t, "a", c.all())
	name := policytest.Nodes[0]
	m := newMachine(t, name, h)
	a := m.start(c.pods(name))
	<-a.first
	var last policyapi.Question
	said := map[policy.Action]int{}
	for range 6 {
		wired, list := c.pods(name), c.connections(name)
		for pod, addresses := range wired {
			if err := a.Enter(pod, addresses); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "the rules", func() error { return a.has(c.ForNode(name), wired, list) })
		part := c.ForNode(name).Maps()
		for _, conn := range list[:min(5, len(list))] {
			last = policyapi.Question(conn)
			w := a.ask(last.Path())
			answer, got, err := policyapi.ReadAnswer(w.Body)
			if err != nil || w.Code != http.StatusOK {
				t.Fatalf("%s: %d, %v", last.Path(), w.Code, err)
			}
			want := part.Decision(part.Lookup(compile.Packet{
				Endpoint: part.EndpointOf[conn.Pod], Direction: conn.Direction, Peer: conn.Peer, Protocol: conn.Protocol,
				SourcePort: conn.SourcePort, DestinationPort: conn.DestinationPort, ICMPType: conn.ICMPType, ICMPCode: conn.ICMPCode,
			}))
			if !reflect.DeepEqual(got, want) || !strings.HasPrefix(answer.State, "Following: ") {
				t.Errorf("%+v: %+v %+v, want %+v", conn, got, answer, want)
			}
			said[got.Action]++
		}
		c.change(t, h)
	}
	if said[policy.Allow] == 0 || said[policy.Deny] == 0 {
		t.Errorf("the kernel said %v: want both", said)
	}
	gone := last
	gone.Own = addr("10.99.0.1")
	gone.Peer = addr("10.99.0.2")
	if _, d, err := policyapi.ReadAnswer(a.ask(gone.Path()).Body); err != nil || !reflect.DeepEqual(d, policy.Decision{Action: policy.Deny, Reason: policy.Closed}) {
		t.Errorf("an address of nobody: %+v, %v", d, err)
	}
	for query, want := range map[string]string{
		"":                                `pod "": want NAMESPACE/NAME`,
		"pod=a/b/c":                       `pod "a/b/c": want NAMESPACE/NAME`,
		"pod=a/b&direction=up":            `direction "up": want ingress or egress`,
		"pod=a/b&direction=egress&own=::": "want an address",
		"pod=a/b&direction=egress&own=::1&peer=10.0.0.1":                                                          "want an address of the same family as own",
		"pod=a/b&direction=egress&own=10.0.0.1&peer=10.0.0.2&protocol=300&type=0&code=0":                          `protocol "300": want 0 to 255`,
		"pod=a/b&direction=egress&own=10.0.0.1&peer=10.0.0.2&protocol=6&type=0&code=0&source=1&destination=65536": `destination "65536": want 0 to 65535`,
	} {
		if w := a.ask(policyapi.PathVerdict + "?" + query); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s, want %s", query, w.Code, w.Body, want)
		}
	}
}

// What programs tell is answered with the pod's name and the rule, as it is and as it comes; it is counted, measured, and logged if it was denied.
func TestFlowsAndCounters(t *testing.T) {
	t.Parallel()
	h := serve(t, "a", shop())
	m := newMachine(t, "node2", h)
	a := m.start(map[policy.NamespacedName][]netip.Addr{in("shop", "db"): {addr("10.0.0.9")}})
	a.follows()
	conn := policy.Connection{Pod: in("shop", "db"), Direction: policy.Ingress, Own: addr("10.0.0.9"), Peer: addr("10.0.0.1"), Protocol: policy.TCPProtocol, DestinationPort: 80}
	row, err := m.decides(conn)
	if err != nil || row.Action != uint8(policy.Deny) {
		t.Fatalf("%+v, %v: want it denied", row, err)
	}
	// struct flow_event of bpf/flows.h: denied, judged by ingress.
	event := make([]byte, 80)
	for i, x := range []netip.Addr{conn.Peer, conn.Own} {
		b := x.As16()
		copy(event[8+16*i:], b[:])
	}
	binary.LittleEndian.PutUint32(event[56:], row.Rule)
	binary.LittleEndian.PutUint16(event[74:], conn.DestinationPort)
	event[76], event[79] = conn.Protocol, 1|4
	server := httptest.NewServer(a.Handler())
	defer server.Close()
	coming, err := http.Get(server.URL + policyapi.FlowsQuery{Follow: true, Denied: true, Pod: in("shop", "db")}.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer coming.Body.Close()
	if err := m.programs.Tell(event, 1); err != nil {
		t.Fatal(err)
	}
	stop := errors.New("that is enough")
	var got policyapi.Flow
	if err := policyapi.ReadFlows(coming.Body, true, func(f policyapi.Flow) error { got = f; return stop }); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	if got.Verdict != policyapi.Denied || got.To.Pod != "shop/db" || got.From.Address != "10.0.0.1" || got.Ingress.Tier != "default" || got.To.Port != 80 {
		t.Errorf("%+v", got)
	}
	for q, want := range map[*policyapi.FlowsQuery]int{{}: 1, {Denied: true}: 1, {Pod: in("shop", "other")}: 0, {Pod: in("shop", "web"), Addresses: []netip.Addr{conn.Peer}}: 1} {
		n := 0
		if err := policyapi.ReadFlows(a.ask(q.Path()).Body, false, func(policyapi.Flow) error { n++; return nil }); err != nil || n != want {
			t.Errorf("%s: %d flows, %v; want %d", q.Path(), n, err, want)
		}
	}
	c, decisions, err := policyapi.ReadCounters(a.ask(policyapi.PathCounters).Body)
	found := false
	for i, d := range decisions {
		found = found || d.Reason == policy.ByTier && d.Tier == "default" && c.Rules[i].Ingress == 1
	}
	if err != nil || !found || c.Since.IsZero() {
		t.Errorf("%+v, %v", c, err)
	}
	if text := m.lines.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, `"pod":"shop/db"`) {
		t.Errorf("logged: %q", text)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(a.Policies)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, s := range f.Metric {
			name := f.GetName()
			for _, l := range s.Label {
				name += " " + l.GetValue()
			}
			values[name] = s.GetCounter().GetValue() + s.GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"terway_policy_verdicts_total ingress deny": 1, "terway_policy_verdicts_total egress allow": 0, "terway_policy_flows": 1,
		"terway_policy_flow_losses_total full": 0, "terway_policy_rules_without_counter": 0,
	} {
		if v, ok := values[name]; !ok || v != want {
			t.Errorf("%s is %v (%v), want %v", name, v, ok, want)
		}
	}
	for query, want := range map[string]string{"denied=maybe": `denied "maybe": want true or false`, "pod=x": `pod "x": want NAMESPACE/NAME`, "address=x": `address "x": want an address`} {
		if w := a.ask(policyapi.PathFlows + "?" + query); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s", query, w.Code, w.Body)
		}
	}
}
