package migrate

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cli/cluster"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/migrate"
)

const flannelSet, agentSet = "kube-flannel/kube-flannel-ds", "terway-system/terwayd"

// world is a cluster whose kubelets and controllers act while the command sleeps.
type world struct {
	client.Client
	t *testing.T
	// did are the commands that ran on nodes, in order: "NODE: COMMAND".
	did []string
	// budget refuses evictions of the pod with this name; deaf: Terway's controller removes no taint;
	// fails: pods that run commands fail.
	budget      string
	deaf, fails bool
	pods        int
	// terway are the nodes whose runtime finds Terway's CNI configuration first.
	terway map[string]bool
	// through is the command's own client, if it has another; step is how long a step may take, an hour if it is 0.
	through client.Client
	step    time.Duration
}

// newWorld returns two nodes with upstream's Flannel, each with a pod of a ReplicaSet, a pod of a DaemonSet
// that tolerates everything, and one with the node's own network.
func newWorld(t *testing.T) *world {
	w := &world{t: t, terway: map[string]bool{}}
	refuse := func(ctx context.Context, c client.Client, sub string, obj, subObj client.Object, opts ...client.SubResourceCreateOption) error {
		if sub == "eviction" && obj.GetName() == w.budget {
			return apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
		}
		// Another pod of its ReplicaSet could come to the same node.
		if n := w.node(obj.(*corev1.Pod).Spec.NodeName); strings.HasPrefix(obj.GetName(), "web") && (!n.Spec.Unschedulable || !slices.ContainsFunc(n.Spec.Taints, isNotReady)) {
			t.Errorf("pod %s is evicted from a node that takes pods: %+v", obj.GetName(), n.Spec)
		}
		return c.SubResource(sub).Create(ctx, obj, subObj, opts...)
	}
	known, err := cluster.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	w.Client = fake.NewClientBuilder().WithScheme(known).WithStatusSubresource(&v1alpha1.NodeNetwork{}).
		WithIndex(&corev1.Pod{}, "spec.nodeName", func(o client.Object) []string { return []string{o.(*corev1.Pod).Spec.NodeName} }).
		WithInterceptorFuncs(interceptor.Funcs{SubResourceCreate: refuse}).Build()
	w.set(flannelSet, "kube-flannel", "/opt/bin/flanneld")
	w.create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-flannel", Name: "kube-flannel-cfg"},
		Data: map[string]string{"net-conf.json": `{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}`}})
	for _, node := range []string{"a", "b"} {
		w.create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node, Annotations: map[string]string{claims.AnnotationPodCIDR: "10.244.1.0/24"}}, Spec: corev1.NodeSpec{ProviderID: "cn-hangzhou.i-" + node}})
		w.pod("shop", "web-"+node, node, "ReplicaSet", "web", false)
		w.pod("shop", "log-"+node, node, "DaemonSet", "log", true)
		w.pod("kube-system", "proxy-"+node, node, "DaemonSet", "proxy", true)
	}
	w.tick()
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) create(o client.Object) { w.t.Helper(); w.must(w.Create(w.t.Context(), o)) }

func (w *world) set(name, container string, command ...string) {
	namespace, name, _ := strings.Cut(name, "/")
	d := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	d.Spec.Template.Spec.Containers = []corev1.Container{{Name: container, Image: "image", Command: command[:1], Args: command[1:]}}
	w.create(d)
}

// install installs the chart.
func (w *world) install() {
	w.set(agentSet, "terwayd", "/usr/bin/terwayd", "--cni-conf-dir=/host/etc/cni/net.d", "--host-root=/host", "--scrape-address=:10367")
}

func (w *world) pod(namespace, name, node, kind, owner string, tolerant bool) *corev1.Pod {
	w.t.Helper()
	w.pods++
	controller := true
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(fmt.Sprint("uid", w.pods)),
		Annotations:     map[string]string{"network": fmt.Sprint("terway: ", w.terway[node])},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: kind, Name: owner, UID: "owner", Controller: &controller}}},
		Spec:   corev1.PodSpec{NodeName: node, HostNetwork: namespace != "shop"},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}}
	if tolerant {
		p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	}
	w.create(p)
	return p
}

func (w *world) node(name string) *corev1.Node {
	n := &corev1.Node{}
	w.must(w.Get(w.t.Context(), client.ObjectKey{Name: name}, n))
	return n
}

// names returns a node's pods.
func (w *world) names(node string) []string {
	list := &corev1.PodList{}
	w.must(w.List(w.t.Context(), list, client.MatchingFields{"spec.nodeName": node}))
	var names []string
	for _, p := range list.Items {
		names = append(names, p.Namespace+"/"+p.Name)
	}
	slices.Sort(names)
	return names
}

// tick is what kubelets, Kubernetes' and Terway's controllers do.
func (w *world) tick() {
	w.t.Helper()
	ctx := w.t.Context()
	pods := &corev1.PodList{}
	w.must(w.List(ctx, pods))
	for i := range pods.Items {
		if p := &pods.Items[i]; p.Labels[labelJob] != "" && p.Status.Phase == "" {
			w.did = append(w.did, p.Spec.NodeName+": "+strings.Join(p.Spec.Containers[0].Args, " "))
			p.Status.Phase = corev1.PodSucceeded
			files := strings.Join(p.Spec.Containers[0].Args, " ")
			if strings.Contains(files, "--disable") && slices.ContainsFunc(w.names(p.Spec.NodeName), func(n string) bool { return strings.HasPrefix(n, flannelSet) }) {
				w.t.Errorf("%s: %s while Flannel's pod may still write its configuration", p.Spec.NodeName, files)
			}
			if strings.HasPrefix(files, "teardown") && slices.Contains(w.names(p.Spec.NodeName), agentSet+"-"+p.Spec.NodeName) {
				w.t.Errorf("%s: %s while the agent runs", p.Spec.NodeName, files)
			}
			w.terway[p.Spec.NodeName] = strings.Contains(files, "--disable")
			// The program itself refuses it.
			inUse := strings.HasPrefix(files, "teardown") && !strings.Contains(files, "--force") && slices.ContainsFunc(w.names(p.Spec.NodeName), func(n string) bool { return strings.HasPrefix(n, "shop/") })
			if w.fails || inUse {
				p.Status.Phase = corev1.PodFailed
				p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Message: "2 pods of this node have addresses"}}}}
			}
			w.must(w.Status().Update(ctx, p))
		}
	}
	sets := &appsv1.DaemonSetList{}
	w.must(w.List(ctx, sets))
	nodes := &corev1.NodeList{}
	w.must(w.List(ctx, nodes))
	for i := range nodes.Items {
		n := &nodes.Items[i]
		ignored := n.Labels[claims.LabelIgnore] == "true"
		for _, d := range sets.Items {
			wanted := !ignored
			if d.Namespace+"/"+d.Name == flannelSet {
				wanted = ignored || !migrate.Confined(&d.Spec.Template.Spec)
			}
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: d.Namespace, Name: d.Name + "-" + n.Name}}
			err := w.Get(ctx, client.ObjectKeyFromObject(p), p)
			switch {
			case err == nil && !wanted:
				w.must(w.Delete(ctx, p))
			case apierrors.IsNotFound(err) && wanted:
				w.pod(p.Namespace, p.Name, n.Name, "DaemonSet", d.Name, true)
			}
			if wanted && d.Name == migrate.AgentName && !w.deaf {
				n.Spec.Taints = slices.DeleteFunc(n.Spec.Taints, isNotReady)
				w.must(w.Update(ctx, n))
			}
		}
		w.network(n.Name, ignored)
		// The DaemonSet whose pods tolerate everything.
		if p := (&corev1.Pod{}); apierrors.IsNotFound(w.Get(ctx, client.ObjectKey{Namespace: "shop", Name: "log-" + n.Name}, p)) {
			w.pod("shop", "log-"+n.Name, n.Name, "DaemonSet", "log", true)
		}
	}
}

// network is what Terway's controller and agent do with a node's NodeNetwork. The agent reports the pod that tolerates everything.
func (w *world) network(node string, ignored bool) {
	w.t.Helper()
	ctx := w.t.Context()
	nn := &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: node}}
	err := w.Get(ctx, client.ObjectKeyFromObject(nn), nn)
	var agent corev1.Pod
	runs := w.Get(ctx, client.ObjectKey{Namespace: "terway-system", Name: "terwayd-" + node}, &agent) == nil
	switch {
	case apierrors.IsNotFound(err) && runs:
		nn.Generation, nn.Spec.ENIs = 1, []v1alpha1.ENI{{ID: "eni-" + node, Addresses: []v1alpha1.Address{{Address: "192.168.32.1"}, {Address: "192.168.32.2"}}}}
		w.create(nn)
	case err == nil && runs:
		nn.Status = v1alpha1.NodeNetworkStatus{ObservedGeneration: nn.Generation, UsedCount: 1, Used: []v1alpha1.UsedAddress{{Address: "192.168.32.1", Pod: "shop/log-" + node}}}
		w.must(w.Status().Update(ctx, nn))
	case err == nil && ignored && len(nn.Status.Used) == 0 && !w.deaf:
		released := nn.Status.ObservedGeneration == nn.Generation && slices.Equal(nn.Status.Released, []string{"192.168.32.1", "192.168.32.2"})
		if released {
			w.must(w.Delete(ctx, nn))
			return
		}
		if a := nn.Spec.ENIs[0].Addresses; !a[0].Releasing {
			a[0].Releasing, a[1].Releasing, nn.Generation = true, true, nn.Generation+1
			w.must(w.Update(ctx, nn))
		}
	}
}

// migrate does what the command does.
func (w *world) migrate(ask migrate.Ask, late int) (string, error) {
	w.t.Helper()
	o, err := read(w.t.Context(), w.Client, "terway-system")
	w.must(err)
	p, err := migrate.Make(o, ask)
	w.must(err)
	var said bytes.Buffer
	ctx, cancel := context.WithCancelCause(w.t.Context())
	defer cancel(nil)
	most := cmp.Or(w.step, time.Hour)
	r := &runner{client: w.Client, plan: p, namespace: "terway-system", drain: most, ready: most, report: &said,
		sleep: func(ctx context.Context, _ time.Duration) error {
			if late--; late < 0 {
				cancel(errLate)
			}
			w.tick()
			return ctx.Err()
		}}
	if w.through != nil {
		r.client = w.through
	}
	err = r.migrate(ctx)
	return said.String(), err
}

const often = 100

// A cluster goes to Terway and one of its nodes back.
func TestMigrate(t *testing.T) {
	w := newWorld(t)
	if _, err := w.migrate(migrate.Ask{}, often); err == nil || !strings.Contains(err.Error(), "terwayctl install") {
		t.Fatalf("not installed: %v", err)
	}
	for _, node := range []string{"a", "b"} {
		if n := w.node(node); n.Labels[claims.LabelIgnore] != "true" || n.Spec.Unschedulable {
			t.Fatalf("prepared: %+v", n)
		}
	}
	w.install()
	w.tick()
	if got := w.names("a"); !slices.Contains(got, "kube-flannel/kube-flannel-ds-a") || slices.Contains(got, "terway-system/terwayd-a") {
		t.Fatalf("installed, not migrated: %q", got)
	}
	// A command that was killed has left it.
	w.create(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "terway-system", Name: "terway-migrate-x", Labels: map[string]string{labelJob: "teardown"}},
		Spec: corev1.PodSpec{NodeName: "a", HostNetwork: true}, Status: corev1.PodStatus{Phase: corev1.PodRunning}})
	if said, err := w.migrate(migrate.Ask{Nodes: []string{"a"}}, often); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	n := w.node("a")
	if n.Labels[claims.LabelIgnore] != "" || n.Spec.Unschedulable || len(n.Spec.Taints) > 0 || len(n.Annotations) > 0 {
		t.Errorf("after: %+v %+v", n.ObjectMeta, n.Spec)
	}
	if got := w.names("a"); !slices.Equal(got, []string{"kube-system/proxy-a", "shop/log-a", "terway-system/terwayd-a"}) {
		t.Errorf("after: pods %q", got)
	}
	if got := w.get("shop", "log-a").Annotations["network"]; got != "terway: true" {
		t.Errorf("a pod that tolerates everything: %s", got)
	}
	if got := w.names("b"); !slices.Equal(got, []string{"kube-flannel/kube-flannel-ds-b", "kube-system/proxy-b", "shop/log-b", "shop/web-b"}) {
		t.Errorf("the other node: pods %q", got)
	}
	const files = "10-canal.conflist,10-flannel.conf,10-flannel.conflist"
	if want := []string{"a: cni-files --cni-conf-dir=/host/etc/cni/net.d --disable=" + files}; !slices.Equal(w.did, want) {
		t.Errorf("did %q, want %q", w.did, want)
	}
	w.did = nil
	flannel := w.get("kube-flannel", "kube-flannel-ds-b").UID
	if said, err := w.migrate(migrate.Ask{Nodes: []string{"a"}, Back: true}, often); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	n = w.node("a")
	if n.Labels[claims.LabelIgnore] != "true" || n.Spec.Unschedulable || len(n.Spec.Taints) > 0 || n.Annotations[migrate.AnnotationMigrating] != "" {
		t.Errorf("back: %+v %+v", n.ObjectMeta, n.Spec)
	}
	if got := w.names("a"); !slices.Equal(got, []string{"kube-flannel/kube-flannel-ds-a", "kube-system/proxy-a", "shop/log-a"}) {
		t.Errorf("back: pods %q", got)
	}
	for _, p := range []*corev1.Pod{w.get("shop", "log-a"), w.get("kube-flannel", "kube-flannel-ds-a")} {
		if got := p.Annotations["network"]; got != "terway: false" {
			t.Errorf("back, pod %s was not started again: %s", p.Name, got)
		}
	}
	if err := w.Get(t.Context(), client.ObjectKey{Name: "a"}, &v1alpha1.NodeNetwork{}); !apierrors.IsNotFound(err) {
		t.Errorf("back: the NodeNetwork is still there (%v): the node's ENIs are kept", err)
	}
	if want := []string{"a: teardown --cni-conf-dir=/host/etc/cni/net.d --host-root=/host --force", "a: cni-files --cni-conf-dir=/host/etc/cni/net.d --enable=" + files}; !slices.Equal(w.did, want) {
		t.Errorf("did %q, want %q", w.did, want)
	}
	if w.get("kube-flannel", "kube-flannel-ds-b").UID != flannel {
		t.Error("Flannel was restarted on a node that does not change")
	}
}

func (w *world) get(namespace, name string) *corev1.Pod {
	p := &corev1.Pod{}
	w.must(w.Get(w.t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, p))
	return p
}

// Cut off anywhere, the same command goes on; a node that was cordoned before stays so.
func TestMigrateIsCutOff(t *testing.T) {
	for _, cordoned := range []bool{false, true} {
		w := newWorld(t)
		if cordoned {
			n := w.node("a")
			n.Spec.Unschedulable = true
			w.must(w.Update(t.Context(), n))
		}
		_, err := w.migrate(migrate.Ask{}, often)
		if err == nil {
			t.Fatal("not installed")
		}
		w.install()
		cut := 0
		for ; ; cut++ {
			_, err := w.migrate(migrate.Ask{}, cut) // a little later each time
			if err == nil {
				break
			}
			if cut > often || !errors.Is(err, errLate) || !strings.Contains(err.Error(), "the same command goes on") {
				t.Fatalf("cut off %d times: %v", cut, err)
			}
			w.tick()
		}
		if cut < 2 {
			t.Errorf("cut off %d times only", cut)
		}
		for _, node := range []string{"a", "b"} {
			if n := w.node(node); n.Spec.Unschedulable != (cordoned && node == "a") || len(n.Spec.Taints) > 0 || n.Annotations[migrate.AnnotationMigrating] != "" || n.Labels[claims.LabelIgnore] != "" {
				t.Errorf("cordoned before %v: %+v %+v", cordoned, n.ObjectMeta, n.Spec)
			}
		}
	}
}

// What a node waits for in vain is named, and the other node is left alone.
func TestMigrateStops(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*world)
		want   []string
	}{
		"disruption budget": {func(w *world) { w.budget = "web-a" }, []string{"node a, step drain", "shop/web-a", "disruption budget", "0 of 2 nodes"}},
		"no controller":     {func(w *world) { w.deaf = true }, []string{"node a, step ready", claims.TaintNotReady, "terwayctl status"}},
		"command fails":     {func(w *world) { w.fails = true }, []string{"node a, step disable", "terwayd cni-files", "2 pods of this node have addresses"}},
	} {
		w := newWorld(t)
		if _, err := w.migrate(migrate.Ask{}, often); err == nil {
			t.Fatal("not installed")
		}
		w.install()
		c.change(w)
		_, err := w.migrate(migrate.Ask{}, often)
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %v, want %q", name, err, want)
			}
		}
		if got := w.names("b"); !slices.Contains(got, "shop/web-b") || w.node("b").Spec.Unschedulable {
			t.Errorf("%s: the other node: %q", name, got)
		}
	}
}

// Without --yes nothing changes, and losses and problems are a failure.
func TestDryRun(t *testing.T) {
	file := filepath.Join(t.TempDir(), "values.yaml")
	for name, c := range map[string]struct {
		accept []string
		values string
		change func(*world)
		out    []string
		err    string
	}{
		"not accepted": {nil, "", nil, []string{"kube-flannel/kube-flannel-ds", "a     old", "lost: traffic-between-networks: ", "then, by you: terwayctl install", "1. cordon"}, "--accept-lost traffic-between-networks accepts"},
		"accepted":     {[]string{"traffic-between-networks"}, "", nil, []string{"lost, accepted: traffic-between-networks"}, ""},
		"none such":    {[]string{"ipv8"}, "", nil, nil, "want some of traffic-between-networks"},
		"not lost": {[]string{"traffic-between-networks", "local-data", "resource_group_id"}, "", nil,
			[]string{"note: --accept-lost local-data: nothing of that is lost here", "note: --accept-lost resource_group_id: "}, ""},
		"no room": {[]string{"traffic-between-networks"}, "eniConfig: {mode: exclusive, vswitches: vsw-1}", func(w *world) {
			n := w.node("b")
			n.Labels = map[string]string{corev1.LabelInstanceTypeStable: "ecs.g6.large"}
			w.must(w.Update(w.t.Context(), n))
		}, []string{"problem: node b runs 2 pods", "in mode exclusive, ENIs for 1 pods"}, "1 problems stand in the way"},
		"problem": {[]string{"traffic-between-networks"}, "", func(w *world) {
			n := w.node("b")
			n.Spec.ProviderID = ""
			w.must(w.Update(w.t.Context(), n))
		}, []string{"problem: node b has no providerID"}, "1 problems stand in the way"},
	} {
		w := newWorld(t)
		if c.change != nil {
			c.change(w)
		}
		before := fmt.Sprint(w.node("a"), w.node("b"), w.names("a"), w.names("b"))
		cmd := NewCommand()
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetContext(t.Context())
		o := &options{accept: c.accept, values: file}
		o.Terway = "terway-system"
		if err := os.WriteFile(file, []byte("policy: {enabled: true}\n"+c.values), 0o600); err != nil {
			t.Fatal(err)
		}
		values, err := o.readValues()
		if err != nil || !values.Policy.Enabled {
			t.Fatalf("%v, %v", values, err)
		}
		err = o.run(cmd, w.Client, "https://cluster", values)
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: error %v, want %q", name, err, c.err)
		}
		for _, want := range c.out {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: printed\n%s\nwant %q", name, &out, want)
			}
		}
		if after := fmt.Sprint(w.node("a"), w.node("b"), w.names("a"), w.names("b")); after != before {
			t.Errorf("%s: changed from\n%s\nto\n%s", name, before, after)
		}
	}
}

// What is wrong in the call is said before a cluster is asked.
func TestUsage(t *testing.T) {
	file := filepath.Join(t.TempDir(), "values.yaml")
	for _, c := range []struct {
		values string
		args   []string
		want   string
	}{
		{"", []string{"--yes", "--dry-run"}, "--yes and --dry-run: give one of them"},
		{"", []string{"--rollback"}, "--nodes says of which nodes"},
		{"eniConfig: {mode: alone}", []string{"--values", file}, `eniConfig.mode: "alone": want shared or exclusive`},
		{"eniConfig: {exclusive_enis: -1}", []string{"--values", file}, "eniConfig.exclusive_enis: -1: want a number"},
	} {
		if err := os.WriteFile(file, []byte(c.values), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := NewCommand()
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		cmd.SetArgs(c.args)
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.args, err, c.want)
		}
	}
}
