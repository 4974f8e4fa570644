package uninstall

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/controller/cloudtest"
	"terway.dev/terway/internal/controller/loadbalancer"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/openapi"
	"terway.dev/terway/internal/vpcsim/state"
)

const ns = "kube-system"

// rig is a cluster of two nodes with an ENI each, in the simulated cloud. Its time passes while the uninstallation waits: then agents
// end or start, and Jobs run.
type rig struct {
	*cloudtest.Cloud
	kube      client.WithWatch
	o         Options
	instances map[string]string
	enis      map[string]string
	group     string
	vswitch   string
	// journal says of a node what its teardown says; "" is success. Nodes in it had no word of their pods in the status.
	journal map[string]string
	// ran are the arguments of the teardowns, by node.
	ran map[string][]string
	// set is the DaemonSet of the agents.
	set string
	// led: the rest ran as the leader, when the controller had no replica.
	led bool
	// slept is how often it has waited; stop ends it then.
	slept int
	stop  func(slept int) error
}

func newRig(t *testing.T) *rig {
	c := cloudtest.Start(t, vpcsim.Options{Throttle: openapi.Throttle{},
		Timing: state.Timing{CreateENI: time.Second, AttachENI: time.Second, DetachENI: 2 * time.Second, DeleteENI: time.Second}})
	r := &rig{Cloud: c, instances: map[string]string{}, enis: map[string]string{}, journal: map[string]string{}, ran: map[string][]string{}, set: agents}
	_, vswitches, group := c.Network("192.168.0.0/16", "192.168.0.0/20")
	r.group, r.vswitch = group, vswitches[0]
	scheme := runtime.NewScheme()
	c.Must(errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)))
	r.kube = fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.NodeNetwork{}).Build()
	replicas := int32(2)
	r.create(
		&appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: agents}, Spec: appsv1.DaemonSetSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			NodeSelector: map[string]string{"kubernetes.io/os": "linux"}, Containers: []corev1.Container{{Name: "terwayd", Command: []string{"/usr/bin/terwayd"}, Args: []string{"--host-root=/host", "--scrape-address=:10367"}}}}}}},
		&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: controller}, Spec: appsv1.DeploymentSpec{Replicas: &replicas}},
	)
	r.node("n1")
	r.node("n2")
	r.o = Options{
		Client: r.kube, Cloud: c.API, Namespace: ns, Cluster: "c1", Log: slog.New(slog.DiscardHandler),
		Sleep: r.sleep, Poll: time.Second, Settle: 10 * time.Second, AtOnce: 1, Grace: time.Minute,
		Lead: func(ctx context.Context, do func(context.Context) error) error {
			d := &appsv1.Deployment{}
			r.get(d, controller)
			r.led = *d.Spec.Replicas == 0
			return do(ctx)
		},
	}
	return r
}

func (r *rig) create(all ...client.Object) {
	r.Helper()
	for _, o := range all {
		r.Must(r.kube.Create(context.Background(), o))
	}
}

func (r *rig) get(o client.Object, name string) {
	r.Helper()
	r.Must(r.kube.Get(context.Background(), client.ObjectKey{Namespace: ns, Name: name}, o))
}

func (r *rig) instance() (id string) {
	r.Write(func(s state.API) error {
		ids, err := s.RunInstances(state.RunInstancesRequest{InstanceType: "ecs.g7.xlarge", ImageId: "aliyun_3_x64", VSwitchId: r.vswitch, SecurityGroupId: r.group})
		if err == nil {
			id = ids[0]
		}
		return err
	})
	return id
}

// eni makes an ENI that is attached to an instance.
func (r *rig) eni(node, instance, cluster string) string {
	r.Helper()
	ctx := context.Background()
	e, err := r.API.CreateENI(ctx, cloud.CreateENIRequest{Token: "token-" + node, VSwitchID: r.vswitch, SecurityGroups: []string{r.group}, SecondaryCount: 1,
		Tags: map[string]string{claims.TagCreator: claims.Creator, claims.TagCluster: cluster, claims.TagNode: node}})
	r.Must(err)
	r.Clock.Pass(2 * time.Second)
	r.Must(r.API.AttachENI(ctx, e.ID, instance))
	r.Clock.Pass(2 * time.Second)
	return e.ID
}

func (r *rig) node(name string) {
	r.instances[name] = r.instance()
	r.enis[name] = r.eni(name, r.instances[name], "c1")
	r.create(
		&corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{claims.AnnotationMaxPods: "9", "other": "1"}},
			Spec: corev1.NodeSpec{Taints: []corev1.Taint{
				{Key: "other", Effect: corev1.TaintEffectNoSchedule}, {Key: claims.TaintNotReady, Effect: corev1.TaintEffectNoSchedule}}},
			Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
		},
		&v1alpha1.NodeNetwork{
			ObjectMeta: metav1.ObjectMeta{Name: name, UID: "uid-" + "n", Finalizers: []string{claims.FinalizerENIs}},
			Spec: v1alpha1.NodeNetworkSpec{InstanceID: r.instances[name], ENIs: []v1alpha1.ENI{{
				ID: r.enis[name], Phase: v1alpha1.ENIReady, Addresses: []v1alpha1.Address{{Address: "192.168.1.1"}}}}},
		},
		&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "terwayd-" + name, Labels: map[string]string{claims.LabelLease: "true"}}},
		r.agent(name),
	)
}

func (r *rig) agent(node string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "terwayd-" + node, Labels: map[string]string{"app": r.set}}, Spec: corev1.PodSpec{NodeName: node}}
}

// use puts a pod into a node's status.
func (r *rig) use(node string) {
	nn := &v1alpha1.NodeNetwork{}
	r.Must(r.kube.Get(context.Background(), client.ObjectKey{Name: node}, nn))
	nn.Status.Used = []v1alpha1.UsedAddress{{Address: "192.168.1.1", Pod: "shop/cart"}}
	r.Must(r.kube.Status().Update(context.Background(), nn))
}

// sleep lets time pass: the DaemonSet's controller, and the kubelets, which run Jobs.
func (r *rig) sleep(ctx context.Context, d time.Duration) error {
	r.Clock.Pass(d)
	if r.slept++; r.slept > 1000 {
		r.Fatalf("it does not end")
	}
	if r.stop != nil {
		if err := r.stop(r.slept); err != nil {
			return err
		}
	}
	set := &appsv1.DaemonSet{}
	r.get(set, r.set)
	_, off := set.Spec.Template.Spec.NodeSelector[selector]
	for node := range r.instances {
		if off {
			r.Must(client.IgnoreNotFound(r.kube.Delete(ctx, r.agent(node))))
		} else if err := r.kube.Create(ctx, r.agent(node)); !apierrors.IsAlreadyExists(err) {
			r.Must(err)
		}
	}
	var jobs batchv1.JobList
	r.Must(r.kube.List(ctx, &jobs))
	for _, j := range jobs.Items {
		node := j.Spec.Template.Spec.NodeName
		if ended, _ := Outcome(&j); ended {
			continue
		}
		if err := r.kube.Get(ctx, client.ObjectKeyFromObject(r.agent(node)), &corev1.Pod{}); err == nil {
			r.Errorf("node %s is cleaned while its agent runs", node)
		}
		args := j.Spec.Template.Spec.Containers[0].Args
		r.ran[node] = args
		end := batchv1.JobCondition{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}
		if said := r.journal[node]; said != "" && !slices.Contains(args, "--force") {
			end.Type, end.Reason = batchv1.JobFailed, "BackoffLimitExceeded"
			r.create(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, GenerateName: j.Name + "-", Labels: map[string]string{batchv1.JobNameLabel: j.Name}},
				Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Message: said + "\n"}}}}}})
		}
		j.Status.Conditions = append(j.Status.Conditions, end)
		r.Must(r.kube.Status().Update(ctx, &j))
	}
	return nil
}

// gone fails unless nothing of Terway is left.
func (r *rig) gone() {
	r.Helper()
	ctx := context.Background()
	left, err := r.API.DescribeENIs(ctx, cloud.ENIFilter{Tags: map[string]string{claims.TagCluster: "c1"}})
	r.Must(err)
	var nns v1alpha1.NodeNetworkList
	var leases coordinationv1.LeaseList
	var jobs batchv1.JobList
	r.Must(errors.Join(r.kube.List(ctx, &nns), r.kube.List(ctx, &leases), r.kube.List(ctx, &jobs)))
	if len(left)+len(nns.Items)+len(leases.Items)+len(jobs.Items) > 0 {
		r.Errorf("left: ENIs %v, NodeNetworks %v, Leases %v, Jobs %v", left, nns.Items, leases.Items, jobs.Items)
	}
	var nodes corev1.NodeList
	r.Must(r.kube.List(ctx, &nodes))
	for _, n := range nodes.Items {
		if len(n.Spec.Taints) != 1 || n.Spec.Taints[0].Key != "other" || len(n.Annotations) != 1 || n.Annotations["other"] != "1" {
			r.Errorf("node %s: taints %v, annotations %v; want only those of others", n.Name, n.Spec.Taints, n.Annotations)
		}
	}
	if !r.led {
		r.Errorf("it did not act as the only controller")
	}
}

// kept fails unless Terway is as it was.
func (r *rig) kept() {
	r.Helper()
	ctx := context.Background()
	r.Must(r.o.Sleep(ctx, 0)) // agents start again
	for node, id := range r.enis {
		r.get(&corev1.Pod{}, "terwayd-"+node)
		if r.set == flannelAgents {
			continue
		}
		list, err := r.API.DescribeENIs(ctx, cloud.ENIFilter{IDs: []string{id}})
		r.Must(err)
		if len(list) != 1 || list[0].Status != cloud.ENIInUse {
			r.Errorf("node %s: its ENI is %+v, want it attached", node, list)
		}
		nn := &v1alpha1.NodeNetwork{}
		r.Must(r.kube.Get(ctx, client.ObjectKey{Name: node}, nn))
		if !nn.DeletionTimestamp.IsZero() {
			r.Errorf("NodeNetwork %s is being deleted", node)
		}
	}
	d := &appsv1.Deployment{}
	r.get(d, controller)
	if *d.Spec.Replicas != 2 {
		r.Errorf("the controller has %d replicas, want 2", *d.Spec.Replicas)
	}
}

func TestNothingIsLeft(t *testing.T) {
	r := newRig(t)
	// Not this cluster's.
	other := r.eni("other", r.instance(), "c2")
	r.Must(Run(t.Context(), r.o))
	r.gone()
	list, err := r.API.DescribeENIs(t.Context(), cloud.ENIFilter{IDs: []string{other}})
	if err != nil || len(list) != 1 || list[0].Status != cloud.ENIInUse {
		t.Errorf("the ENI of another cluster: %+v, %v", list, err)
	}
	for node := range r.instances {
		if want := []string{"teardown", "--host-root=/host"}; !slices.Equal(r.ran[node], want) {
			t.Errorf("node %s was cleaned with %q, want %q", node, r.ran[node], want)
		}
	}
	// Again, as after a kill at the end.
	r.Must(Run(t.Context(), r.o))
}

func TestInUse(t *testing.T) {
	for name, c := range map[string]struct {
		use  func(*rig)
		says string
	}{
		"a pod": {func(r *rig) { r.use("n1") }, "pod shop/cart on node n1 has address 192.168.1.1"},
		"a load balancer": {func(r *rig) {
			r.create(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u", Finalizers: []string{loadbalancer.Finalizer}, Annotations: map[string]string{loadbalancer.AnnotationUses: "CLB"}}})
		}, "Service shop/web has a load balancer (CLB)"},
		"a held address": {func(r *rig) {
			nn := &v1alpha1.NodeNetwork{}
			r.Must(r.kube.Get(context.Background(), client.ObjectKey{Name: "n2"}, nn))
			nn.Spec.ENIs[0].Addresses[0].Held = true
			r.Must(r.kube.Update(context.Background(), nn))
		}, "a load balancer has address 192.168.1.1 of node n2"},
		"a silent node": {func(r *rig) {
			n := &corev1.Node{}
			r.Must(r.kube.Get(context.Background(), client.ObjectKey{Name: "n1"}, n))
			n.Status.Conditions[0].Status = corev1.ConditionUnknown
			r.Must(r.kube.Status().Update(context.Background(), n))
		}, "node n1 cannot be cleaned"},
		"an instance that is no node": {func(r *rig) { r.eni("gone", r.instance(), "c1") }, "which is no node of it"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			c.use(r)
			err := Run(t.Context(), r.o)
			var use InUse
			if !errors.As(err, &use) || len(use) != 1 || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("%v; want one line with %q", err, c.says)
			}
			if r.slept > 0 {
				t.Errorf("it waited for something")
			}
			r.kept()
			r.o.Force = true
			r.Must(Run(t.Context(), r.o))
			r.gone()
			for _, s := range services(r) {
				if len(s.Finalizers)+len(s.Annotations) > 0 {
					t.Errorf("Service %s has the finalizers %q and annotations %v", s.Name, s.Finalizers, s.Annotations)
				}
			}
		})
	}
}

func services(r *rig) []corev1.Service {
	var list corev1.ServiceList
	r.Must(r.kube.List(context.Background(), &list))
	return list.Items
}

// A pod may start after the question, or an agent may not have reported it: the node's journal decides.
func TestJournalDecides(t *testing.T) {
	r := newRig(t)
	r.journal["n2"] = "terwayd: 1 pods of this node have addresses, the first is shop/late: drain the node"
	err := Run(t.Context(), r.o)
	if err == nil || !strings.Contains(err.Error(), "node n2: "+r.journal["n2"]) || strings.Contains(err.Error(), "n1") {
		t.Fatalf("%v; want what node n2 said, and nothing of n1", err)
	}
	r.kept()
	r.o.Force = true
	r.Must(Run(t.Context(), r.o))
	r.gone()
	if !slices.Contains(r.ran["n2"], "--force") {
		t.Errorf("node n2 was cleaned with %q", r.ran["n2"])
	}
}

// Wherever it is stopped, Terway either stays as it was or is gone after another run.
func TestStopped(t *testing.T) {
	stop := errors.New("SIGTERM")
	for at := 1; ; at++ {
		r := newRig(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		r.stop = func(slept int) error {
			if slept == at {
				cancel(stop)
				return stop
			}
			return nil
		}
		err := Run(ctx, r.o)
		ended := r.slept < at
		cancel(nil)
		r.stop = nil
		if ended {
			r.Must(err)
			r.gone()
			if at < 6 {
				t.Errorf("it waited %d times only", at)
			}
			return
		}
		if !errors.Is(err, stop) {
			t.Fatalf("stopped at %d: %v", at, err)
		}
		d := &appsv1.Deployment{}
		if r.get(d, controller); *d.Spec.Replicas > 0 {
			r.kept()
		}
		r.Must(Run(t.Context(), r.o))
		r.gone()
	}
}

// After a kill behind its last step the kind of NodeNetworks is gone, and Helm starts it again.
func TestAgainWithoutTheKind(t *testing.T) {
	r := newRig(t)
	gone := false
	r.o.Kinds = true
	r.o.Client = interceptor.NewClient(r.kube, interceptor.Funcs{
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			if kind, ok := o.(*unstructured.Unstructured); ok {
				if gone {
					return apierrors.NewNotFound(schema.GroupResource{Resource: "customresourcedefinitions"}, kind.GetName())
				}
				gone = true
				return nil
			}
			return c.Delete(ctx, o, opts...)
		},
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if _, ok := list.(*v1alpha1.NodeNetworkList); ok && gone {
				return &meta.NoKindMatchError{GroupKind: v1alpha1.GroupVersion.WithKind("NodeNetwork").GroupKind()}
			}
			return c.List(ctx, list, opts...)
		},
	})
	r.Must(Run(t.Context(), r.o))
	if !gone {
		t.Fatal("it did not delete the kind")
	}
	r.Must(Run(t.Context(), r.o))
	r.gone()
}

// Without a credential the ENIs stay, and are named; all else goes.
func TestENIsAreKept(t *testing.T) {
	r := newRig(t)
	var said strings.Builder
	r.o.Cloud, r.o.Log = nil, slog.New(slog.NewTextHandler(&said, nil))
	r.use("n1")
	var use InUse
	if err := Run(t.Context(), r.o); !errors.As(err, &use) {
		t.Fatalf("%v; want that a pod uses the network", err)
	}
	r.kept()
	r.o.Force = true
	r.Must(Run(t.Context(), r.o))
	for node, id := range r.enis {
		list, err := r.API.DescribeENIs(t.Context(), cloud.ENIFilter{IDs: []string{id}})
		if err != nil || len(list) != 1 || list[0].Status != cloud.ENIInUse {
			t.Errorf("node %s: its ENI is %+v, %v; want it attached", node, list, err)
		}
		if !strings.Contains(said.String(), id) {
			t.Errorf("it does not name ENI %s of node %s: %s", id, node, said.String())
		}
		if len(r.ran[node]) == 0 {
			t.Errorf("node %s was not cleaned", node)
		}
	}
	if want := claims.TagCluster + "=c1"; !strings.Contains(said.String(), want) {
		t.Errorf("it does not name the tag %s: %s", want, said.String())
	}
	// What is left in the cloud is what the next run, with a credential, gives back.
	r.o.Cloud = r.Cloud.API
	r.Must(Run(t.Context(), r.o))
	r.gone()
}

// The cloud's refusal ends it before anything is changed.
func TestNoPermission(t *testing.T) {
	r := newRig(t)
	refused := errors.New("Forbidden.RAM")
	r.o.Cloud = deny{r.o.Cloud, refused}
	if err := Run(t.Context(), r.o); !errors.Is(err, refused) {
		t.Fatalf("%v, want %v", err, refused)
	}
	r.kept()
}

// A right that is missing ends it at once, and the agents start again.
func TestForbidden(t *testing.T) {
	r := newRig(t)
	r.o.Client = interceptor.NewClient(r.kube, interceptor.Funcs{Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
		if _, job := o.(*batchv1.Job); job {
			return apierrors.NewForbidden(schema.GroupResource{Group: "batch", Resource: "jobs"}, o.GetName(), errors.New("no right"))
		}
		return c.Create(ctx, o, opts...)
	}})
	if err := Run(t.Context(), r.o); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "for node n1") {
		t.Fatalf("%v; want what is forbidden, for which node", err)
	}
	r.kept()
}

type deny struct {
	cloud.API
	err error
}

func (d deny) DescribeENIs(context.Context, cloud.ENIFilter) ([]cloud.ENI, error) { return nil, d.err }
