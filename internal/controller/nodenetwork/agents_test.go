package nodenetwork

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"terway.dev/terway/internal/datapath/claims"
)

// leases is a cluster whose nodes' agents renew their Leases, with the watcher.
type leases struct {
	*rig
	agents *Agents
	away   bool // the API server does not answer the controller
	names  []string
}

func withLeases(t *testing.T, nodes int) *leases {
	l := &leases{rig: newRig(t, []string{"192.168.32.0/22"})}
	for i := range nodes {
		name := fmt.Sprintf("n%02d", i)
		l.names = append(l.names, name)
		l.addNode(name, "ecs.g6.2xlarge")
		l.settle(name, minute)
		nn := l.nn(name)
		nn.Status.LeaseSeconds = 40
		l.Must(l.kube.Status().Update(context.Background(), nn))
	}
	l.watch()
	return l
}

// watch starts a new leader's watcher.
func (l *leases) watch() {
	l.restart()
	l.r.Live = interceptor.NewClient(l.kube, interceptor.Funcs{Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
		if l.away {
			return errors.New("connection refused")
		}
		return c.Get(ctx, key, obj, opts...)
	}})
	l.agents = &Agents{Reconciler: l.r, Namespace: "kube-system", Leader: "terway-controller", Period: 5 * time.Second}
}

// renew renews the Leases of nodes.
func (l *leases) renew(nodes ...string) {
	l.Helper()
	for _, name := range nodes {
		lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "terwayd-" + name, Labels: map[string]string{claims.LabelLease: ""}}}
		err := l.kube.Get(context.Background(), client.ObjectKeyFromObject(lease), lease)
		lease.Spec.RenewTime = &metav1.MicroTime{Time: l.Clock.Now()}
		if err != nil {
			l.Must(l.kube.Create(context.Background(), lease))
			continue
		}
		l.Must(l.kube.Update(context.Background(), lease))
	}
}

// pass advances the clock while these agents renew, and returns the nodes that are tainted then.
func (l *leases) pass(d time.Duration, renewing ...string) (tainted []string) {
	l.Helper()
	for end := l.Clock.Now().Add(d); l.Clock.Now().Before(end); l.Clock.Pass(5 * time.Second) {
		if !l.away {
			l.renew(renewing...)
		}
		if err := l.agents.Look(context.Background()); (err != nil) != l.away {
			l.Fatalf("look: %v", err)
		}
		for len(l.r.wake) > 0 {
			l.once((<-l.r.wake).Object.GetName())
		}
	}
	for _, name := range l.names {
		if slices.ContainsFunc(l.node(name).Spec.Taints, func(t corev1.Taint) bool { return t.Key == claims.TaintNotReady }) {
			tainted = append(tainted, name)
		}
	}
	return tainted
}

func TestADeadAgentsNodeIsTainted(t *testing.T) {
	l := withLeases(t, 4)
	l.renew(l.names...)
	if got := l.pass(30*time.Second, l.names...); len(got) > 0 {
		t.Fatalf("%v are tainted, all agents live", got)
	}
	alive := l.names[1:]
	if got := l.pass(time.Minute, alive...); !slices.Equal(got, l.names[:1]) {
		t.Fatalf("%v are tainted, want the one whose agent is dead", got)
	}
	if !l.events.Has("AgentSilent") {
		t.Error("no event names it")
	}
	// A new leader knows no more at first, and changes nothing.
	l.watch()
	if got := l.pass(20*time.Second, alive...); !slices.Equal(got, l.names[:1]) {
		t.Errorf("%v are tainted after a failover", got)
	}
	if got := l.pass(20*time.Second, l.names...); len(got) > 0 || silent(l.nn(l.names[0]).ControllerConditions()) {
		t.Errorf("%v are tainted, all agents live again", got)
	}
	// An agent that dies before its first renewal, on a node that was ready.
	l.Must(l.kube.Delete(context.Background(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "terwayd-" + l.names[2]}}))
	l.watch()
	if got := l.pass(time.Minute, l.names[0], l.names[1], l.names[3]); !slices.Equal(got, l.names[2:3]) {
		t.Errorf("%v are tainted, want the one that has no Lease", got)
	}
}

func TestNoMassTainting(t *testing.T) {
	l := withLeases(t, fewSilent-1)
	l.renew(l.names...)
	// A new leader finds old Leases: it has not seen when they were renewed.
	l.Clock.Pass(time.Hour)
	l.watch()
	if got := l.pass(30 * time.Second); len(got) > 0 {
		t.Errorf("%v are tainted by a new leader", got)
	}
	// The API server was unreachable: no agent could renew.
	l.pass(20*time.Second, l.names...)
	l.away = true
	l.pass(5 * time.Minute)
	l.away = false
	if got := l.pass(20 * time.Second); len(got) > 0 {
		t.Errorf("%v are tainted as soon as the API server is back", got)
	}
	// Most agents at once: the agents are not the cause.
	l = withLeases(t, 4)
	l.pass(20*time.Second, l.names...)
	if got := l.pass(5*time.Minute, l.names[0]); len(got) > 0 {
		t.Errorf("%v are tainted though most agents are silent", got)
	}
}

// A Lease that is not in the cache yet was renewed.
func TestACacheThatLagsTaintsNothing(t *testing.T) {
	l := withLeases(t, 1)
	l.renew(l.names...)
	old := &coordinationv1.LeaseList{}
	l.Must(l.kube.List(context.Background(), old))
	l.r.Client = interceptor.NewClient(l.kube, interceptor.Funcs{List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
		if into, ok := list.(*coordinationv1.LeaseList); ok {
			old.DeepCopyInto(into)
			return nil
		}
		return c.List(ctx, list, opts...)
	}})
	if got := l.pass(5*time.Minute, l.names...); len(got) > 0 {
		t.Errorf("%v are tainted because of a cache", got)
	}
}
