package agents

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

// Agents are asked by pods/exec, in the container of the chart, and what goes wrong says where.
func TestExec(t *testing.T) {
	agent := func(name, node string, phase corev1.PodPhase) client.Object {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "terway", Name: name, Labels: map[string]string{"app": "terwayd"}},
			Spec:       corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: phase},
		}
	}
	f := fake.NewClientBuilder().WithObjects(agent("terwayd-a", "n1", corev1.PodRunning), agent("terwayd-b", "n2", corev1.PodRunning), agent("terwayd-c", "n3", corev1.PodFailed)).Build()
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		asked = append(asked, r.URL.Path+" "+strings.Join(q["command"], " "))
		path := q["command"][2]
		if path == "/forbidden" {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			_ = json.NewEncoder(w).Encode(metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonForbidden, Code: 403, Message: "no pods/exec"})
			return
		}
		// Channels of the protocol: standard input, output and error, the status, and sizes of a terminal.
		conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{"v5.channel.k8s.io": {Binary: true, Channels: []wsstream.ChannelType{
			wsstream.IgnoreChannel, wsstream.WriteChannel, wsstream.WriteChannel, wsstream.WriteChannel, wsstream.IgnoreChannel,
		}}})
		_, streams, err := conn.Open(w, r)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		status := metav1.Status{Status: metav1.StatusSuccess}
		switch path {
		case "/policy/counters":
			fmt.Fprint(streams[1], `{"rules": []}`)
		case "/old", "/fails":
			fmt.Fprint(streams[2], map[string]string{"/old": "terwayd: unknown command \"ask\" for \"terwayd\"\n", "/fails": "terwayd: 503 Service Unavailable: no \x1b[2Jpolicies\n" + strings.Repeat("x", 9000)}[path])
			status = metav1.Status{Status: metav1.StatusFailure, Reason: "NonZeroExitCode", Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: "ExitCode", Message: "1"}}}}
		}
		if err := json.NewEncoder(streams[3]).Encode(status); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	e, err := New(&rest.Config{Host: server.URL}, f, "terway")
	if err != nil {
		t.Fatal(err)
	}
	if nodes, err := e.Nodes(t.Context()); err != nil || !slices.Equal(nodes, []string{"n1", "n2"}) {
		t.Errorf("%q, %v", nodes, err)
	}
	var out bytes.Buffer
	if err := e.Ask(t.Context(), "n2", "/policy/counters", &out); err != nil || out.String() != `{"rules": []}` ||
		!slices.Equal(asked, []string{"/api/v1/namespaces/terway/pods/terwayd-b/exec /usr/bin/terwayd ask /policy/counters"}) {
		t.Errorf("%s, %v, asked %q", out.String(), err, asked)
	}
	for path, want := range map[string]string{
		"/old":       "the agent of node n1 is of a version that cannot be asked",
		"/fails":     "node n1: terwayd: 503 Service Unavailable: no \ufffd[2Jpolicies\nxxx",
		"/forbidden": "no pods/exec",
	} {
		if err := e.Ask(t.Context(), "n1", path, io.Discard); err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 5000 {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
	if err := e.Ask(t.Context(), "n3", "/", io.Discard); err == nil || err.Error() != "no agent runs on node n3" {
		t.Error(err)
	}
	if e, err = New(&rest.Config{Host: server.URL}, f, "kube-system"); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Nodes(t.Context()); err == nil || !strings.Contains(err.Error(), "no agent runs in namespace kube-system") {
		t.Error(err)
	}
}
