package cluster_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"terway.dev/terway/internal/agent"
	"terway.dev/terway/internal/agent/flannel"
	"terway.dev/terway/internal/agent/flannel/cluster"
	"terway.dev/terway/internal/datapath/claims"
)

func prefixes(list ...string) (all []netip.Prefix) {
	for _, s := range list {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

// api is an API server with a node n1 of these blocks; before, if it is given, runs
// before a patch.
func api(t *testing.T, before func(client.Client), blocks ...string) client.Client {
	t.Helper()
	scheme, err := agent.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(scheme).
		WithObjects(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{PodCIDRs: blocks}}).
		WithInterceptorFuncs(interceptor.Funcs{SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			if before != nil {
				before(c)
			}
			// The API server takes annotations with the status, the fake one does not.
			return c.Patch(ctx, o, p)
		}}).Build()
}

// node returns Node n1 of the API server, and its annotation with the blocks.
func node(t *testing.T, c client.Client) (n corev1.Node, said string) {
	t.Helper()
	if err := c.Get(t.Context(), client.ObjectKey{Name: "n1"}, &n); err != nil {
		t.Fatal(err)
	}
	return n, n.Annotations[claims.AnnotationPodCIDR]
}

func TestTellSaysTheNodesOwnBlocksOnly(t *testing.T) {
	c := api(t, nil, "172.20.1.0/24", "fd00:20:0:1::/64")
	n1 := cluster.Node{Client: c, Name: "n1"}
	err := n1.Publish(t.Context(), prefixes("172.20.9.0/24"))
	if !errors.Is(err, flannel.ErrBlock) || !strings.Contains(err.Error(), "172.20.9.0/24") || !strings.Contains(err.Error(), "172.20.1.0/24") {
		t.Errorf("another block than the node's: %v", err)
	}
	if _, s := node(t, c); s != "" {
		t.Errorf("another block than the node's was written: %q", s)
	}
	for blocks, list := range map[string][]netip.Prefix{
		"172.20.1.0/24":                  prefixes("172.20.1.0/24"),
		"172.20.1.0/24,fd00:20:0:1::/64": prefixes("172.20.1.0/24", "fd00:20:0:1::/64"),
	} {
		err := n1.Publish(t.Context(), list)
		if _, said := node(t, c); err != nil || said != blocks {
			t.Errorf("%s: the node says %q, %v", blocks, said, err)
		}
	}
	before, said := node(t, c)
	if err := n1.Publish(t.Context(), prefixes(strings.Split(said, ",")...)); err != nil {
		t.Error(err)
	}
	if after, _ := node(t, c); after.ResourceVersion != before.ResourceVersion {
		t.Error("an annotation that was right was written again")
	}
	if err := (cluster.Node{Client: c, Name: "n2"}).Publish(t.Context(), prefixes("172.20.1.0/24")); err == nil || errors.Is(err, flannel.ErrBlock) || !strings.Contains(err.Error(), "n2") {
		t.Errorf("a missing node: %v", err)
	}
}

// A Node without a block, or with one that has host bits set, does not make flanneld's block wrong.
func TestTellWithoutABlock(t *testing.T) {
	for want, blocks := range map[string][]string{"has no block yet": nil, "": {"172.20.1.5/24"}} {
		c := api(t, nil, blocks...)
		err := cluster.Node{Client: c, Name: "n1"}.Publish(t.Context(), prefixes("172.20.1.0/24"))
		if errors.Is(err, flannel.ErrBlock) || (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("a node with %q: %v", blocks, err)
		}
	}
}

// A Node that is deleted and created again between read and write must not get the annotation of the
// earlier one.
func TestTellDoesNotWriteIntoAnother(t *testing.T) {
	c := api(t, func(c client.Client) {
		ctx := context.Background()
		if err := c.Delete(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}); err != nil {
			t.Error(err)
		}
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"172.20.2.0/24"}}}
		if err := c.Create(ctx, n); err != nil {
			t.Error(err)
		}
		n.Labels = map[string]string{"beta": "1"} // the fake API server numbers each object's versions on its own
		if err := c.Update(ctx, n); err != nil {
			t.Error(err)
		}
	}, "172.20.1.0/24")
	if err := (cluster.Node{Client: c, Name: "n1"}).Publish(t.Context(), prefixes("172.20.1.0/24")); err == nil {
		t.Error("no error")
	}
	if _, s := node(t, c); s != "" {
		t.Errorf("the new object says %q", s)
	}
}

func TestWaitForBlock(t *testing.T) {
	c := api(t, nil)
	n1 := cluster.Node{Client: c, Name: "n1"}
	tick := make(chan time.Time)
	ended := make(chan error, 1)
	var reasons []string
	go func() {
		ended <- n1.WaitForBlock(t.Context(), tick, func(err error) { reasons = append(reasons, err.Error()) })
	}()
	for range 2 {
		select {
		case tick <- time.Time{}: // it has looked and looks again
		case err := <-ended:
			t.Fatalf("it ended without a block: %v", err)
		}
	}
	n, _ := node(t, c)
	n.Spec.PodCIDRs = []string{"172.20.1.0/24"}
	if err := c.Update(t.Context(), &n); err != nil {
		t.Fatal(err)
	}
	close(tick)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if want := "node n1 has no block yet (spec.podCIDRs)"; len(reasons) != 1 || reasons[0] != want {
		t.Errorf("reasons %q, want %q once", reasons, want)
	}

	ctx, cancel := context.WithCancel(t.Context())
	if err := (cluster.Node{Client: c, Name: "n2"}).WaitForBlock(ctx, nil, func(error) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("ended while it waited for a missing node: %v", err)
	}
}
