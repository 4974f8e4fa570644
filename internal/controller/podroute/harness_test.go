package podroute

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/cloud/alibaba"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/controller/cloudtest"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/openapi"
	"terway.dev/terway/internal/vpcsim/state"
)

// fusedCloud is a cloud client of a controller that may be killed. It checks that the controller
// makes no call while the VPC is making a change.
type fusedCloud struct {
	*alibaba.Client
	g *rig
}

func (c fusedCloud) CreateRouteEntries(ctx context.Context, table string, list []cloud.NewRouteEntry) (f []cloud.RouteFailure, err error) {
	c.g.mutation()
	err = c.g.fuse.Do(func() (err error) { f, err = c.Client.CreateRouteEntries(ctx, table, list); return err })
	return f, err
}

func (c fusedCloud) DeleteRouteEntries(ctx context.Context, table string, list []cloud.RouteEntry) (f []cloud.RouteFailure, err error) {
	c.g.mutation()
	err = c.g.fuse.Do(func() (err error) { f, err = c.Client.DeleteRouteEntries(ctx, table, list); return err })
	return f, err
}

// DescribeInstances leaves out hidden instances, and refuses malformed ids.
func (c fusedCloud) DescribeInstances(ctx context.Context, ids []string) ([]cloud.Instance, error) {
	c.g.asked = append(c.g.asked, ids)
	if slices.Contains(ids, malformed) {
		return nil, &cloud.Error{Action: "DescribeInstances", Code: "InvalidInstanceId.Malformed", Class: cloud.Invalid, Message: malformed}
	}
	all, err := c.Client.DescribeInstances(ctx, ids)
	return slices.DeleteFunc(all, func(in cloud.Instance) bool { return c.g.hidden[in.ID] }), err
}

// malformed is an instance id that the cloud refuses.
const malformed = "i-!"

// fusedClient is an API server client of a controller that may be killed.
type fusedClient struct {
	client.WithWatch
	g    *rig
	fuse *cloudtest.Fuse
}

func (c fusedClient) Status() client.SubResourceWriter {
	return fusedStatus{c.WithWatch.Status(), c.g, c.fuse}
}

type fusedStatus struct {
	client.SubResourceWriter
	g    *rig
	fuse *cloudtest.Fuse
}

func (s fusedStatus) Patch(ctx context.Context, obj client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
	if obj.GetName() == s.g.mute {
		return errors.New("refused")
	}
	if s.g.beforePatch != nil {
		s.g.beforePatch()
	}
	// As in the API server, a patch with a UID is for that object only.
	var said struct{ Metadata struct{ UID types.UID } }
	data, err := p.Data(obj)
	s.g.Must(err)
	s.g.Must(json.Unmarshal(data, &said))
	var now corev1.Node
	if err := s.g.kube.Get(ctx, client.ObjectKeyFromObject(obj), &now); err == nil && said.Metadata.UID != "" && said.Metadata.UID != now.UID {
		return apierrors.NewConflict(corev1.Resource("nodes"), obj.GetName(), errors.New("another UID"))
	}
	err = s.fuse.Do(func() error { return s.SubResourceWriter.Patch(ctx, obj, p, opts...) })
	if s.g.afterPatch != nil {
		s.g.afterPatch()
	}
	return err
}

// rig is a cluster's API (fake), a cloud (the simulator behind the real client)
// and a controller that can be killed.
type rig struct {
	*cloudtest.Cloud
	kube   client.WithWatch
	events *cloudtest.Events
	cfg    *config.Config
	r      *Reconciler
	fuse   *cloudtest.Fuse
	quota  int
	// stale lists may hide from the controller what is changing.
	stale bool
	// hidden instances are in no list: the simulator, like the service, does not release an
	// instance to which an entry leads.
	hidden map[string]bool
	// asked has the ids of each query for instances.
	asked [][]string
	// mute is the node whose condition the API server rejects.
	mute string
	// beforePatch and afterPatch run when a node's condition is written.
	beforePatch, afterPatch func()

	vpc, vswitch, group string
	serial              int
}

const zone = cloudtest.Zone

const minute = time.Minute

func newRig(t cloudtest.TB, options ...func(*vpcsim.Options)) *rig {
	t.Helper()
	o := vpcsim.Options{Throttle: openapi.Throttle{}, Timing: state.Timing{RouteEntry: 2 * time.Second, RouteTable: time.Second}}
	for _, f := range options {
		f(&o)
	}
	g := &rig{Cloud: cloudtest.Start(t, o), events: &cloudtest.Events{}, quota: 200, hidden: map[string]bool{}}
	var err error
	g.cfg, err = config.Parse([]byte("{cluster_id: c1, region: cn-hangzhou, network: flannel, pod_cidr: 172.20.0.0/16, service_cidr: 172.21.0.0/20}"))
	g.Must(err)
	g.vpc, g.vswitch, g.group = g.network("192.168.0.0/16", "192.168.0.0/20")
	scheme := runtime.NewScheme()
	g.Must(corev1.AddToScheme(scheme))
	g.kube = fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&corev1.Node{}).Build()
	g.restart()
	return g
}

// network makes a VPC in the simulator.
func (g *rig) network(cidr, vswitchCIDR string) (vpc, vswitch, group string) {
	g.Helper()
	vpc, vswitches, group := g.Network(cidr, vswitchCIDR)
	return vpc, vswitches[0], group
}

// restart kills the controller, if there is one, and starts another.
func (g *rig) restart() {
	g.fuse = &cloudtest.Fuse{}
	g.r = New(Options{
		Client: fusedClient{WithWatch: g.kube, g: g, fuse: g.fuse}, Live: g.kube, Cloud: fusedCloud{g.API, g}, Config: config.NewStore(g.cfg), Events: g.events,
		Subject: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "eni-config", Namespace: "kube-system"}},
		Log:     slog.New(slog.DiscardHandler), Now: g.Clock.Now, Random: func() float64 { return 0.5 }, Quota: g.quota,
		Join: time.Second, Poll: time.Second, Retry: 2 * time.Second, Park: time.Minute, Settle: 10 * time.Second, Resync: 5 * time.Minute,
	})
}

// instance runs an ECS instance.
func (g *rig) instance() (id string) {
	g.Helper()
	g.Write(func(s state.API) error {
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
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(fmt.Sprintf("uid-%d", g.serial)), CreationTimestamp: metav1.NewTime(g.Clock.Now().Add(time.Duration(g.serial) * time.Second).Truncate(time.Second))}}
	if instance != "" {
		n.Spec.ProviderID = "cn-hangzhou." + instance
	}
	if n.Spec.PodCIDRs = blocks; len(blocks) > 0 {
		n.Spec.PodCIDR = blocks[0]
	}
	g.Must(g.kube.Create(context.Background(), n))
	if len(blocks) > 0 {
		g.configure(name, blocks...)
	}
}

// configure sets the blocks for which the node's plugins are configured.
func (g *rig) configure(name string, blocks ...string) {
	g.Helper()
	n := &corev1.Node{}
	g.Must(g.kube.Get(context.Background(), types.NamespacedName{Name: name}, n))
	n.Annotations = map[string]string{claims.AnnotationPodCIDR: strings.Join(blocks, ",")}
	g.Must(g.kube.Update(context.Background(), n))
}

// join runs an instance and registers it with the nth block.
func (g *rig) join(name string, n int) (instance string) {
	g.Helper()
	instance = g.instance()
	g.register(name, instance, blockN(n))
	return instance
}

func blockN(n int) string { return fmt.Sprintf("172.20.%d.0/24", n) }

// taint gives a node taints.
func (g *rig) taint(name string, keys ...string) {
	g.Helper()
	n := &corev1.Node{}
	g.Must(g.kube.Get(context.Background(), types.NamespacedName{Name: name}, n))
	for _, k := range keys {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: k, Effect: corev1.TaintEffectNoSchedule})
	}
	g.Must(g.kube.Update(context.Background(), n))
}

// tainted checks which taints a node has.
func (g *rig) tainted(name string, want ...string) {
	g.Helper()
	n := &corev1.Node{}
	g.Must(g.kube.Get(context.Background(), types.NamespacedName{Name: name}, n))
	var have []string
	for _, t := range n.Spec.Taints {
		have = append(have, t.Key)
	}
	if !slices.Equal(have, want) {
		g.Errorf("node %s has the taints %q, want %q", name, have, want)
	}
}

func (g *rig) leave(name string) {
	g.Helper()
	g.Must(g.kube.Delete(context.Background(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}))
}

// ready sets the Node's condition Ready.
func (g *rig) ready(name string, status corev1.ConditionStatus) {
	g.Helper()
	n := &corev1.Node{}
	g.Must(g.kube.Get(context.Background(), types.NamespacedName{Name: name}, n))
	n.Status.Conditions = slices.DeleteFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady })
	n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeReady, Status: status})
	g.Must(g.kube.Status().Update(context.Background(), n))
}

func (g *rig) condition(name string) corev1.NodeCondition {
	g.Helper()
	n := &corev1.Node{}
	g.Must(g.kube.Get(context.Background(), types.NamespacedName{Name: name}, n))
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

// tables returns the VPC's route tables, without client and faults.
func (g *rig) tables() (all []state.RouteTable) {
	g.Helper()
	g.Must(g.Sim.Read(context.Background(), 0, func(s state.API) (err error) {
		all, err = s.DescribeRouteTables(state.DescribeRouteTablesRequest{VpcId: g.vpc})
		return err
	}))
	return all
}

// custom returns a table's custom entries.
func (g *rig) custom(table int) (all []state.RouteEntry) {
	g.Helper()
	for _, e := range g.tables()[table].RouteEntries {
		if e.Type == state.RouteEntryCustom {
			all = append(all, e)
		}
	}
	return all
}

// leads returns the instance to which the system table routes a range, or "" without an entry.
func (g *rig) leads(block string) string {
	g.Helper()
	for _, e := range g.custom(0) {
		if e.DestinationCidrBlock == netip.MustParsePrefix(block) && e.Status == state.StatusAvailable {
			return e.NextHopId
		}
	}
	return ""
}

// mutation checks that no entry is changing when the controller changes something.
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

// foreign creates an entry that is not the cluster's.
func (g *rig) foreign(block, instance, name string) {
	g.Helper()
	table := g.tables()[0].RouteTableId
	g.Write(func(s state.API) error {
		_, err := s.CreateRouteEntry(state.CreateRouteEntryRequest{RouteTableId: table, DestinationCidrBlock: block, NextHopId: instance, RouteEntryName: name})
		return err
	})
	g.Clock.Pass(5 * time.Second)
	g.Write(func(state.API) error { return nil })
}

// once reconciles once; a crash does not fail the test.
func (g *rig) once() (time.Duration, bool) {
	g.Helper()
	res, err := g.r.Reconcile(context.Background(), work)
	if err != nil && !errors.Is(err, cloudtest.ErrCrash) {
		g.Fatalf("reconcile: %v", err)
	}
	return res.RequeueAfter, err != nil || g.fuse.Burnt()
}

// run runs the controller for exactly so long; a crash is followed by a successor.
func (g *rig) run(d time.Duration) {
	g.Helper()
	for end := g.Clock.Now().Add(d); g.Clock.Now().Before(end); {
		wait, crashed := g.once()
		if crashed {
			g.restart()
			wait = time.Second
		}
		if wait <= 0 {
			g.Fatalf("comes back after %s", wait)
		}
		g.Clock.Pass(min(wait, end.Sub(g.Clock.Now()))) // what comes next may wake it sooner
	}
}
