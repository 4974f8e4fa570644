package nodenetwork

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/controller/cloudtest"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/openapi"
	"terway.dev/terway/internal/vpcsim/state"
)

// rig is a cluster's API (fake), a cloud (the simulator behind the real client)
// and a controller that can be killed.
type rig struct {
	*cloudtest.Cloud
	kube   client.WithWatch
	events *cloudtest.Events
	// cfg is the first configuration; store has the one in force.
	cfg     *config.Config
	store   *config.Store
	r       *Reconciler
	fuse    *cloudtest.Fuse
	tokens  atomic.Int64
	vpc     string
	vswitch []string
	// pods of each node, by name, with their address; "" waits.
	pods map[string]map[string]string
	// seen is the spec that the agent knows; slow, if set, decides whether it makes a step.
	seen map[string]*v1alpha1.NodeNetwork
	slow func() bool
	// churn, if set, starts and stops pods meanwhile.
	churn func()
	// former: the agents are of the previous version, which replaces the whole status.
	former bool
	// backends are addresses that load balancers have; unread: the controller does not know them yet.
	backends map[string]bool
	unread   bool
	// serial is the next pod's number.
	serial int
}

const zone = cloudtest.Zone

type option func(*config.Config, *vpcsim.Options)

// pods /28 have 16 − 4 addresses.
func newRig(t cloudtest.TB, podCIDRs []string, options ...option) *rig {
	t.Helper()
	cfg, err := config.Parse([]byte("{cluster_id: c1, region: cn-hangzhou, vswitches: {" + zone + ": [vsw-x]}, service_cidr: 172.21.0.0/20, min_pool_size: 2, max_pool_size: 4}"))
	if err != nil {
		t.Fatalf("%v", err)
	}
	o := vpcsim.Options{Throttle: openapi.Throttle{},
		Timing: state.Timing{CreateENI: time.Second, AttachENI: 3 * time.Second, DetachENI: 2 * time.Second, DeleteENI: time.Second}}
	for _, f := range options {
		f(cfg, &o)
	}
	g := &rig{Cloud: cloudtest.Start(t, o), cfg: cfg, events: &cloudtest.Events{},
		pods: map[string]map[string]string{}, seen: map[string]*v1alpha1.NodeNetwork{}, backends: map[string]bool{}}
	g.vpc, g.vswitch, _ = g.Network("192.168.0.0/16", append([]string{"192.168.0.0/19"}, podCIDRs...)...)
	g.cfg.VSwitches = map[string][]string{zone: g.vswitch[1:]}
	g.store = config.NewStore(g.cfg)
	scheme := runtime.NewScheme()
	g.Must(v1alpha1.AddToScheme(scheme))
	g.Must(corev1.AddToScheme(scheme))
	g.Must(coordinationv1.AddToScheme(scheme))
	g.kube = fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.NodeNetwork{}).
		WithIndex(&corev1.Node{}, indexInstance, instanceOf).WithIndex(&v1alpha1.NodeNetwork{}, indexPod, podsOf).WithIndex(&v1alpha1.NodeNetwork{}, indexAddress, addressesOf).WithInterceptorFuncs(generations()).Build()
	g.restart()
	return g
}

// generations makes the fake API server set UIDs and count changes of the spec, as a real one does.
func generations() interceptor.Funcs {
	var uids atomic.Int64
	return interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
			obj.SetGeneration(1)
			if obj.GetUID() == "" {
				obj.SetUID(types.UID(fmt.Sprintf("uid-%d", uids.Add(1))))
			}
			return c.Create(ctx, obj, opts...)
		},
		Update: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.UpdateOption) error {
			if nn, ok := obj.(*v1alpha1.NodeNetwork); ok {
				was := &v1alpha1.NodeNetwork{}
				if err := c.Get(ctx, client.ObjectKeyFromObject(nn), was); err != nil {
					return err
				}
				nn.Generation = was.Generation
				if !equality.Semantic.DeepEqual(was.Spec, nn.Spec) {
					nn.Generation++
				}
			}
			return c.Update(ctx, obj, opts...)
		},
		Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, p client.Patch, opts ...client.PatchOption) error {
			nn, ok := obj.(*v1alpha1.NodeNetwork)
			if !ok {
				return c.Patch(ctx, obj, p, opts...)
			}
			was := &v1alpha1.NodeNetwork{}
			if err := c.Get(ctx, client.ObjectKeyFromObject(nn), was); err != nil {
				return err
			}
			if err := c.Patch(ctx, nn, p, opts...); err != nil || equality.Semantic.DeepEqual(was.Spec, nn.Spec) {
				return err
			}
			nn.Generation = was.Generation + 1
			return c.Update(ctx, nn)
		},
	}
}

// restart kills the controller, if there is one, and starts another.
func (g *rig) restart() {
	g.fuse = &cloudtest.Fuse{}
	c := fusedClient{WithWatch: g.kube, fuse: g.fuse}
	g.r = New(Options{
		Client: c, Live: c, Cloud: &fusedCloud{API: g.API, fuse: g.fuse}, Config: g.store, Events: g.events,
		Log: slog.New(slog.DiscardHandler), Now: g.Clock.Now,
		NewToken:  func() string { return fmt.Sprintf("token-%d", g.tokens.Add(1)) },
		Catalogue: func(name string) (cloud.InstanceType, bool) { return fromCatalogue(name) },
		Held:      func(a netip.Addr) (held, known bool) { return g.backends[a.String()], !g.unread },
		Go:        func(f func()) { f() }, // what a reconcile has asked for is there when it ends
		Poll:      time.Second, Retry: 5 * time.Second, Park: time.Minute, Settle: 10 * time.Second, GoneDelay: 5 * time.Minute,
	})
}

func fromCatalogue(name string) (cloud.InstanceType, bool) {
	t, ok := catalog.Lookup(name)
	return cloud.InstanceType{Name: name, ENIs: t.ENIs.N, IPv4PerENI: t.IPv4PerENI.N}, ok
}

// addNode runs an instance and registers it as a node.
func (g *rig) addNode(name, instanceType string) (instance string) {
	g.Helper()
	g.Write(func(s state.API) error {
		groups, err := s.DescribeSecurityGroups(state.DescribeSecurityGroupsRequest{})
		if err != nil {
			return err
		}
		ids, err := s.RunInstances(state.RunInstancesRequest{InstanceType: instanceType, ImageId: "aliyun_3_x64",
			VSwitchId: g.vswitch[0], SecurityGroupId: groups[0].SecurityGroupId})
		if err == nil {
			instance = ids[0]
		}
		return err
	})
	g.Must(g.kube.Create(context.Background(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status:     g.addresses(instance),
		Spec:       corev1.NodeSpec{ProviderID: "cn-hangzhou." + instance, Taints: []corev1.Taint{{Key: "other", Effect: corev1.TaintEffectNoSchedule}}},
	}))
	g.pods[name] = map[string]string{}
	return instance
}

// addresses are those that the kubelet of an instance reports.
func (g *rig) addresses(instance string) corev1.NodeStatus {
	g.Helper()
	in := g.instance(instance)
	return corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "host"}, {Type: corev1.NodeInternalIP, Address: in.Addresses[0].String()}}}
}

// instance returns an instance of the cloud.
func (g *rig) instance(id string) cloud.Instance {
	g.Helper()
	list, err := g.API.DescribeInstances(context.Background(), []string{id})
	g.Must(err)
	if len(list) != 1 {
		g.Fatalf("instance %s: %+v", id, list)
	}
	return list[0]
}

func (g *rig) node(name string) *corev1.Node {
	n := &corev1.Node{}
	g.Must(g.kube.Get(context.Background(), types.NamespacedName{Name: name}, n))
	return n
}

// nn returns the NodeNetwork, nil if there is none.
func (g *rig) nn(name string) *v1alpha1.NodeNetwork {
	nn := &v1alpha1.NodeNetwork{}
	if err := g.kube.Get(context.Background(), types.NamespacedName{Name: name}, nn); err != nil {
		g.Must(client.IgnoreNotFound(err))
		return nil
	}
	return nn
}

func request(node string) ctrl.Request {
	return ctrl.Request{NamespacedName: types.NamespacedName{Name: node}}
}

// once reconciles a node once; a crash does not fail the test.
func (g *rig) once(name string) (time.Duration, bool) {
	res, err := g.r.Reconcile(context.Background(), request(name))
	if err != nil && !errors.Is(err, cloudtest.ErrCrash) {
		g.Fatalf("reconcile %s: %v", name, err)
	}
	return res.RequeueAfter, err != nil
}

// agent does what the node's agent does: it reads the spec, gives waiting pods free addresses,
// confirms releases and reports. A slow agent does not do all of it at each turn, so it acts on an
// old spec and reports late. It returns whether the status has changed.
func (g *rig) agent(name string) bool {
	g.Helper()
	turn := func() bool { return g.slow == nil || g.slow() }
	if turn() {
		if g.seen[name] = g.nn(name); g.seen[name] == nil {
			delete(g.seen, name)
		}
	}
	nn := g.seen[name]
	if nn == nil {
		return false
	}
	g.hold(name)
	if turn() {
		g.serve(name, nn)
	}
	return turn() && g.report(name, nn)
}

// hold checks that the addresses of pods and load balancers are assigned in the cloud.
func (g *rig) hold(name string) {
	g.Helper()
	assigned := g.assigned(name)
	for pod, a := range g.pods[name] {
		if a != "" && !assigned[a] {
			g.Fatalf("node %s: pod %s has %s, which is not assigned in the cloud any more", name, pod, a)
		}
	}
	for a := range g.backends {
		if !assigned[a] {
			g.Fatalf("node %s: a load balancer has %s, which is not assigned in the cloud any more", name, a)
		}
	}
}

// serve gives free addresses of a spec to pods that wait.
func (g *rig) serve(name string, nn *v1alpha1.NodeNetwork) {
	held := map[string]bool{}
	waiting := map[bool][]string{} // by whether they want an ENI of their own
	for _, pod := range slices.Sorted(maps.Keys(g.pods[name])) {
		if a := g.pods[name][pod]; a != "" {
			held[a] = true
		} else {
			waiting[wantsExclusive(pod)] = append(waiting[wantsExclusive(pod)], pod)
		}
	}
	for _, e := range nn.Spec.ENIs {
		for _, a := range e.Addresses {
			if e.Phase == v1alpha1.ENIReady && !a.Releasing && !a.Held && !held[a.Address] && len(waiting[e.Exclusive]) > 0 {
				if g.backends[a.Address] {
					g.Fatalf("node %s: pod %s gets %s, which a load balancer has", name, waiting[e.Exclusive][0], a.Address)
				}
				g.pods[name][waiting[e.Exclusive][0]] = a.Address
				waiting[e.Exclusive] = waiting[e.Exclusive][1:]
			}
		}
	}
	g.hold(name)
}

// wantsExclusive: pods of tests whose names begin with own request an exclusive ENI.
func wantsExclusive(pod string) bool { return strings.HasPrefix(pod, "own") }

// report writes the status for a spec.
func (g *rig) report(name string, nn *v1alpha1.NodeNetwork) bool {
	st := v1alpha1.NodeNetworkStatus{ObservedGeneration: nn.Generation}
	held := map[string]string{}
	for pod, a := range g.pods[name] {
		if a == "" && wantsExclusive(pod) {
			st.ENIDemand++
		} else if a == "" {
			st.Demand++
			st.WaitingSandboxes = append(st.WaitingSandboxes, "sandbox-of-"+pod)
		} else {
			held[a] = pod
		}
	}
	slices.Sort(st.WaitingSandboxes)
	for _, a := range slices.Sorted(maps.Keys(held)) {
		st.Used = append(st.Used, v1alpha1.UsedAddress{Address: a, Pod: "default/" + held[a]})
	}
	for _, e := range nn.Spec.ENIs {
		for _, a := range e.Addresses {
			if a.Releasing && held[a.Address] == "" {
				st.Released = append(st.Released, a.Address)
			}
		}
	}
	st.UsedCount = len(st.Used)
	live := g.nn(name)
	if live == nil {
		return false
	}
	st.Conditions = slices.Clone(live.Status.Conditions)
	st.ControllerConditions = live.Status.ControllerConditions
	meta.SetStatusCondition(&st.Conditions, metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: "Serving"})
	if equality.Semantic.DeepEqual(st, live.Status) {
		return false
	}
	if g.former {
		st.ControllerConditions = nil
	}
	live.Status = st
	g.Must(g.kube.Status().Update(context.Background(), live))
	return true
}

// assigned returns the addresses that the cloud has on the node's secondary ENIs.
func (g *rig) assigned(name string) map[string]bool {
	out := map[string]bool{}
	for _, e := range g.enis(name) {
		for _, a := range e.Addresses {
			out[a.String()] = true
		}
	}
	return out
}

// enis returns the cloud's ENIs of a node ("": of all), without client and faults.
func (g *rig) enis(node string) []cloud.ENI {
	g.Helper()
	var out []cloud.ENI
	g.Must(g.Sim.Read(context.Background(), 0, func(s state.API) error {
		all, err := s.DescribeNetworkInterfaces(state.DescribeNetworkInterfacesRequest{})
		for _, n := range all {
			tags := map[string]string{}
			for _, t := range n.Tags {
				tags[t.Key] = t.Value
			}
			if tags[claims.TagCluster] == "" || node != "" && tags[claims.TagNode] != nodeTag(node) {
				continue
			}
			e := cloud.ENI{ID: n.NetworkInterfaceId, Status: cloud.ENIStatus(n.Status), InstanceID: n.InstanceId, VSwitchID: n.VSwitchId, Tags: tags}
			e.Addresses = n.PrivateIpAddresses
			out = append(out, e)
		}
		return err
	}))
	return out
}

// settle runs controller and agent until nothing changes, for at most limit of the test's time.
func (g *rig) settle(name string, limit time.Duration) {
	g.Helper()
	end := g.Clock.Now().Add(limit)
	for quiet := 0; quiet < 2; {
		before := g.nn(name)
		wait, crashed := g.once(name)
		if crashed {
			g.restart()
		}
		after := g.nn(name)
		if g.churn != nil {
			g.churn()
		}
		changed := g.agent(name)
		if before == nil && after == nil {
			return
		}
		if !changed && !crashed && wait == 0 && before != nil && after != nil && equality.Semantic.DeepEqual(before.Spec, after.Spec) {
			quiet++
			continue
		}
		quiet = 0
		g.Clock.Pass(wait)
		if g.Clock.Now().After(end) {
			return
		}
	}
}

func (g *rig) startPods(name string, n int) {
	g.addPods(name, n)
	g.agent(name)
}

func (g *rig) addPods(name string, n int) {
	for range n {
		g.serial++
		g.pods[name][fmt.Sprintf("pod-%04d", g.serial)] = ""
	}
}

func (g *rig) stopPods(name string, n int) {
	g.removePods(name, n)
	g.agent(name)
}

func (g *rig) removePods(name string, n int) {
	for _, pod := range slices.Sorted(maps.Keys(g.pods[name])) {
		if n == 0 {
			break
		}
		if a := g.pods[name][pod]; g.backends[a] && !g.marked(name, a) {
			continue // its address would cool until the node sees the mark
		}
		delete(g.pods[name], pod)
		n--
	}
}

// marked reports whether the spec, and the one that the node's agent knows, say that a load balancer has an address.
func (g *rig) marked(name, address string) bool {
	return g.seen[name] != nil && isHeld(g.seen[name], address) && isHeld(g.nn(name), address)
}

// isHeld reports whether a NodeNetwork has an address as held.
func isHeld(nn *v1alpha1.NodeNetwork, address string) bool {
	return slices.ContainsFunc(nn.Spec.ENIs, func(e v1alpha1.ENI) bool {
		return slices.ContainsFunc(e.Addresses, func(a v1alpha1.Address) bool { return a.Address == address && a.Held })
	})
}

// unsteady makes agent and pods behave randomly.
func (g *rig) unsteady(name string, chance *rand.Rand, slow int) {
	g.slow = func() bool { return chance.IntN(4) >= slow }
	g.churn = func() {
		switch chance.IntN(6) {
		case 0:
			g.addPods(name, chance.IntN(4))
		case 1:
			g.removePods(name, chance.IntN(8))
		}
	}
}

func (g *rig) steady() { g.slow, g.churn = nil, nil }

// condition is AddressesAvailable.
func (g *rig) condition(name string) metav1.Condition {
	if c := meta.FindStatusCondition(g.nn(name).Status.ControllerConditions, v1alpha1.ConditionAddressesAvailable); c != nil {
		return *c
	}
	return metav1.Condition{}
}

// free counts addresses that a pod could have at once.
func (g *rig) free(name string) int {
	held := map[string]bool{}
	for _, a := range g.pods[name] {
		held[a] = true
	}
	n := 0
	for _, e := range g.nn(name).Spec.ENIs {
		for _, a := range e.Addresses {
			if e.Phase == v1alpha1.ENIReady && !a.Releasing && !a.Held && !held[a.Address] {
				n++
			}
		}
	}
	return n
}

// agree checks that cloud and spec have the same contents.
func (g *rig) agree(name string) {
	g.Helper()
	want := g.assigned(name)
	got := map[string]bool{}
	for _, e := range g.nn(name).Spec.ENIs {
		for _, a := range e.Addresses {
			got[a.Address] = true
		}
	}
	if !maps.Equal(got, want) {
		g.Fatalf("node %s: the spec has %v, the cloud %v", name, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
}
