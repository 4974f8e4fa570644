package verify

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	kubetest "k8s.io/client-go/testing"

	"terway.dev/terway/internal/lab/instruments"
)

// A check for which there is nothing to test has neither passed nor failed, and runs on the next datapath; one that could not put back
// what it changed has failed all the same.
func TestNothingToTest(t *testing.T) {
	nothing := instruments.NothingToTest("too few ENIs")
	check := func(name string, err error) Check {
		return Check{Name: name, Run: func(context.Context, *Env) (string, error) { return "", err }}
	}
	shared := check("shared", nil)
	shared.Shared = true
	g := &Group{}
	run := func(on string, c Check) string {
		client := fake.NewClientset()
		client.PrependReactor("get", "serviceaccounts", func(kubetest.Action) (bool, runtime.Object, error) { return true, &corev1.ServiceAccount{}, nil })
		e := &Env{Cluster: instruments.Cluster{Client: client, Runs: []instruments.NodeDatapath{{Node: "node1", Datapath: on}}}}
		r := e.run(t.Context(), c)
		r.Seconds = 0
		g.Results = append(g.Results, r)
		var b strings.Builder
		WriteLine(&b, r)
		return strings.Join(strings.Fields(strings.Replace(b.String(), "0.0s", "", 1)), " ")
	}
	var got []string
	for _, c := range []Check{check("good", nil), check("untested", errors.Join(nothing, nil)), check("bad", errors.New("silent")), check("left", errors.Join(nothing, errors.New("a fault is left")))} {
		got = append(got, run("ebpf", c))
	}
	got = append(got, run("ebpf", shared), run(instruments.Exclusive, shared))
	want := []string{"ok good", "- untested nothing to test: too few ENIs", "FAIL bad silent", "FAIL left nothing to test: too few ENIs a fault is left",
		"ok shared", "- shared nothing to test: each pod has an exclusive ENI"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if g.Failed() != 2 || g.tested("untested") || !g.tested("bad") || !g.tested("good") {
		t.Errorf("%d failed of %+v, want 2, and all but one tested", g.Failed(), g.Results)
	}
}
