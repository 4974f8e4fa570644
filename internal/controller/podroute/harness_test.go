package podroute

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/cloud/alibaba"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/faults"
	"terway.dev/terway/internal/vpcsim/openapi"
	"terway.dev/terway/internal/vpcsim/state"
)

// tb is what a test and a property have in common.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
	Cleanup(func())
}

// clock is the time of a test: nobody really waits.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// Sleep is what the cloud client waits with.
func (c *clock) Sleep(ctx context.Context, d time.Duration) error {
	c.pass(d)
	return ctx.Err()
}

// recorder keeps events.
type recorder struct{ all []string }

func (r *recorder) Eventf(regarding runtime.Object, _ runtime.Object, eventtype, reason, _, note string, args ...any) {
	r.all = append(r.all, fmt.Sprintf("%T %s %s %s %s", regarding, regarding.(client.Object).GetName(), eventtype, reason, fmt.Sprintf(note, args...)))
}

func (r *recorder) count(parts ...string) int {
	n := 0
	for _, s := range r.all {
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(s, p) }) {
			n++
		}
	}
	return n
}

var errCrash = errors.New("crashed")

// fuse kills the controller: after burn more writes to the cloud or the API
// server all fail. The last one may still be carried out, with its answer lost.
type fuse struct {
	burn int // below 0: never
	lost bool
}

func (f *fuse) do(do func() error) error {
	switch {
	case f.burn < 0:
		return do()
	case f.burn == 0:
		return errCrash
	}
	f.burn--
	if f.burn > 0 {
		return do()
	}
	if f.lost {
		_ = do()
	}
	return errCrash
}

// fusedCloud is the cloud as a controller sees it that may be killed. It checks
// that the VPC is left in peace while it works on something.
type fusedCloud struct {
	*alibaba.Client
	g *rig
}

func (c fusedCloud) CreateRouteEntries(ctx context.Context, table string, list []cloud.NewRouteEntry) (f []cloud.RouteFailure, err error) {
	c.g.mutation()
	err = c.g.fuse.do(func() (err error) { f, err = c.Client.CreateRouteEntries(ctx, table, list); return err })
	return f, err
}

func (c fusedCloud) DeleteRouteEntries(ctx context.Context, table string, list []cloud.RouteEntry) (f []cloud.RouteFailure, err error) {
	c.g.mutation()
	err = c.g.fuse.do(func() (err error) { f, err = c.Client.DeleteRouteEntries(ctx, table, list); return err })
	return f, err
}

// DescribeInstances leaves out instances that are said to be hidden.
func (c fusedCloud) DescribeInstances(ctx context.Context, ids []string) ([]cloud.Instance, error) {
	all, err := c.Client.DescribeInstances(ctx, ids)
	return slices.DeleteFunc(all, func(in cloud.Instance) bool { return c.g.hidden[in.ID] }), err
}

// fusedClient is the API server as a controller sees it that may be killed.
type fusedClient struct {
	client.WithWatch
	fuse *fuse
}

func (c fusedClient) Status() client.SubResourceWriter {
	return fusedStatus{c.WithWatch.Status(), c.fuse}
}

type fusedStatus struct {
	client.SubResourceWriter
	fuse *fuse
}

func (s fusedStatus) Patch(ctx context.Context, obj client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
	return s.fuse.do(func() error { return s.SubResourceWriter.Patch(ctx, obj, p, opts...) })
}

// rig is a cluster's API (fake), a cloud (the simulator behind the real client)
// and a controller that can be killed.
type rig struct {
	tb
	clock  *clock
	sim    *vpcsim.Server
	cloud  *alibaba.Client
	kube   client.WithWatch
	events *recorder
	cfg    *config.Config
	r      *Reconciler
	fuse   *fuse
	quota  int
	// stale lists make it possible that the controller does not see what is moving.
	stale bool
	// hidden instances are in no list: the simulator, like the service, does not
	// release an instance that an entry leads to.
	hidden map[string]bool

	vpc, vswitch, group string
	serial              int
}

const zone = "cn-hangzhou-i"

func newRig(t tb, options ...func(*vpcsim.Options)) *rig {
	t.Helper()
	g := &rig{tb: t, clock: &clock{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}, events: &recorder{}, quota: 200, hidden: map[string]bool{}}
	o := vpcsim.Options{Seed: 1, Now: g.clock.Now, Throttle: openapi.Throttle{}, Timing: state.Timing{RouteEntry: 2 * time.Second, RouteTable: time.Second}}
	for _, f := range options {
		f(&o)
	}
	var err error
	g.cfg, err = config.Parse([]byte("{cluster_id: c1, region: cn-hangzhou, network: flannel, pod_cidr: 172.20.0.0/16, service_cidr: 172.21.0.0/20}"))
	g.must(err)
	g.sim, err = vpcsim.New(o)
	g.must(err)
	t.Cleanup(func() {
		if err := g.sim.Close(); err != nil {
			t.Errorf("close the simulator: %v", err)
		}
	})
	g.vpc, g.vswitch, g.group = g.network("192.168.0.0/16", "192.168.0.0/20")
	account := g.sim.Account()
	g.cloud, err = alibaba.New(alibaba.Config{
		Region: "cn-hangzhou", ECSEndpoint: g.sim.Endpoint(), VPCEndpoint: g.sim.Endpoint(),
		Credentials: alibaba.StaticCredentials(account.AccessKeyID, account.AccessKeySecret),
		Clock:       g.clock, Attempts: 2, Random: func() float64 { return 0.5 }, Log: slog.New(slog.DiscardHandler),
	})
	g.must(err)
	scheme := runtime.NewScheme()
	g.must(corev1.AddToScheme(scheme))
	g.kube = fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&corev1.Node{}).Build()
	g.restart()
	return g
}

// network makes a VPC in the simulator.
func (g *rig) network(cidr, vswitchCIDR string) (vpc, vswitch, group string) {
	g.write(func(s state.API) error {
		v, err := s.CreateVpc(state.CreateVpcRequest{CidrBlock: cidr})
		if err == nil {
			vpc = v.VpcId
		}
		return err
	})
	g.write(func(s state.API) (err error) {
		vswitch, err = s.CreateVSwitch(state.CreateVSwitchRequest{VpcId: vpc, ZoneId: zone, CidrBlock: vswitchCIDR})
		return err
	})
	g.write(func(s state.API) (err error) {
		group, err = s.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: vpc})
		return err
	})
	return vpc, vswitch, group
}

func (g *rig) write(f func(state.API) error) {
	g.Helper()
	g.must(g.sim.Write(context.Background(), f))
}

func (g *rig) must(err error) {
	g.Helper()
	if err != nil {
		g.Fatalf("%v", err)
	}
}

func (g *rig) fault(f faults.Rule) {
	g.Helper()
	g.must(g.sim.AddFaults(f))
}

// restart kills the controller, if there is one, and starts another.
func (g *rig) restart() {
	g.fuse = &fuse{burn: -1}
	g.r = New(Options{
		Client: fusedClient{WithWatch: g.kube, fuse: g.fuse}, Cloud: fusedCloud{g.cloud, g}, Config: config.NewStore(g.cfg), Events: g.events,
		Subject: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "eni-config", Namespace: "kube-system"}},
		Log:     slog.New(slog.DiscardHandler), Now: g.clock.Now, Random: func() float64 { return 0.5 }, Quota: g.quota,
		Join: time.Second, Poll: time.Second, Retry: 2 * time.Second, Park: time.Minute, Settle: 10 * time.Second, Resync: 5 * time.Minute,
	})
}

// instance runs an ECS instance.
func (g *rig) instance() (id string) {
	g.Helper()
	g.write(func(s state.API) error {
		ids, err := s.RunInstances(state.RunInstancesRequest{InstanceType: "ecs.g6.large", ImageId: "aliyun_3_x64", VSwitchId: g.vswitch, SecurityGroupId: g.group})
		if err == nil {
			id = ids[0]
		}
		return err
	})
	return id
}

// register makes a Node object; a node that is registered later is younger.
func (g *rig) register(name, instance string, blocks ...string) {
	g.Helper()
	g.serial++
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(g.clock.Now().Add(time.Duration(g.serial) * time.Second).Truncate(time.Second))}}
	if instance != "" {
		n.Spec.ProviderID = "cn-hangzhou." + instance
	}
	if n.Spec.PodCIDRs = blocks; len(blocks) > 0 {
		n.Spec.PodCIDR = blocks[0]
	}
	g.must(g.kube.Create(context.Background(), n))
}

// join runs an instance and registers it with the nth block.
func (g *rig) join(name string, n int) (instance string) {
	g.Helper()
	instance = g.instance()
	g.register(name, instance, blockN(n))
	return instance
}

func blockN(n int) string { return fmt.Sprintf("172.20.%d.0/24", n) }

func (g *rig) leave(name string) {
	g.Helper()
	g.must(g.kube.Delete(context.Background(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}))
}

func (g *rig) condition(name string) corev1.NodeCondition {
	g.Helper()
	n := &corev1.Node{}
	g.must(g.kube.Get(context.Background(), types.NamespacedName{Name: name}, n))
	if c := condition(n); c != nil {
		return *c
	}
	return corev1.NodeCondition{}
}

// want checks reason and status of a node's condition.
func (g *rig) want(name string, status corev1.ConditionStatus, reason string) {
	g.Helper()
	if c := g.condition(name); c.Status != status || c.Reason != reason {
		g.Errorf("node %s: NetworkUnavailable is %s, %s: %s; want %s, %s", name, c.Status, c.Reason, c.Message, status, reason)
	}
}

// tables are the VPC's route tables, told past client and faults.
func (g *rig) tables() (all []state.RouteTable) {
	g.Helper()
	g.must(g.sim.Read(context.Background(), 0, func(s state.API) (err error) {
		all, err = s.DescribeRouteTables(state.DescribeRouteTablesRequest{VpcId: g.vpc})
		return err
	}))
	return all
}

// custom are a table's custom entries.
func (g *rig) custom(table int) (all []state.RouteEntry) {
	g.Helper()
	for _, e := range g.tables()[table].RouteEntries {
		if e.Type == state.RouteEntryCustom {
			all = append(all, e)
		}
	}
	return all
}

// leads says where the system table leads a range: instance, or "" without an entry.
func (g *rig) leads(block string) string {
	g.Helper()
	for _, e := range g.custom(0) {
		if e.DestinationCidrBlock == netip.MustParsePrefix(block) && e.Status == state.StatusAvailable {
			return e.NextHopId
		}
	}
	return ""
}

// mutation checks that no entry is on its way when the controller changes something.
func (g *rig) mutation() {
	if g.stale {
		return
	}
	for i := range g.tables() {
		for _, e := range g.custom(i) {
			if e.Status != state.StatusAvailable {
				g.Errorf("a call while %s is %s", e.DestinationCidrBlock, e.Status)
			}
		}
	}
}

// foreign makes an entry that is not the cluster's.
func (g *rig) foreign(block, instance, name string) {
	g.Helper()
	table := g.tables()[0].RouteTableId
	g.write(func(s state.API) error {
		_, err := s.CreateRouteEntry(state.CreateRouteEntryRequest{RouteTableId: table, DestinationCidrBlock: block, NextHopId: instance, RouteEntryName: name})
		return err
	})
	g.clock.pass(5 * time.Second)
	g.write(func(state.API) error { return nil })
}

// once reconciles once; a crash is no failure of the test.
func (g *rig) once() (time.Duration, bool) {
	g.Helper()
	res, err := g.r.Reconcile(context.Background(), work)
	if err != nil && !errors.Is(err, errCrash) {
		g.Fatalf("reconcile: %v", err)
	}
	return res.RequeueAfter, err != nil || g.fuse.burn == 0
}

// run lets the controller work for a while; a crash is followed by a successor.
func (g *rig) run(d time.Duration) {
	g.Helper()
	for end := g.clock.Now().Add(d); g.clock.Now().Before(end); {
		wait, crashed := g.once()
		if crashed {
			g.restart()
			wait = time.Second
		}
		if wait <= 0 {
			g.Fatalf("comes back after %s", wait)
		}
		g.clock.pass(wait)
	}
}

// calls counts the calls of an action so far.
func (g *rig) calls(action string) int { return int(g.sim.Stats().Snapshot()[action].Calls) }
