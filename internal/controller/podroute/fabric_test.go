package podroute

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os/exec"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/testutil"
	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/fabric"
	"terway.dev/terway/internal/vpcsim/state"
)

// The controller's entries carry packets: pods behind two real instances reach each other with
// their own addresses, until a node is gone. SourceDestCheck of the instances' primary ENIs is off,
// the default, and the VPC drops any source to which no route entry leads back (Strict).
func TestPacketsFollowTheEntries(t *testing.T) {
	testutil.RequireRoot(t)
	f, err := fabric.New(fabric.Options{Prefix: fmt.Sprintf("pr%08x-", rand.Uint32()), Strict: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Destroy(); err != nil {
			t.Errorf("destroy the fabric: %v", err)
		}
	})
	g := newRig(t, func(o *vpcsim.Options) { o.Fabric = vpcsim.Dataplane{Fabric: f} })
	ids := map[int]string{1: g.instance(), 2: g.instance()}
	inside := func(n int, args ...string) error {
		path, err := f.NetNSPath(ids[n])
		g.Must(err)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		out, err := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + path}, args...)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%v: %w: %s", args, err, out)
		}
		return nil
	}
	ping := func() error {
		return inside(1, "ping", "-n", "-c", "3", "-i", "0.2", "-W", "1", "-I", "172.20.1.7", "172.20.2.7")
	}
	for n := range ids {
		g.Must(inside(n, "ip", "address", "add", fmt.Sprintf("172.20.%d.7/32", n), "dev", "lo"))
	}
	if err := ping(); err == nil {
		t.Error("pods reach each other without a route")
	}
	for n, id := range ids {
		g.register(fmt.Sprintf("n%d", n), id, blockN(n))
	}
	g.run(minute)
	g.want("n1", corev1.ConditionFalse, "RouteCreated")
	g.want("n2", corev1.ConditionFalse, "RouteCreated")
	if err := ping(); err != nil {
		t.Error(err)
	}
	g.Must(g.Sim.Read(t.Context(), 0, func(s state.API) error {
		all, err := s.DescribeNetworkInterfaces(state.DescribeNetworkInterfacesRequest{})
		for _, n := range all {
			if n.SourceDestCheck {
				t.Errorf("ENI %s has SourceDestCheck on", n.NetworkInterfaceId)
			}
		}
		return err
	}))
	g.leave("n2")
	g.run(minute)
	if err := ping(); err == nil {
		t.Error("pods of a node that is gone are still reached")
	}
}
