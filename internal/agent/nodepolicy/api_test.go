package nodepolicy

import (
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"terway.dev/terway/internal/agent/policyapi"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/policytest"
)

// ask asks the agent as terwayctl does.
func (a *agent) ask(path string, kind string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	a.Handler(func(policy.NamespacedName) string { return kind }).ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
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
			if err := a.Enter(pod, judged, addresses); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "the rules", func() error { return a.has(c.ForNode(name), wired, list) })
		part := c.ForNode(name).Maps()
		for _, conn := range list[:min(5, len(list))] {
			last = policyapi.Question(conn)
			w := a.ask(last.Path(), judged)
			answer, got, err := policyapi.ReadAnswer(w.Body)
			if err != nil || w.Code != http.StatusOK {
				t.Fatalf("%s: %d, %v", last.Path(), w.Code, err)
			}
			want := part.Decision(part.Lookup(compile.Packet{
				Endpoint: part.EndpointOf[conn.Pod], Direction: conn.Direction, Peer: conn.Peer, Protocol: conn.Protocol,
				SourcePort: conn.SourcePort, DestinationPort: conn.DestinationPort, ICMPType: conn.ICMPType, ICMPCode: conn.ICMPCode,
			}))
			if !reflect.DeepEqual(got, want) || !answer.Judged || !strings.HasPrefix(answer.State, "Following: ") {
				t.Errorf("%+v: %+v %+v, want %+v", conn, got, answer, want)
			}
			said[got.Action]++
		}
		c.change(t, h)
	}
	if said[policy.Allow] == 0 || said[policy.Deny] == 0 {
		t.Errorf("the kernel said %v: want both", said)
	}
	answer, _, err := policyapi.ReadAnswer(a.ask(last.Path(), "ipvlan").Body)
	if err != nil || answer.Judged || answer.Why != "nothing judges pods of ipvlan: take route" {
		t.Errorf("of a kind that is not judged: %+v, %v", answer, err)
	}
	gone := last
	gone.Own = addr("10.99.0.1")
	gone.Peer = addr("10.99.0.2")
	if _, d, err := policyapi.ReadAnswer(a.ask(gone.Path(), judged).Body); err != nil || !reflect.DeepEqual(d, policy.Decision{Action: policy.Deny, Reason: policy.Closed}) {
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
		if w := a.ask(policyapi.PathVerdict+"?"+query, judged); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s, want %s", query, w.Code, w.Body, want)
		}
	}
}
