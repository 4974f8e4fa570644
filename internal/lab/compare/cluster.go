package compare

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
)

// namespace is the namespace of all objects of a comparison.
const namespace = "compare"

// app is the label of the comparison's pods.
const app = "compare"

// cluster is the running lab that is measured.
type cluster struct{ instruments.Cluster }

func newCluster(s *lab.State) (*cluster, error) {
	c, err := instruments.Connect(s)
	if err != nil {
		return nil, err
	}
	return &cluster{*c}, nil
}

// patience limits each wait for the cluster; on a busy machine pods take a while.
const patience = 3 * time.Minute

// impatient returns a context that ends after patience.
func impatient(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, patience, fmt.Errorf("it took more than %s", patience))
}

func (c *cluster) wait(ctx context.Context, what string, f func() (bool, error)) error {
	ctx, cancel := impatient(ctx)
	defer cancel()
	if err := lab.Poll(ctx, 200*time.Millisecond, f); err != nil {
		return fmt.Errorf("wait for %s: %w", what, err)
	}
	return nil
}

func (c *cluster) makeNamespace(ctx context.Context) error {
	ctx, cancel := impatient(ctx)
	defer cancel()
	return c.MakeNamespace(ctx, metav1.ObjectMeta{Name: namespace})
}

// podSpec returns a pod that does nothing: the measurements send from and to its network
// namespace.
func (c *cluster) podSpec() corev1.PodSpec {
	grace := int64(0)
	spec := corev1.PodSpec{
		TerminationGracePeriodSeconds: &grace,
		Containers:                    []corev1.Container{{Name: "main", Image: lab.ImageAgnhost, ImagePullPolicy: corev1.PullIfNotPresent, Args: []string{"pause"}}},
	}
	if c.exclusiveENIs() { // the scheduler counts these requests
		lab.AskForENI(&spec)
	}
	return spec
}

// exclusiveENIs reports whether each pod has an exclusive ENI.
func (c *cluster) exclusiveENIs() bool { return c.Lab.Options.Mode == claims.ModeExclusive }

// room returns how many pods with exclusive ENIs can start, the same number on each node, with
// one ENI left on each node for one more pod.
func (c *cluster) room(ctx context.Context) (int32, error) {
	nodes, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, fmt.Errorf("list nodes: %w", err)
	}
	pods, err := c.Client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, fmt.Errorf("list pods: %w", err)
	}
	least := math.MaxInt32
	for _, n := range nodes.Items {
		offered, taken := lab.CountENIs(&n, pods.Items)
		least = min(least, offered-taken-1)
		if least < 1 {
			return 0, fmt.Errorf("node %s has ENIs for %d pods more, the comparison needs two: choose a larger --instance-type", n.Name, offered-taken)
		}
	}
	return int32(least) * int32(len(nodes.Items)), nil
}

// spreadPods starts n pods, the same number on each node, and waits for them.
func (c *cluster) spreadPods(ctx context.Context, n int32) ([]corev1.Pod, error) {
	labels := map[string]string{"app": app}
	spec := c.podSpec()
	spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: corev1.LabelHostname,
		WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: labels}}}
	_, err := c.Client.AppsV1().Deployments(namespace).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: app},
		Spec: appsv1.DeploymentSpec{Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec}},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("start %d pods: %w", n, err)
	}
	var pods []corev1.Pod
	err = c.wait(ctx, fmt.Sprintf("%d pods", n), func() (bool, error) {
		list, err := c.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + app})
		if err != nil {
			return false, fmt.Errorf("list pods: %w", err)
		}
		pods = slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return !running(&p) })
		return len(pods) == int(n), nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w; %d run", err, len(pods))
	}
	return pods, nil
}

func running(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning && p.Status.PodIP != ""
}

// end returns a running pod as an end of a connection.
func (c *cluster) end(p *corev1.Pod) (instruments.End, error) {
	addr, err := netip.ParseAddr(p.Status.PodIP)
	if err != nil {
		return instruments.End{}, fmt.Errorf("pod %s: %w", p.Name, err)
	}
	ns, err := c.Lab.PodNetNS(p.Spec.NodeName, addr)
	return instruments.End{NetNS: ns, Addr: addr}, err
}

// podOn returns a pod of the list on a node.
func podOn(pods []corev1.Pod, node string) (*corev1.Pod, error) {
	for i := range pods {
		if pods[i].Spec.NodeName == node {
			return &pods[i], nil
		}
	}
	return nil, fmt.Errorf("none of %d pods runs on %s", len(pods), node)
}

// datapath returns the datapath that the nodes report; empty if they report none.
func (c *cluster) datapath(ctx context.Context) (string, error) {
	b, err := c.Client.CoreV1().RESTClient().Get().AbsPath("/apis/network.terway.dev/v1alpha1/nodenetworks").Do(ctx).Raw()
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("list NodeNetworks: %w", err)
	}
	return commonDatapath(b)
}

// cleanUp removes what the comparison made. The lab's end would remove it too.
func (c *cluster) cleanUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), time.Minute, errors.New("it took more than a minute"))
	defer cancel()
	// Pods first: Kubernetes looks at a namespace again only after half of their grace period.
	if err := c.Empty(ctx, namespace); err != nil {
		return err
	}
	return c.wait(ctx, "namespace "+namespace+" to be gone", func() (bool, error) {
		_, err := c.Client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
}
