package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/controller/cloudtest"
	lb "terway.dev/terway/internal/loadbalancer"
	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/openapi"
	"terway.dev/terway/internal/vpcsim/state"
)

// fused is the cloud of a controller that may be killed. It counts calls, by whether they change something.
type fused struct {
	cloud.BalancerAPI
	g *rig
}

func (f fused) write(call func() error) error {
	f.g.writes++
	return f.g.fuse.Do(call)
}

func (f fused) read(call func() error) error {
	f.g.reads++
	if f.g.fuse.Burnt() {
		return cloudtest.ErrCrash
	}
	return call()
}

func (f fused) FindBalancers(ctx context.Context, k, v string) (out []cloud.Balancer, err error) {
	err = f.read(func() (err error) { out, err = f.BalancerAPI.FindBalancers(ctx, k, v); return err })
	return out, err
}
func (f fused) DescribeBalancer(ctx context.Context, id string) (out *cloud.Balancer, err error) {
	err = f.read(func() (err error) { out, err = f.BalancerAPI.DescribeBalancer(ctx, id); return err })
	return out, err
}
func (f fused) ListListeners(ctx context.Context, id string) (out []cloud.Listener, err error) {
	err = f.read(func() (err error) { out, err = f.BalancerAPI.ListListeners(ctx, id); return err })
	return out, err
}
func (f fused) ListGroups(ctx context.Context, id, k, v string) (out []cloud.Group, err error) {
	err = f.read(func() (err error) { out, err = f.BalancerAPI.ListGroups(ctx, id, k, v); return err })
	return out, err
}
func (f fused) ListBackends(ctx context.Context, id string) (out []cloud.Backend, err error) {
	err = f.read(func() (err error) { out, err = f.BalancerAPI.ListBackends(ctx, id); return err })
	return out, err
}
func (f fused) CreateBalancer(ctx context.Context, want cloud.NewBalancer) (id string, err error) {
	err = f.write(func() (err error) { id, err = f.BalancerAPI.CreateBalancer(ctx, want); return err })
	return id, err
}
func (f fused) SetBalancer(ctx context.Context, id string, m map[string]string) error {
	return f.write(func() error { return f.BalancerAPI.SetBalancer(ctx, id, m) })
}
func (f fused) SetTags(ctx context.Context, id string, m map[string]string, r []string) error {
	return f.write(func() error { return f.BalancerAPI.SetTags(ctx, id, m, r) })
}
func (f fused) SetZones(ctx context.Context, id string, m map[string]string) error {
	return f.write(func() error { return f.BalancerAPI.SetZones(ctx, id, m) })
}
func (f fused) SetSecurityGroups(ctx context.Context, id string, join, leave []string) error {
	return f.write(func() error { return f.BalancerAPI.SetSecurityGroups(ctx, id, join, leave) })
}
func (f fused) DeleteBalancer(ctx context.Context, id string) error {
	return f.write(func() error { return f.BalancerAPI.DeleteBalancer(ctx, id) })
}
func (f fused) CreateListener(ctx context.Context, id string, l cloud.Listener) error {
	if f.g.called != nil {
		f.g.called("CreateListener")
	}
	return f.write(func() error { return f.BalancerAPI.CreateListener(ctx, id, l) })
}
func (f fused) SetListener(ctx context.Context, l cloud.Listener, m map[string]string) error {
	return f.write(func() error { return f.BalancerAPI.SetListener(ctx, l, m) })
}
func (f fused) StartListener(ctx context.Context, l cloud.Listener) error {
	return f.write(func() error { return f.BalancerAPI.StartListener(ctx, l) })
}
func (f fused) DeleteListener(ctx context.Context, l cloud.Listener) error {
	return f.write(func() error { return f.BalancerAPI.DeleteListener(ctx, l) })
}
func (f fused) CreateGroup(ctx context.Context, id string, n cloud.NewGroup) (group string, err error) {
	err = f.write(func() (err error) { group, err = f.BalancerAPI.CreateGroup(ctx, id, n); return err })
	return group, err
}
func (f fused) SetGroup(ctx context.Context, id string, m map[string]string) error {
	return f.write(func() error { return f.BalancerAPI.SetGroup(ctx, id, m) })
}
func (f fused) DeleteGroup(ctx context.Context, id string) error {
	return f.write(func() error { return f.BalancerAPI.DeleteGroup(ctx, id) })
}
func (f fused) FindAccess(ctx context.Context, vpc, k, v string) (out []cloud.AccessList, err error) {
	return out, f.read(func() error { out, err = f.BalancerAPI.FindAccess(ctx, vpc, k, v); return err })
}

func (f fused) CreateAccess(ctx context.Context, n cloud.NewAccess) (id string, err error) {
	return id, f.write(func() error { id, err = f.BalancerAPI.CreateAccess(ctx, n); return err })
}

func (f fused) ChangeAccess(ctx context.Context, id string, add, remove []netip.Prefix) error {
	return f.write(func() error { return f.BalancerAPI.ChangeAccess(ctx, id, add, remove) })
}

func (f fused) DeleteAccess(ctx context.Context, id string) error {
	return f.write(func() error { return f.BalancerAPI.DeleteAccess(ctx, id) })
}

func (f fused) AddBackends(ctx context.Context, id string, b []cloud.Backend) error {
	for _, x := range b {
		if held, _ := f.g.r.Held(x.Address); x.Address.IsValid() && !held {
			f.g.Errorf("%s is added before it is held", x.Address)
		}
	}
	for _, m := range f.g.members() {
		if m.Listener.Group == id && slices.ContainsFunc(m.Backends, func(is cloud.Backend) bool { return slices.Contains(b, is) }) {
			f.g.Errorf("%+v are members of group %s before they are added: readiness gates may open", m.Backends, id)
		}
	}
	return f.write(func() error { return f.BalancerAPI.AddBackends(ctx, id, b) })
}
func (f fused) RemoveBackends(ctx context.Context, id string, b []cloud.Backend) error {
	return f.write(func() error { return f.BalancerAPI.RemoveBackends(ctx, id, b) })
}
func (f fused) WeighBackends(ctx context.Context, id string, b []cloud.Backend) error {
	if f.g.called != nil {
		f.g.called("WeighBackends")
	}
	return f.write(func() error { return f.BalancerAPI.WeighBackends(ctx, id, b) })
}

// rig is a cluster's API (fake), a cloud (the simulator behind the real client) and a controller that can be
// killed.
type rig struct {
	*cloudtest.Cloud
	kube   client.WithWatch
	events *cloudtest.Events
	cfg    *config.Config
	r      *Reconciler
	fuse   *cloudtest.Fuse
	// called is called before these calls; nil: never.
	called func(what string)
	// reads and writes count the controller's calls to the cloud.
	reads, writes int

	vpc, eni, instance string
	vswitch            []string
	// free are addresses of the ENI for pods.
	free []netip.Addr
	// at is the pod's address by name.
	at     map[string]netip.Addr
	serial int
}

func newRig(t cloudtest.TB, options ...func(*config.Config)) *rig {
	t.Helper()
	g := &rig{Cloud: cloudtest.Start(t, vpcsim.Options{Throttle: openapi.Throttle{PerMinute: map[string]int{}}, Timing: state.Timing{
		NLBLoadBalancer: 2 * time.Second, NLBListener: 500 * time.Millisecond, NLBServerGroup: 700 * time.Millisecond, Listener: 300 * time.Millisecond,
	}}), events: &cloudtest.Events{}, at: map[string]netip.Addr{}}
	var group string
	g.vpc, g.vswitch, group = g.Network("192.168.0.0/16", "192.168.0.0/20")
	g.Write(func(s state.API) error {
		id, err := s.CreateVSwitch(state.CreateVSwitchRequest{VpcId: g.vpc, ZoneId: "cn-hangzhou-h", CidrBlock: "192.168.32.0/20"})
		g.vswitch = append(g.vswitch, id)
		return err
	})
	g.Write(func(s state.API) error {
		ids, err := s.RunInstances(state.RunInstancesRequest{InstanceType: "ecs.g6.8xlarge", ImageId: "aliyun_3_x64", VSwitchId: g.vswitch[0], SecurityGroupId: group})
		if err == nil {
			g.instance = ids[0]
		}
		return err
	})
	g.Clock.Pass(time.Minute)
	g.Write(func(s state.API) error { return nil })
	enis, err := g.API.DescribeENIs(context.Background(), cloud.ENIFilter{InstanceID: g.instance})
	g.Must(err)
	g.eni = enis[0].ID
	for i := range 2 {
		more, err := g.API.AssignAddresses(context.Background(), g.eni, 9, fmt.Sprint("a", i))
		g.Must(err)
		g.free = append(g.free, more...)
	}
	g.cfg, err = config.Parse(fmt.Appendf(nil, "{cluster_id: c1, region: cn-hangzhou, service_cidr: 172.21.0.0/20, vswitches: {cn-hangzhou-i: [%s], cn-hangzhou-h: [%s]}}", g.vswitch[0], g.vswitch[1]))
	g.Must(err)
	for _, f := range options {
		f(g.cfg)
	}
	scheme := runtime.NewScheme()
	g.Must(corev1.AddToScheme(scheme))
	g.Must(discoveryv1.AddToScheme(scheme))
	g.kube = fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&corev1.Service{}).WithIndex(&discoveryv1.EndpointSlice{}, indexService, serviceOf).Build()
	g.restart()
	return g
}

// members returns the listeners of all Services.
func (g *rig) members() (all []Member) {
	for name := range g.r.services {
		list, _ := g.r.Members(name)
		all = append(all, list...)
	}
	return all
}

// restart kills the controller, if there is one, and starts another.
func (g *rig) restart() {
	g.fuse = &cloudtest.Fuse{}
	fuse := g.fuse
	kube := interceptor.NewClient(g.kube, interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			return fuse.Do(func() error { return c.Patch(ctx, o, p, opts...) })
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			return fuse.Do(func() error { return c.SubResource(sub).Patch(ctx, o, p, opts...) })
		},
	})
	g.r = New(Options{
		Client: kube, Live: g.kube, CLB: fused{g.API.CLB(), g}, NLB: fused{g.API.NLB(), g}, Config: config.NewStore(g.cfg),
		VPC: func(context.Context) (string, error) { return g.vpc, nil },
		ENI: func(_ context.Context, a netip.Addr) string {
			if slices.Contains(slices.Collect(maps.Values(g.at)), a) {
				return g.eni
			}
			return ""
		},
		Events: g.events, Log: slog.New(slog.DiscardHandler), Now: g.Clock.Now,
		Join: 500 * time.Millisecond, Poll: time.Second, Retry: time.Second, Park: 30 * time.Second, Resync: 5 * time.Minute,
	})
	g.Must(g.r.begin(context.Background()))
	g.preserved()
}

// preserved has the controller read what stayed of Services that are gone, as long as it does not know it.
func (g *rig) preserved() {
	if g.r.unread[preservedKey] {
		_ = g.r.readPreserved(context.Background()) // else the next time
	}
}

// service makes a Service.
func (g *rig) service(name, class string, annotations map[string]string, ports ...int32) *corev1.Service {
	g.Helper()
	g.serial++
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(fmt.Sprintf("00000000-0000-0000-0000-%012d", g.serial)), Annotations: annotations}}
	svc.Spec.Type, svc.Spec.LoadBalancerClass = corev1.ServiceTypeLoadBalancer, &class
	for _, p := range ports {
		svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Name: fmt.Sprint("p", p), Port: p, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(p + 8000)})
	}
	g.Must(g.kube.Create(context.Background(), svc))
	g.slice(svc)
	return svc
}

// change changes a Service.
func (g *rig) change(name string, f func(*corev1.Service)) {
	g.Helper()
	svc := g.get(name)
	f(svc)
	g.Must(g.kube.Update(context.Background(), svc))
	g.slice(svc)
}

// get returns a Service; nil if there is none.
func (g *rig) get(name string) *corev1.Service {
	g.Helper()
	svc := &corev1.Service{}
	err := g.kube.Get(context.Background(), types.NamespacedName{Namespace: "shop", Name: name}, svc)
	if apierrors.IsNotFound(err) {
		return nil
	}
	g.Must(err)
	return svc
}

// slice makes the Service's EndpointSlice have its ports, and keeps its endpoints.
func (g *rig) slice(svc *corev1.Service) {
	g.Helper()
	s := &discoveryv1.EndpointSlice{}
	err := g.kube.Get(context.Background(), types.NamespacedName{Namespace: "shop", Name: svc.Name + "-x"}, s)
	fresh := apierrors.IsNotFound(err)
	s.Namespace, s.Name, s.AddressType = "shop", svc.Name+"-x", discoveryv1.AddressTypeIPv4
	s.Labels = map[string]string{discoveryv1.LabelServiceName: svc.Name}
	s.Ports = nil
	for _, p := range svc.Spec.Ports {
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: ptr(p.Name), Port: ptr(int32(p.TargetPort.IntValue())), Protocol: ptr(p.Protocol)})
	}
	if fresh {
		g.Must(g.kube.Create(context.Background(), s))
	} else {
		g.Must(g.kube.Update(context.Background(), s))
	}
}

func ptr[T any](v T) *T { return &v }

// pod sets the conditions of a pod of a Service; an address is given to a new one. gone removes it.
func (g *rig) pod(service, name string, ready, terminating, gone bool) {
	g.Helper()
	s := &discoveryv1.EndpointSlice{}
	g.Must(g.kube.Get(context.Background(), types.NamespacedName{Namespace: "shop", Name: service + "-x"}, s))
	s.Endpoints = slices.DeleteFunc(s.Endpoints, func(e discoveryv1.Endpoint) bool { return e.TargetRef.Name == name })
	if gone {
		g.free = append(g.free, g.at[name])
		delete(g.at, name)
	} else {
		if !g.at[name].IsValid() {
			g.at[name], g.free = g.free[0], g.free[1:]
		}
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{g.at[name].String()},
			Conditions: discoveryv1.EndpointConditions{Ready: ptr(ready && !terminating), Serving: ptr(ready), Terminating: ptr(terminating)},
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Name: name, UID: types.UID("uid-" + name)}})
	}
	g.Must(g.kube.Update(context.Background(), s))
}

// run runs the controller for so long. A killed one is followed by a successor.
func (g *rig) run(d time.Duration) {
	g.Helper()
	due := map[string]time.Time{}
	for end := g.Clock.Now().Add(d); g.Clock.Now().Before(end); {
		g.preserved()
		var list corev1.ServiceList
		g.Must(g.kube.List(context.Background(), &list))
		next := end
		for i := range list.Items {
			name := list.Items[i].Name
			if at, known := due[name]; known && g.Clock.Now().Before(at) {
				if at.Before(next) {
					next = at
				}
				continue
			}
			res, err := g.r.Reconcile(context.Background(), ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "shop", Name: name}})
			if err != nil && !errors.Is(err, cloudtest.ErrCrash) {
				g.Fatalf("reconcile: %v", err)
			}
			if g.fuse.Burnt() {
				g.restart()
				clear(due)
				next = g.Clock.Now().Add(time.Second)
				break
			}
			at := g.Clock.Now().Add(time.Hour)
			if res.RequeueAfter > 0 {
				at = g.Clock.Now().Add(res.RequeueAfter)
			}
			if due[name] = at; at.Before(next) {
				next = at
			}
		}
		if wait := next.Sub(g.Clock.Now()); wait > 0 {
			g.Clock.Pass(wait)
		}
		g.Write(func(state.API) error { return nil }) // what is due in the simulator
	}
}

// api returns the calls for a class, of somebody who is not killed.
func (g *rig) api(class string) cloud.BalancerAPI {
	if class == lb.ClassCLB {
		return g.API.CLB()
	}
	return g.API.NLB()
}

// balancers returns the load balancers of a Service.
func (g *rig) balancers(class string, svc *corev1.Service) []cloud.Balancer {
	g.Helper()
	found, err := g.api(class).FindBalancers(context.Background(), TagService, string(svc.UID))
	g.Must(err)
	return found
}

// listeners describes the listeners of a Service's load balancer with their backends, each as
// "TCP 80: pod 100, pod 0".
func (g *rig) listeners(class string, svc *corev1.Service) string {
	g.Helper()
	found := g.balancers(class, svc)
	if len(found) != 1 {
		g.Fatalf("%d load balancers: %+v", len(found), found)
	}
	return g.describe(class, found[0].ID)
}

func (g *rig) describe(class, id string) string {
	g.Helper()
	api, ctx := g.api(class), context.Background()
	listeners, err := api.ListListeners(ctx, id)
	g.Must(err)
	names := map[netip.Addr]string{}
	for name, a := range g.at {
		names[a] = name
	}
	var all []string
	for _, l := range listeners {
		backends, err := api.ListBackends(ctx, l.Group)
		g.Must(err)
		var list []string
		for _, b := range backends {
			name := names[b.Address]
			if name == "" {
				name = b.Address.String()
			}
			list = append(list, fmt.Sprintf("%s:%d %d", name, b.Port, b.Weight))
		}
		slices.Sort(list)
		running := ""
		if !l.Running {
			running = " stopped"
		}
		all = append(all, fmt.Sprintf("%s %d%s: %s", l.Protocol, l.Port, running, strings.Join(list, ", ")))
	}
	slices.Sort(all)
	return strings.Join(all, "; ")
}

// accessLists returns the access lists of a Service.
func (g *rig) accessLists(class string, svc *corev1.Service) []cloud.AccessList {
	g.Helper()
	found, err := g.api(class).FindAccess(context.Background(), g.vpc, TagService, string(svc.UID))
	g.Must(err)
	return found
}

// nothing checks that nothing of a Service is left.
func (g *rig) nothing(svc *corev1.Service) {
	g.Helper()
	for _, class := range []string{lb.ClassCLB, lb.ClassNLB} {
		if found := g.balancers(class, svc); len(found) > 0 {
			g.Errorf("left: %+v", found)
		}
	}
	groups, err := g.API.NLB().ListGroups(context.Background(), "", TagService, string(svc.UID))
	g.Must(err)
	if len(groups) > 0 {
		g.Errorf("left: %+v", groups)
	}
	for _, class := range []string{lb.ClassCLB, lb.ClassNLB} {
		if found := g.accessLists(class, svc); len(found) > 0 {
			g.Errorf("left: access lists %+v", found)
		}
	}
	if is := g.get(svc.Name); is != nil && controllerutil.ContainsFinalizer(is, Finalizer) {
		g.Errorf("the finalizer is left")
	}
}

// remove deletes a Service.
func (g *rig) remove(svc *corev1.Service) {
	g.Helper()
	g.Must(g.kube.Delete(context.Background(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: svc.Name}}))
	g.Must(g.kube.Delete(context.Background(), &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: svc.Name + "-x"}}))
}
