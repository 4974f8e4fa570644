package nodenetwork

import (
	"context"
	"strings"
	"testing"
	"time"
)

// Nodes with the longest names that Kubernetes allows, which differ only at the end, get ENIs, find
// them again after a restart, and give them back.
func TestLongNodeNames(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	long := strings.Repeat(strings.Repeat("a", 62)+".", 3) + strings.Repeat("b", 62)
	names := []string{long + "0", long + "1"}
	for _, name := range names {
		g.addNode(name, "ecs.g6.2xlarge")
		g.settle(name, minute)
		if c := g.condition(name); g.free(name) != 2 || c.Status != "True" {
			t.Fatalf("%d addresses free, condition %+v", g.free(name), c)
		}
	}
	g.restart()
	sweeper := &Sweeper{Reconciler: g.r, Age: time.Minute}
	for _, name := range names {
		g.settle(name, minute)
		g.Must(sweeper.Sweep(context.Background()))
		if e := g.nn(name).Spec.ENIs; len(e) != 1 || g.free(name) != 2 {
			t.Errorf("after a restart: ENIs %+v, %d addresses free", e, g.free(name))
		}
		g.agree(name)
	}
}
