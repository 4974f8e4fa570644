// Package verify proves that a lab's network works: a registry of named checks,
// each in a file of its own, each measuring something on the running cluster.
//
// A check owns one Kubernetes namespace, which is gone when it ends, and leaves the
// cluster as it found it. It must never change the lab's namespaces or the
// product's objects by other ways than a user or a failure would (it may kill a
// process: that is what happens to processes).
package verify

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/internal/lab"
)

// Check is one named proof.
type Check struct {
	Name string
	// About is what passes if the check does, in one line.
	About string
	// NotFor says, for each network whose labs it is not for, why.
	NotFor map[string]string
	// Trouble makes something go wrong around the network, what no datapath has a part in.
	// Such checks take long and run only if they are asked for.
	Trouble bool
	// Slow is one that waits for minutes for what the product promises only then: it runs by
	// its name alone.
	Slow bool
	// Shared is a check of addresses that pods of one ENI have: there is nothing to show on
	// nodes where each pod has an ENI to itself.
	Shared bool
	// Run returns what was measured, and an error when the network is not as it should be.
	Run func(ctx context.Context, e *Env) (measured string, err error)
}

// Checks are all checks in the order in which they run: the cheap ones first.
func Checks() []Check {
	return []Check{
		ownReport, addressFromVSwitch, addressFromBlock, vpcRoutes, samePod, crossNode, podToNode, podToService, dns, hostPort, outboundNAT,
		nodePort, sameName, noSpoofing, ownENI, podLimit, release, agentRestart, agentUpgrade, controllerRestart, nodeRemoved, nodeAnew,
		forwardPolicy, repair, registeredAgain, eniTaken, addressTaken, controllerAway, staleCloud, vswitchReplaced, kubeletKilled,
	}
}

// Result is what became of a check.
type Result struct {
	Name string `json:"name"`
	// Datapath is what the nodes ran, several names with commas if they differ; none with Flannel.
	Datapath string  `json:"datapath,omitempty"`
	OK       bool    `json:"ok"`
	Measured string  `json:"measured"`
	Error    string  `json:"error,omitempty"`
	Seconds  float64 `json:"seconds"`
}

// Env is what a check works with.
type Env struct {
	Lab    *lab.State
	Client kubernetes.Interface
	// Objects reads and writes the product's own objects too.
	Objects client.Client
	// Namespace is the check's own.
	Namespace string
	// Runs is what each node of a lab with Terway runs.
	Runs []NodeDatapath
	// Traffic is how long checks send that interrupt something meanwhile.
	Traffic time.Duration
	// Killed is how many processes of the system the check has killed.
	Killed int
}

// checkTimeout ends a check that hangs.
const checkTimeout = 4 * time.Minute

// DefaultTraffic is Env.Traffic where nobody says otherwise.
const DefaultTraffic = time.Minute

func (e *Env) run(ctx context.Context, c Check) Result {
	began := time.Now()
	own := *e
	measured, err := func() (string, error) {
		ctx, cancel := context.WithTimeoutCause(ctx, checkTimeout, fmt.Errorf("the check took more than %s", checkTimeout))
		defer cancel()
		before, err := own.restarts(ctx)
		if err != nil {
			return "", err
		}
		if c.Shared && own.allExclusive() {
			return "nothing to show: each pod has an ENI to itself", nil
		}
		if err := own.makeNamespace(ctx, c.Name); err != nil {
			return "", err
		}
		measured, err := c.Run(ctx, &own)
		if err != nil {
			return measured, err
		}
		return measured, own.unharmed(ctx, before)
	}()
	// Cleaning up is part of the check, and happens when the user interrupts it too.
	if own.Namespace != "" {
		clean, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), time.Minute, errors.New("the check's pods were not gone within a minute"))
		defer cancel()
		err = errors.Join(err, own.empty(clean, own.Namespace))
	}
	r := Result{Name: c.Name, Datapath: e.datapath(), OK: err == nil, Measured: measured, Seconds: time.Since(began).Seconds()}
	if err != nil {
		r.Error = err.Error()
	}
	return r
}

// namespaceLabel marks the namespaces of checks.
const namespaceLabel = "lab.terway.dev/check"

func (e *Env) makeNamespace(ctx context.Context, check string) error {
	ns, err := e.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: "verify-" + check + "-", Labels: map[string]string{namespaceLabel: check},
	}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make a namespace: %w", err)
	}
	e.Namespace = ns.Name
	// Pods are refused until the namespace has its service account.
	return e.poll(ctx, "the service account of "+e.Namespace, func() (bool, error) {
		_, err := e.Client.CoreV1().ServiceAccounts(e.Namespace).Get(ctx, "default", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return err == nil, err
	})
}

// empty ends what runs in a namespace and deletes it. It waits for the pods: the
// namespace itself goes five seconds later, whatever is in it.
func (e *Env) empty(ctx context.Context, namespace string) error {
	now := metav1.DeleteOptions{GracePeriodSeconds: new(int64)}
	err := errors.Join(
		e.Client.AppsV1().Deployments(namespace).DeleteCollection(ctx, now, metav1.ListOptions{}),
		e.Client.AppsV1().ReplicaSets(namespace).DeleteCollection(ctx, now, metav1.ListOptions{}),
		e.Client.CoreV1().Pods(namespace).DeleteCollection(ctx, now, metav1.ListOptions{}))
	if err != nil {
		return fmt.Errorf("empty namespace %s: %w", namespace, err)
	}
	if err := e.poll(ctx, "the pods of "+namespace+" to be gone", func() (bool, error) {
		pods, err := e.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{Limit: 1})
		return err == nil && len(pods.Items) == 0, err
	}); err != nil {
		return err
	}
	err = e.Client.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete namespace %s: %w", namespace, err)
	}
	return nil
}

// sweep removes the namespaces of all checks, those of an interrupted run too, waits
// until they are gone, and takes back what else they have changed.
func (e *Env) sweep(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), time.Minute, errors.New("not gone within a minute"))
	defer cancel()
	left := func() ([]corev1.Namespace, error) {
		list, err := e.Client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: namespaceLabel})
		if err != nil {
			return nil, fmt.Errorf("list the checks' namespaces: %w", err)
		}
		return list.Items, nil
	}
	all, err := left()
	if err != nil {
		return err
	}
	for _, ns := range all {
		if err := e.empty(ctx, ns.Name); err != nil {
			return err
		}
	}
	if err := e.poll(ctx, "the checks' namespaces to be gone", func() (bool, error) {
		all, err := left()
		return err == nil && len(all) == 0, err
	}); err != nil {
		return err
	}
	return errors.Join(e.withdraw(ctx), e.undo(ctx))
}

// poll waits until f says true; what is for the message when it never does.
func (e *Env) poll(ctx context.Context, what string, f func() (bool, error)) error {
	return pollEvery(ctx, 100*time.Millisecond, what, f)
}

// pollCloud is poll for what asks the cloud each time: an account may ask so often only.
func (e *Env) pollCloud(ctx context.Context, what string, f func() (bool, error)) error {
	return pollEvery(ctx, 500*time.Millisecond, what, f)
}

func pollEvery(ctx context.Context, every time.Duration, what string, f func() (bool, error)) error {
	if err := lab.Poll(ctx, every, f); err != nil {
		return fmt.Errorf("wait for %s: %w", what, err)
	}
	return nil
}
