package status

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	coordinationv1 "k8s.io/api/coordination/v1"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cli/cluster/clustertest"
	"terway.dev/terway/internal/inventory"
)

// install is what a cluster gets, step by step: its node, a NodeNetwork with an agent, and a controller.
func install() (node client.Object, rest []client.Object) {
	nn := &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	nn.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue}}
	agent := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "terwayd-1", Labels: map[string]string{"app": "terwayd"}}, Spec: corev1.PodSpec{NodeName: "n1"}}
	agent.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	holder, now := "c1", metav1.NowMicro()
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: inventory.ControllerName}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder, RenewTime: &now}}
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, []client.Object{nn, agent, lease}
}

// steps does one step of an installation whenever the command says that it waits.
type steps struct {
	said  bytes.Buffer
	still []func()
}

func (s *steps) Write(b []byte) (int, error) {
	s.said.Write(b)
	if len(s.still) > 0 {
		s.still[0]()
		s.still = s.still[1:]
	}
	return len(b), nil
}

func runWait(t *testing.T, s *clustertest.Server, say io.Writer, args ...string) (string, error) {
	t.Helper()
	cmd := newCommand(time.Millisecond)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(say)
	cmd.SetArgs(append(args, "--kubeconfig", s.Kubeconfig))
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// It waits for what an installation brings, tells each step once, and prints the state at the end.
func TestWait(t *testing.T) {
	node, rest := install()
	s := clustertest.New(t, node)
	add := func(o ...client.Object) func() {
		return func() { s.Change(func(all []client.Object) []client.Object { return append(all, o...) }) }
	}
	progress := &steps{still: []func(){add(rest[0]), add(rest[1]), add(rest[2])}}
	out, err := runWait(t, s, progress, "--wait")
	if err != nil || !strings.Contains(out, "controller: c1 leads") || strings.Contains(out, "problem") || strings.Count(out, "NODE") != 1 {
		t.Errorf("%v\n%s", err, out)
	}
	first, later, _ := strings.Cut(progress.said.String(), "\n")
	const want = "waiting: the controller has a problem; 1 of 1 nodes have problems\nwaiting: the controller has a problem\n"
	if !strings.HasPrefix(first, "waiting: ") || !strings.Contains(first, "has no NodeNetworks") || later != want {
		t.Errorf("it said\n%s\n%s\nwant that there are no NodeNetworks, and\n%s", first, later, want)
	}
}

// When the time is over, it prints the problems that are left, or why nothing could be read.
func TestWaitIsOver(t *testing.T) {
	node, rest := install()
	s := clustertest.New(t, node, rest[0], rest[2])
	out, err := runWait(t, s, io.Discard, "--wait=10ms")
	if err == nil || err.Error() != "1 of 1 nodes have problems" || !strings.Contains(out, "problem: n1: it has no pod of terwayd") {
		t.Errorf("%v\n%s", err, out)
	}
	empty := clustertest.New(t, node)
	if out, err := runWait(t, empty, io.Discard, "--wait=10ms"); err == nil || !strings.HasPrefix(err.Error(), "after 10ms: ") || out != "" {
		t.Errorf("%v\n%s", err, out)
	}
	s.Refuse("nodes")
	var said bytes.Buffer
	if _, err := runWait(t, s, &said, "--wait=1h"); err == nil || !strings.Contains(err.Error(), "does not let this user read nodes") || said.Len() > 0 {
		t.Errorf("forbidden: %v, said %q", err, said.String())
	}
	if _, err := runWait(t, s, io.Discard, "--wait=-1s"); err == nil || !strings.Contains(err.Error(), "--wait=-1s: want a duration such as 5m") {
		t.Errorf("negative: %v", err)
	}
}

// An interrupt ends it.
func TestWaitInterrupt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	w := waiter{most: time.Hour, poll: time.Minute, say: &steps{still: []func(){cancel}}, look: func(context.Context) (*inventory.Objects, error) { return nil, errors.New("not yet") }}
	if o, err := w.until(ctx); !errors.Is(err, context.Canceled) || o != nil {
		t.Errorf("%v, %v: want that it was interrupted", o, err)
	}
}
