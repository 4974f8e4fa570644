//go:build e2e

package api

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/cloud/alibaba"
	terway "terway.dev/terway/internal/config"
	"terway.dev/terway/internal/controller/loadbalancer"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/lab"
	lb "terway.dev/terway/internal/loadbalancer"
	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/state"
)

// balanced is an API server, a simulated VPC with an ENI that has addresses, and the settings of a cluster in it.
type balanced struct {
	*testing.T
	rest *rest.Config
	kube client.Client
	api  *alibaba.Client
	cfg  *terway.Config
	vpc  string
	eni  string
	ips  []netip.Addr
}

func newBalanced(t *testing.T) *balanced {
	b := &balanced{T: t}
	_, b.rest = apiServer(t)
	scheme := runtime.NewScheme()
	b.must(clientgoscheme.AddToScheme(scheme))
	var err error
	b.kube, err = client.New(b.rest, client.Options{Scheme: scheme})
	b.must(err)

	sim, err := vpcsim.New(vpcsim.Options{Seed: 1})
	b.must(err)
	t.Cleanup(func() {
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	write := func(f func(state.API) error) { t.Helper(); b.must(sim.Write(t.Context(), f)) }
	write(func(s state.API) error {
		v, err := s.CreateVpc(state.CreateVpcRequest{CidrBlock: "192.168.0.0/16"})
		if err == nil {
			b.vpc = v.VpcId
		}
		return err
	})
	vswitch := map[string]string{}
	for zone, cidr := range map[string]string{"cn-hangzhou-i": "192.168.0.0/20", "cn-hangzhou-h": "192.168.32.0/20"} {
		write(func(s state.API) (err error) {
			vswitch[zone], err = s.CreateVSwitch(state.CreateVSwitchRequest{VpcId: b.vpc, ZoneId: zone, CidrBlock: cidr})
			return err
		})
	}
	var group, instance string
	write(func(s state.API) (err error) {
		group, err = s.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: b.vpc})
		return err
	})
	write(func(s state.API) error {
		ids, err := s.RunInstances(state.RunInstancesRequest{InstanceType: "ecs.g6.2xlarge", ImageId: "none", VSwitchId: vswitch["cn-hangzhou-i"], SecurityGroupId: group})
		if err == nil {
			instance = ids[0]
		}
		return err
	})
	account := sim.Account()
	b.api, err = alibaba.New(alibaba.Config{Region: sim.Region(), ECSEndpoint: sim.Endpoint(), VPCEndpoint: sim.Endpoint(), SLBEndpoint: sim.Endpoint(),
		NLBEndpoint: sim.Endpoint(), Credentials: alibaba.StaticCredentials(account.AccessKeyID, account.AccessKeySecret)})
	b.must(err)
	enis, err := b.api.DescribeENIs(t.Context(), cloud.ENIFilter{InstanceID: instance})
	b.must(err)
	b.eni = enis[0].ID
	b.ips, err = b.api.AssignAddresses(t.Context(), b.eni, 4, "a")
	b.must(err)
	b.cfg, err = terway.Parse(fmt.Appendf(nil, "{cluster_id: c1, region: cn-hangzhou, service_cidr: 10.0.0.0/16, vswitches: {cn-hangzhou-i: [%s], cn-hangzhou-h: [%s]}}",
		vswitch["cn-hangzhou-i"], vswitch["cn-hangzhou-h"]))
	b.must(err)
	return b
}

func (b *balanced) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// control runs a controller until it is stopped.
func (b *balanced) control() (stop func()) {
	b.Helper()
	log := slog.New(slog.NewTextHandler(b.Output(), nil))
	skip := true
	mgr, err := ctrl.NewManager(b.rest, ctrl.Options{
		Scheme: b.kube.Scheme(), Metrics: metricsserver.Options{BindAddress: "0"}, Logger: logr.FromSlogHandler(log.Handler()),
		Cache:      cache.Options{ByObject: map[client.Object]cache.ByObject{&corev1.Pod{}: loadbalancer.CachedPods()}},
		Controller: config.Controller{SkipNameValidation: &skip},
	})
	b.must(err)
	r := loadbalancer.New(loadbalancer.Options{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), CLB: b.api.CLB(), NLB: b.api.NLB(), Config: terway.NewStore(b.cfg),
		VPC: func(context.Context) (string, error) { return b.vpc, nil }, ENI: func(context.Context, netip.Addr) string { return b.eni },
		Events: mgr.GetEventRecorder("terway-controller"), Log: log, Now: time.Now,
		Join: 100 * time.Millisecond, Poll: 200 * time.Millisecond, Retry: time.Second, Park: 5 * time.Second, Resync: 5 * time.Minute,
	})
	ctx, cancel := context.WithCancel(b.Context())
	b.must(r.SetupWithManager(ctx, mgr))
	b.must(loadbalancer.NewGates(loadbalancer.GatesOptions{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Settings: func() lb.Settings { return loadbalancer.Settings(b.cfg) }, Members: r.Members,
		Events: mgr.GetEventRecorder("terway-controller"), Log: log, Now: time.Now, Poll: 200 * time.Millisecond,
	}).SetupWithManager(mgr, 2))
	ended := make(chan error)
	go func() { ended <- mgr.Start(ctx) }()
	return func() {
		b.Helper()
		cancel()
		b.must(<-ended)
	}
}

// eventually waits until a Service is as it should be; get is called with nil if there is none.
func (b *balanced) eventually(name, what string, is func(*corev1.Service) bool) {
	b.Helper()
	svc := &corev1.Service{}
	if err := lab.Poll(b.Context(), 100*time.Millisecond, func() (bool, error) {
		err := b.kube.Get(b.Context(), client.ObjectKey{Namespace: "default", Name: name}, svc)
		if apierrors.IsNotFound(err) {
			return is(nil), nil
		}
		return err == nil && is(svc), err
	}); err != nil {
		b.Fatalf("%s: %s: %v\n%+v", name, what, err, svc)
	}
}

// The controller works with a real API server: finalizer, status, endpoints, a successor, deletion, and a Service that
// is none of ours.
func TestLoadBalancers(t *testing.T) {
	b := newBalanced(t)
	stop := b.control()
	classes := map[string]string{"clb": lb.ClassCLB, "nlb": lb.ClassNLB, "other": "example.com/other"}
	for name, class := range classes {
		b.must(b.kube.Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, LoadBalancerClass: &class, Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Port: 80}},
		}}))
		b.endpoints(name, b.ips[:2]...)
	}
	uids := map[string]string{}
	for _, name := range []string{"clb", "nlb"} {
		b.eventually(name, "has an address", func(s *corev1.Service) bool {
			uids[name] = string(s.UID)
			in := s.Status.LoadBalancer.Ingress
			return len(in) == 1 && (in[0].IP != "" || in[0].Hostname != "") && len(s.Finalizers) == 1
		})
	}
	stop()
	for _, name := range []string{"clb", "nlb"} {
		b.endpoints(name, b.ips[1:4]...) // while no controller runs
	}
	stop = b.control()
	apis := map[string]cloud.BalancerAPI{"clb": b.api.CLB(), "nlb": b.api.NLB()}
	for name, api := range apis {
		b.eventually(name, "has the new backends", func(*corev1.Service) bool { return b.backends(api, uids[name]) == 3 })
	}
	for name := range classes {
		b.must(b.kube.Delete(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}))
		b.eventually(name, "is gone", func(s *corev1.Service) bool { return s == nil })
	}
	for name, api := range apis {
		if found, err := api.FindBalancers(t.Context(), loadbalancer.TagService, uids[name]); err != nil || len(found) > 0 {
			t.Errorf("%s: left: %+v, %v", name, found, err)
		}
	}
	stop()
}

// Readiness gates open with a real API server: when the pod is a backend, and when their Service is gone; and a pod that
// came after another one of its name keeps its own.
func TestReadinessGates(t *testing.T) {
	b := newBalanced(t)
	b.must(client.IgnoreAlreadyExists(b.kube.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}})))
	class := lb.ClassCLB
	b.must(b.kube.Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Annotations: map[string]string{lb.Prefix + "health-check-switch": "off"}},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, LoadBalancerClass: &class, Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}},
	}))
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-0", Labels: map[string]string{"app": "web", claims.LabelReadinessGate: "true"}},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken: new(bool),
			Containers:                   []corev1.Container{{Name: "web", Image: "none", Lifecycle: &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 15}}}}},
			ReadinessGates:               []corev1.PodReadinessGate{{ConditionType: lb.Gate("web")}, {ConditionType: lb.Gate("gone")}},
		},
	}
	b.must(b.kube.Create(t.Context(), pod))
	pod.Status.PodIP, pod.Status.PodIPs = b.ips[0].String(), []corev1.PodIP{{IP: b.ips[0].String()}}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.ContainersReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
	b.must(b.kube.Status().Update(t.Context(), pod))
	stop := b.control()
	defer stop()
	condition := func(service string) (c corev1.PodCondition) {
		t.Helper()
		b.must(b.kube.Get(t.Context(), client.ObjectKeyFromObject(pod), pod))
		for _, c := range pod.Status.Conditions {
			if c.Type == lb.Gate(service) {
				return c
			}
		}
		return c
	}
	opens := func(service, reason string) {
		t.Helper()
		if err := lab.Poll(t.Context(), 100*time.Millisecond, func() (bool, error) { return condition(service).Status == corev1.ConditionTrue, nil }); err != nil {
			t.Fatal(err)
		}
		if c := condition(service); c.Reason != reason || c.Message == "" || c.LastTransitionTime.IsZero() {
			t.Errorf("gate of Service %s: %+v, want %s", service, c, reason)
		}
	}
	opens("gone", lb.GateServiceGone)
	b.eventually("web", "has an address", func(s *corev1.Service) bool { return len(s.Status.LoadBalancer.Ingress) == 1 })
	if c := condition("web"); c.Status == corev1.ConditionTrue {
		t.Errorf("%+v: the pod is no endpoint yet", c)
	}
	b.endpoints("web", b.ips[0])
	opens("web", lb.GateAdded)
	if len(pod.Status.Conditions) != 3 {
		t.Errorf("conditions %+v, want the two gates beside the containers'", pod.Status.Conditions)
	}

	was := pod.UID
	zero := int64(0)
	b.must(b.kube.Delete(t.Context(), pod, &client.DeleteOptions{GracePeriodSeconds: &zero}))
	again := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-0"}, Spec: corev1.PodSpec{AutomountServiceAccountToken: new(bool), Containers: pod.Spec.Containers}}
	b.must(b.kube.Create(t.Context(), again))
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q},"status":{"conditions":[{"type":"x/y","status":"True"}]}}`, was)
	if err := b.kube.Status().Patch(t.Context(), again.DeepCopy(), client.RawPatch(types.StrategicMergePatchType, patch)); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "metadata.uid") {
		t.Errorf("the condition of a pod is written to the next one of its name: %v", err)
	}
}

// endpoints makes a Service's EndpointSlice have these addresses.
func (b *balanced) endpoints(service string, addresses ...netip.Addr) {
	b.Helper()
	yes, port := true, int32(8080)
	empty := ""
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: service + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service}}}
	_, err := ctrl.CreateOrUpdate(b.Context(), b.kube, s, func() error {
		s.AddressType, s.Ports, s.Endpoints = discoveryv1.AddressTypeIPv4, []discoveryv1.EndpointPort{{Name: &empty, Port: &port}}, nil
		for _, a := range addresses {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &yes}})
		}
		return nil
	})
	b.must(err)
}

// backends counts the backends of the only listener of a Service's load balancer.
func (b *balanced) backends(api cloud.BalancerAPI, uid string) int {
	b.Helper()
	found, err := api.FindBalancers(b.Context(), loadbalancer.TagService, uid)
	b.must(err)
	if len(found) != 1 {
		b.Fatalf("%d load balancers of Service %s", len(found), uid)
	}
	listeners, err := api.ListListeners(b.Context(), found[0].ID)
	b.must(err)
	if len(listeners) != 1 {
		return 0
	}
	list, err := api.ListBackends(b.Context(), listeners[0].Group)
	if err != nil {
		return 0
	}
	return len(list)
}
