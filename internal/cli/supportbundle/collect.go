package supportbundle

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cli/cluster"
	"terway.dev/terway/internal/inventory"
	"terway.dev/terway/internal/pages"
	"terway.dev/terway/internal/version"
)

// configMap is the chart's (deploy/chart/templates/config.yaml).
const configMap = "eni-config"

// maxLines are the last lines of a container's log that are read, and maxLog, in bytes, is what of
// them is read at most.
const (
	maxLines = 20_000
	maxLog   = 16 << 20
)

// collector reads a cluster and adds files. What cannot be read is a line of lacks.
type collector struct {
	reader *cluster.Reader
	logs   kubernetes.Interface
	// since is how far back logs go; agents is of how many nodes, of nodes only if it has any.
	since  time.Duration
	agents int
	nodes  []string
	// add adds a file.
	add func(name string, content []byte) error

	parts, lacks []string
	pods         []corev1.Pod // Terway's
}

func (c *collector) lack(what string, err error) {
	c.lacks = append(c.lacks, redactText(fmt.Sprintf("%s: %v", what, err)))
}

func (c *collector) put(name string, content []byte) error {
	c.parts = append(c.parts, name)
	return c.add(name, content)
}

func (c *collector) putJSON(name string, v any) error {
	b, err := json.Marshal(v)
	var plain any
	if err := errors.Join(err, json.Unmarshal(b, &plain)); err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	if b, err = json.MarshalIndent(redactValue(plain, false), "", "  "); err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	return c.put(name, append(b, '\n'))
}

// collect reads all. An error is one of writing, or an interrupt.
func (c *collector) collect(ctx context.Context) error {
	err := c.putJSON("about.json", struct {
		Terwayctl version.Info `json:"terwayctl"`
		At        time.Time    `json:"at"`
		Cluster   string       `json:"cluster"`
		Namespace string       `json:"namespace"`
	}{version.Get(), time.Now().UTC().Truncate(time.Second), c.reader.Host, c.reader.Terway})
	if err != nil {
		return err
	}
	var troubled []string // nodes with problems
	o, err := c.reader.Objects(ctx)
	if err != nil {
		c.lack("status.json", err)
	} else {
		status := o.Status()
		for _, n := range status.Nodes {
			if len(n.Problems) > 0 {
				troubled = append(troubled, n.Node)
			}
		}
		if err := errors.Join(c.putJSON("status.json", status), c.addresses(ctx, o.Networks)); err != nil {
			return err
		}
	}
	in := client.InNamespace(c.reader.Terway)
	for _, l := range []struct {
		name string
		list client.ObjectList
		opts []client.ListOption
		keep func(client.Object) bool
	}{
		{"nodes", &corev1.NodeList{}, nil, nil},
		{"nodenetworks", &v1alpha1.NodeNetworkList{}, nil, nil},
		{"pods", &corev1.PodList{}, []client.ListOption{in}, isTerway},
		{"deployments", &appsv1.DeploymentList{}, []client.ListOption{in}, isTerway},
		{"daemonsets", &appsv1.DaemonSetList{}, []client.ListOption{in}, isTerway},
		{"leases", &coordinationv1.LeaseList{}, []client.ListOption{in}, isTerway},
		{"events", &corev1.EventList{}, nil, func(o client.Object) bool { return aboutTerway(o.(*corev1.Event), c.reader.Terway) }},
	} {
		if err := c.list(ctx, l.name, l.list, l.opts, l.keep); err != nil {
			return err
		}
	}
	var config corev1.ConfigMap
	switch err := c.reader.Get(ctx, client.ObjectKey{Namespace: c.reader.Terway, Name: configMap}, &config); {
	case err != nil:
		c.lack(configMap+".yaml", err)
	default:
		text, err := c.object(&config)
		if err := errors.Join(err, c.put(configMap+".yaml", text)); err != nil {
			return err
		}
	}
	if err := c.allLogs(ctx, troubled); err != nil {
		return err
	}
	if len(c.lacks) > 0 {
		return c.put("lacks.txt", []byte(strings.Join(c.lacks, "\n")+"\n"))
	}
	return ctx.Err()
}

// addresses is what "terwayctl pods --check --no-cloud" prints, without a second look.
func (c *collector) addresses(ctx context.Context, networks []v1alpha1.NodeNetwork) error {
	pods, err := c.reader.Pods(ctx)
	if err != nil {
		c.lack("pods.json", err)
		return nil
	}
	return c.putJSON("pods.json", struct {
		Pods     []inventory.PodAddress `json:"pods"`
		Findings []inventory.Finding    `json:"findings"`
	}{inventory.Addresses(networks), (&inventory.Records{Networks: networks, Pods: pods}).Compare()})
}

// list adds NAME.yaml with the objects that keep says, and remembers pods.
func (c *collector) list(ctx context.Context, name string, empty client.ObjectList, opts []client.ListOption, keep func(client.Object) bool) error {
	var text bytes.Buffer
	for page, err := range pages.Of(ctx, c.reader.Reader, empty, opts...) {
		if err != nil {
			c.lack(name+".yaml", err)
			return ctx.Err()
		}
		err := meta.EachListItem(page, func(item runtime.Object) error {
			o := item.(client.Object) // all items of lists are
			if keep != nil && !keep(o) {
				return nil
			}
			if p, ok := o.(*corev1.Pod); ok {
				c.pods = append(c.pods, *p)
			}
			b, err := c.object(o)
			text.WriteString("---\n")
			text.Write(b)
			return err
		})
		if err != nil {
			return err
		}
	}
	return c.put(name+".yaml", text.Bytes())
}

// object returns an object in YAML, without secrets.
func (c *collector) object(o client.Object) ([]byte, error) {
	scheme, err := cluster.Scheme()
	if err != nil {
		return nil, err
	}
	kind, err := apiutil.GVKForObject(o, scheme)
	if err != nil {
		return nil, err
	}
	o.GetObjectKind().SetGroupVersionKind(kind) // lists leave it out
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return nil, err
	}
	redactObject(m)
	return yaml.Marshal(m)
}

// isTerway says whether an object in Terway's namespace is Terway's.
func isTerway(o client.Object) bool {
	return strings.HasPrefix(o.GetName(), "terway") || strings.HasPrefix(o.GetLabels()["app"], "terway")
}

// aboutTerway says whether an event may explain a trouble of Terway: one by Terway, one about its
// objects or a node, or one about a sandbox.
func aboutTerway(e *corev1.Event, namespace string) bool {
	about := e.InvolvedObject
	return strings.HasPrefix(e.Source.Component, "terway") || strings.HasPrefix(e.ReportingController, "terway") ||
		about.Namespace == namespace && strings.HasPrefix(about.Name, "terway") ||
		about.Kind == "Node" || about.Kind == "NodeNetwork" || strings.Contains(strings.ToLower(e.Reason), "sandbox") || e.Reason == "FailedKillPod"
}

// allLogs adds the logs of the controller's pods and of some agents': of nodes with trouble first.
func (c *collector) allLogs(ctx context.Context, troubled []string) error {
	rank := func(p *corev1.Pod) int {
		switch {
		case p.Labels["app"] != cluster.AgentLabels["app"]:
			return 0
		case slices.Contains(troubled, p.Spec.NodeName):
			return 1
		}
		return 2
	}
	slices.SortStableFunc(c.pods, func(a, b corev1.Pod) int { return rank(&a) - rank(&b) })
	agents, left, missing := 0, 0, slices.Clone(c.nodes)
	for i := range c.pods {
		p := &c.pods[i]
		if rank(p) > 0 {
			if len(c.nodes) > 0 && !slices.Contains(c.nodes, p.Spec.NodeName) {
				continue
			}
			missing = slices.DeleteFunc(missing, func(node string) bool { return node == p.Spec.NodeName })
			if agents++; len(c.nodes) == 0 && agents > c.agents {
				left++
				continue
			}
		}
		for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			if err := c.log(ctx, p, s.Name, false); err != nil {
				return err
			}
			if s.RestartCount > 0 {
				if err := c.log(ctx, p, s.Name, true); err != nil {
					return err
				}
			}
		}
	}
	for _, node := range missing {
		c.lack("logs of node "+node, errors.New("no agent has a pod there"))
	}
	if left > 0 {
		c.parts = append(c.parts, fmt.Sprintf("(no logs of %d more agents: --agents, --node)", left))
	}
	return nil
}

func (c *collector) log(ctx context.Context, p *corev1.Pod, container string, previous bool) error {
	name := "logs/" + p.Name + "/" + container
	if p.Spec.NodeName != "" {
		name = "logs/" + p.Spec.NodeName + "/" + p.Name + "/" + container
	}
	limit, lines, since := int64(maxLog), int64(maxLines), int64(c.since.Seconds())
	o := &corev1.PodLogOptions{Container: container, Previous: previous, Timestamps: true, TailLines: &lines, LimitBytes: &limit, SinceSeconds: &since}
	if previous {
		name += ".previous"
	}
	b, err := c.logs.CoreV1().Pods(p.Namespace).GetLogs(p.Name, o).DoRaw(ctx)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case previous && (apierrors.IsNotFound(err) || apierrors.IsBadRequest(err)): // the runtime has removed it
		return nil
	case err != nil:
		c.lack(name+".log", err)
		return nil
	}
	return c.put(name+".log", []byte(redactLog(string(b))))
}
