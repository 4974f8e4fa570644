package connectivity

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cli/agents"
	"terway.dev/terway/internal/cli/cluster"
	"terway.dev/terway/internal/connectivity"
	"terway.dev/terway/internal/connectivity/probe"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/inventory"
)

const (
	poll = 500 * time.Millisecond
	// reported is how long the agents may take to report the pods' addresses, which they do within a second.
	reported = 10 * time.Second
	// sending is how long a pod or node may take to send all its probes: Standard.Total and what starting takes.
	sending = 45 * time.Second
	// making is how long the API server may take for an object.
	making = 10 * time.Second
	// dnsPods are how many pods that serve DNS are tried one by one.
	dnsPods = 2
	// atOnce is how many pods and nodes send at a time.
	atOnce = 16
)

// fleet are the agents of the nodes.
type fleet interface {
	agents.Fleet
	Run(ctx context.Context, node string, args []string, out io.Writer) error
}

// runner runs programs in pods.
type runner interface {
	Run(ctx context.Context, namespace, pod, container string, command []string, out io.Writer) error
}

// run is one run of the command.
type run struct {
	options
	reader *cluster.Reader
	// writer goes on after an interrupt.
	writer client.Client
	fleet  fleet
	pods   runner
	// say gets a line on what it waits for.
	say  io.Writer
	poll time.Duration

	namespace string
	report    *report
}

// run makes the pods, tries, judges and removes. With a report an error is that of removing.
func (r *run) run(ctx context.Context) (_ *report, err error) {
	objects, err := r.reader.Objects(ctx)
	if err != nil {
		return nil, err
	}
	sample, err := r.choose(objects)
	if err != nil {
		return nil, err
	}
	if r.image == "" {
		if r.image = imageOf(objects.Agents); r.image == "" {
			return nil, fmt.Errorf("no agent of Terway has a pod in namespace %s, whose image would be used: want --terway-namespace or --image", r.reader.Terway)
		}
	}
	if err := r.sweep(ctx); err != nil {
		return nil, err
	}
	r.report = &report{Findings: []connectivity.Finding{}}
	for _, n := range sample {
		r.report.Nodes = append(r.report.Nodes, n.Name)
	}
	r.namespace = "terway-connectivity-" + rand.String(6)
	err = r.create(ctx, newNamespace(r.namespace, time.Now().Add(r.wait+2*life)), "namespace "+r.namespace)
	if apierrors.IsForbidden(err) || errors.Is(err, context.Canceled) {
		return nil, err // it does not exist
	}
	defer func() { err = errors.Join(err, r.remove(ctx)) }()
	if err != nil {
		return nil, err
	}
	world, err := r.start(ctx, sample, objects.Networks)
	if err != nil {
		return nil, err
	}
	probes := connectivity.Plan(*world)
	outcomes := r.send(ctx, probes)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	evidence, err := r.evidence(ctx, probes, outcomes)
	if err != nil {
		return nil, err
	}
	r.report.Findings = append(r.report.Findings, connectivity.Judge(probes, outcomes, *evidence)...)
	r.report.Counts = connectivity.Counts(probes, outcomes)
	for _, p := range probes {
		o := outcomes[p.ID]
		r.report.Probes = append(r.report.Probes, row{p.ID, p.Kind, p.Node, p.Pod, p.To, p.Title, o.Result, o.Attempts, o.Error, p.Path})
	}
	return r.report, nil
}

// choose returns the nodes that the pods go to.
func (r *run) choose(o *inventory.Objects) ([]*corev1.Node, error) {
	networks, nodes := map[string]*v1alpha1.NodeNetwork{}, map[string]*corev1.Node{}
	for i := range o.Networks {
		networks[o.Networks[i].Name] = &o.Networks[i]
	}
	var all []connectivity.Candidate
	for i := range o.Nodes {
		n := &o.Nodes[i]
		nodes[n.Name] = n
		c := connectivity.Candidate{Name: n.Name, Zone: n.Labels[corev1.LabelTopologyZone]}
		switch nn := networks[n.Name]; {
		case nn == nil:
			c.Unready = "it has no NodeNetwork"
		case !meta.IsStatusConditionTrue(nn.Status.Conditions, v1alpha1.ConditionReady):
			c.Unready = "its agent does not say that it is ready"
		default:
			for _, cond := range n.Status.Conditions {
				if cond.Type == corev1.NodeReady && cond.Status != corev1.ConditionTrue {
					c.Unready = cond.Reason + ": " + cond.Message
				}
			}
		}
		all = append(all, c)
	}
	names := slices.Compact(slices.Sorted(slices.Values(r.nodes)))
	for _, name := range names {
		switch {
		case nodes[name] == nil:
			return nil, fmt.Errorf("--node %s: the cluster has no such node", name)
		case networks[name] == nil:
			return nil, fmt.Errorf("--node %s: it has no NodeNetwork, so its pods get no network from Terway", name)
		}
	}
	if len(names) == 0 {
		names = connectivity.Choose(all, r.sample)
		for _, c := range all {
			if c.Unready != "" {
				fmt.Fprintf(r.say, "node %s is left out: %s\n", c.Name, c.Unready)
			}
		}
	}
	if len(names) == 0 {
		return nil, errors.New("no node is ready for pods: terwayctl status says why")
	}
	var sample []*corev1.Node
	for _, name := range names {
		sample = append(sample, nodes[name])
	}
	return sample, nil
}

func imageOf(pods []corev1.Pod) string {
	for _, p := range pods {
		for _, c := range p.Spec.Containers {
			if c.Name == agents.Container {
				return c.Image
			}
		}
	}
	return ""
}

// sweep removes what runs that were killed have left.
func (r *run) sweep(ctx context.Context) error {
	var left corev1.NamespaceList
	if err := r.reader.List(ctx, &left, client.MatchingLabels{claims.LabelConnectivity: "true"}); err != nil {
		return r.reader.Explain("namespaces", err)
	}
	for i := range left.Items {
		ns := &left.Items[i]
		until, err := time.Parse(time.RFC3339, ns.Annotations[claims.AnnotationConnectivityUntil])
		if err != nil || time.Now().Before(until) || ns.DeletionTimestamp != nil {
			continue // another run's
		}
		fmt.Fprintf(r.say, "removing namespace %s, which a run has left that was killed\n", ns.Name)
		if err := r.writer.Delete(ctx, ns, client.Preconditions{UID: &ns.UID}); err != nil && !apierrors.IsNotFound(err) {
			return agents.Explain(r.reader.Host, "delete namespace "+ns.Name, err)
		}
	}
	return nil
}

// create makes an object. An interrupt does not cut it off: then nobody would know whether the object exists.
func (r *run) create(ctx context.Context, o client.Object, what string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), making)
	defer cancel()
	if err := r.writer.Create(limited, o); err != nil {
		return agents.Explain(r.reader.Host, "create "+what, err)
	}
	return nil
}

// remove removes the namespace; the cluster removes what is in it.
func (r *run) remove(ctx context.Context) error {
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), making)
	defer cancel()
	err := r.writer.Delete(limited, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.namespace}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("%w; kubectl delete namespace %s", agents.Explain(r.reader.Host, "delete namespace "+r.namespace, err), r.namespace)
	}
	return nil
}

func (r *run) lack(format string, args ...any) {
	r.report.Lacks = append(r.report.Lacks, fmt.Sprintf(format, args...))
}

// source is what sends probes: a pod, or a node.
type source struct{ node, pod string }

func (s source) String() string {
	if s.pod == "" {
		return "what node " + s.node + " sends"
	}
	return "what the pod on " + s.node + " sends"
}

// send sends the probes.
func (r *run) send(ctx context.Context, probes []connectivity.Probe) map[int]connectivity.Outcome {
	tasks, order := map[source][]connectivity.Task{}, []source{}
	for _, p := range probes {
		from := source{p.Node, p.Pod}
		if tasks[from] == nil {
			order = append(order, from)
		}
		tasks[from] = append(tasks[from], p.Task)
	}
	fmt.Fprintf(r.say, "trying %d connections\n", len(probes))
	outcomes := map[int]connectivity.Outcome{}
	lacks := make([]error, len(order))
	var mu sync.Mutex
	each(len(order), func(i int) {
		limited, cancel := context.WithTimeout(ctx, sending)
		defer cancel()
		got, err := r.sendFrom(limited, order[i], tasks[order[i]])
		lacks[i] = err
		mu.Lock()
		defer mu.Unlock()
		for _, t := range tasks[order[i]] {
			o, ok := got[t.ID]
			if !ok {
				o = connectivity.Outcome{ID: t.ID, Result: connectivity.NotTried}
			}
			outcomes[t.ID] = o
		}
	})
	for i, err := range lacks {
		if err != nil {
			r.lack("%s: %v", order[i], err)
		}
	}
	return outcomes
}

// each calls f with each number below n, some at a time.
func each(n int, f func(int)) {
	places := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	for i := range n {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			f(i)
		})
	}
	all.Wait()
}

func (r *run) sendFrom(ctx context.Context, from source, tasks []connectivity.Task) (map[int]connectivity.Outcome, error) {
	list, err := json.Marshal(tasks)
	if err != nil {
		return nil, err
	}
	args := []string{"probe", "run", r.namespace, string(list)}
	var out bytes.Buffer
	if from.pod == "" {
		err = r.fleet.Run(ctx, from.node, args, &out)
	} else {
		err = r.pods.Run(ctx, r.namespace, from.pod, container, append([]string{agents.Program}, args...), &out)
	}
	if err != nil {
		return nil, err
	}
	return probe.ReadOutcomes(&out)
}
