package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/agent/podapi"
	"terway.dev/terway/internal/inventory"
)

// fleet are agents that give one answer after the other.
type fleet struct {
	answers map[string][]string
}

func (f *fleet) Nodes(context.Context) ([]string, error) {
	return nil, errors.New("all nodes were asked for")
}

func (f *fleet) Ask(_ context.Context, node, path string, out io.Writer) error {
	list := f.answers[node]
	if path != podapi.PathBandwidth || len(list) == 0 {
		return fmt.Errorf("node %s: no answer to %s", node, path)
	}
	f.answers[node] = list[1:]
	_, err := io.WriteString(out, list[0])
	return err
}

// network is a node with pods that have limits.
func network(node string, pods map[string]*v1alpha1.PodLimits) v1alpha1.NodeNetwork {
	var n v1alpha1.NodeNetwork
	n.Name = node
	for pod, l := range pods {
		n.Status.Used = append(n.Status.Used, v1alpha1.UsedAddress{Pod: pod, Address: "192.168.32.1", Limits: l}, v1alpha1.UsedAddress{Pod: pod, Address: "fd00::1", Limits: l})
	}
	return n
}

// Each pod with a limit or a priority has a row with its limits and the rates between two answers of its node's agent. Nodes without limited pods are not asked.
func TestPods(t *testing.T) {
	networks := []v1alpha1.NodeNetwork{
		network("n1", map[string]*v1alpha1.PodLimits{"shop/web": {UID: "1", Ingress: 10e6, Egress: 5e6}, "shop/plain": nil, "a/anew": {UID: "2", Egress: 1e6}}),
		network("n2", map[string]*v1alpha1.PodLimits{"shop/plain": nil}),
		network("n3", map[string]*v1alpha1.PodLimits{"shop/silent": {UID: "3", Ingress: 1e9}}),
		network("n4", map[string]*v1alpha1.PodLimits{"shop/restarted": {UID: "4", Ingress: 1e9}}),
		network("n5", map[string]*v1alpha1.PodLimits{"shop/first": nil}),
	}
	networks[2].Status.Used[0].Priority, networks[2].Status.Used[1].Priority = "best-effort", "best-effort"
	networks[4].Status.Used[0].Priority = "guaranteed"
	answer := func(uptime time.Duration, pods ...podapi.Pod) string {
		b, err := json.Marshal(podapi.Bandwidth{Uptime: uptime, Pods: pods})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	queue := func(limit, bytes, dropped uint64) *podapi.Queue {
		return &podapi.Queue{Limit: limit, Bytes: bytes, Dropped: dropped}
	}
	f := &fleet{answers: map[string][]string{
		"n1": {
			answer(time.Hour, podapi.Pod{Pod: "shop/web", Ingress: queue(10e6, 1000, 7), Egress: queue(5e6, 500, 0)}, podapi.Pod{Pod: "a/anew", Egress: queue(1e6, 9000, 0)}),
			// The ingress limit was changed meanwhile.
			answer(time.Hour+12*time.Second, podapi.Pod{Pod: "shop/web", Ingress: queue(20e6, 1000+15e6, 10), Egress: queue(5e6, 500, 0)}, podapi.Pod{Pod: "a/anew", Egress: queue(1e6, 80, 0)}),
		},
		"n4": {
			answer(time.Hour, podapi.Pod{Pod: "shop/restarted", Ingress: queue(1e9, 5, 0)}), answer(time.Second, podapi.Pod{Pod: "shop/restarted", Ingress: queue(1e9, 500, 0)}),
		},
	}}
	r := report{Status: &inventory.Status{}, Pods: limitedPods(networks)}
	if err := measure(t.Context(), f, r.Pods, time.Millisecond); err == nil || err.Error() != "node n3: no answer to /pods/bandwidth" {
		t.Errorf("error %v, want that of n3 alone", err)
	}
	var text bytes.Buffer
	if err := writePods(&text, r.Pods); err != nil {
		t.Fatal(err)
	}
	const want = `
POD             NODE  INGRESS                                    EGRESS               PRIORITY
a/anew          n1    -                                          ? of 1 Mbit/s        -
shop/first      n5    -                                          -                    guaranteed
shop/restarted  n4    ? of 1 Gbit/s                              -                    -
shop/silent     n3    ? of 1 Gbit/s                              -                    best-effort
shop/web        n1    10 Mbit/s of 20 Mbit/s, 3 packets dropped  0 bit/s of 5 Mbit/s  -
`
	if text.String() != want {
		t.Errorf("got\n%s\nwant\n%s", text.String(), want)
	}
	asJSON, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"pod":"shop/web","node":"n1","ingress":{"limit":20000000,"rate":10000000,"dropped":3},"egress":{"limit":5000000,"rate":0,"dropped":0}}`; !strings.Contains(string(asJSON), want) {
		t.Errorf("JSON %s, want %s in it", asJSON, want)
	}
}

// Without --pods there are none, and without limited pods an empty list; nobody is asked.
func TestNoPods(t *testing.T) {
	none := limitedPods([]v1alpha1.NodeNetwork{network("n1", map[string]*v1alpha1.PodLimits{"shop/plain": nil})})
	if err := measure(t.Context(), &fleet{}, none, time.Hour); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		pods       []LimitedPod
		text, json string
	}{{none, "no pod has a bandwidth limit or a network priority\n", `"pods":[]`}, {nil, "controller: ", `"nodes":null}`}} {
		r := report{&inventory.Status{}, c.pods}
		var text bytes.Buffer
		if err := r.write(&text); err != nil {
			t.Fatal(err)
		}
		asJSON, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(text.String(), c.text) || c.pods == nil && strings.Contains(text.String(), "bandwidth") || !strings.Contains(string(asJSON), c.json) {
			t.Errorf("%v: %s, %s", c.pods, text.String(), asJSON)
		}
	}
}
