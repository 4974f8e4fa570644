package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Up takes down what is left of an earlier lab and starts a new one. While a lab runs, this one or another, the error wraps ErrRunning: each
// would end the other's processes.
func Up(ctx context.Context, o *Options, p *Progress) (*State, error) {
	life, unlock, err := o.lockUp(machineLock)
	if err != nil {
		return nil, err
	}
	defer unlock()
	s := &State{Options: *o}
	o = &s.Options
	if err := p.Step("remove what an earlier lab left", func() error {
		if _, err := o.down(ctx); err != nil {
			return err
		}
		return o.claimDir()
	}); err != nil {
		return nil, err
	}
	if err := o.prepare(ctx, p); err != nil {
		return nil, err
	}
	if err := p.Step("simulated cloud", func() error { return o.startCloud(ctx, s, life) }); err != nil {
		return nil, err
	}
	if err := p.Step("VPC, vSwitches and instances", func() error {
		return firstError(
			func() error { return o.createVPC(ctx, s) },
			func() error { return o.runInstances(ctx, s) },
			s.save)
	}); err != nil {
		return nil, err
	}
	var client kubernetes.Interface
	if err := p.Step("control plane", func() (err error) {
		client, err = o.bootstrap(ctx, s)
		return err
	}); err != nil {
		return nil, err
	}
	if err := p.Step("nodes registered", func() error { return waitNodes(ctx, client, s, nodeRegistered) }); err != nil {
		return nil, err
	}
	if o.Network != NetworkNone {
		if err := o.network(ctx, s, client, p); err != nil {
			return nil, err
		}
	}
	s.Ready = true
	return s, s.save()
}

// network installs the pod network and the programs that need one.
func (o *Options) network(ctx context.Context, s *State, client kubernetes.Interface, p *Progress) error {
	if err := p.Step("CoreDNS, terwayctl install: checks, chart, working nodes", func() error {
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error { return o.installDNS(ctx) })
		g.Go(func() error { return s.installTerway(ctx) })
		// It sees at once what would keep the installation waiting: a datapath that a kernel does not support.
		g.Go(func() error { return o.waitReady(ctx, client, s) })
		return g.Wait()
	}); err != nil {
		return err
	}
	if o.Network == NetworkFlannel {
		if err := p.Step("route entries of the pods' blocks", func() error { return waitNodes(ctx, client, s, s.routed(ctx)) }); err != nil {
			return err
		}
	}
	if err := p.Step("system pods ready", func() error { return waitPods(ctx, client) }); err != nil || !o.Policy {
		return err
	}
	return p.Step("network policies on every node", func() error { return s.waitPolicy(ctx) })
}

// prepare updates programs and images.
func (o *Options) prepare(ctx context.Context, p *Progress) error {
	if err := o.installPackages(ctx, p); err != nil {
		return err
	}
	if err := o.build(ctx, p); err != nil {
		return err
	}
	if err := p.Step("container images", func() error { return o.images(ctx) }); err != nil {
		return err
	}
	return o.installPrograms()
}

// bootstrap starts control plane and nodes in parallel and waits for the API.
func (o *Options) bootstrap(ctx context.Context, s *State) (kubernetes.Interface, error) {
	if err := o.startRelay(s); err != nil {
		return nil, err
	}
	pki, err := o.makePKI(s, s.APIServer)
	if err != nil {
		return nil, err
	}
	if err := o.startControlPlane(s); err != nil {
		return nil, err
	}
	for _, m := range s.Machines {
		if err := o.prepareNode(pki, s, m); err != nil {
			return nil, err
		}
		if err := o.startNode(ctx, m); err != nil {
			return nil, err
		}
	}
	client, err := o.Client()
	if err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("the control plane was not ready within two minutes"))
	defer cancel()
	if err := o.waitAPIServer(wait, client); err != nil {
		return nil, err
	}
	if err := o.startControllers(s); err != nil {
		return nil, err
	}
	return client, waitServiceAccount(wait, client, metav1.NamespaceDefault)
}

// nodeRegistered returns what a Node lacks that a kubelet registers: at first its list of images may be empty, and no registry has these.
func nodeRegistered(n *corev1.Node) string {
	for _, i := range n.Status.Images {
		if slices.Contains(i.Names, ImageTerway) {
			return ""
		}
	}
	return "its kubelet does not report the image " + ImageTerway
}

// waitNodes waits until missing returns nothing for any node.
func waitNodes(ctx context.Context, c kubernetes.Interface, s *State, missing func(*corev1.Node) string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Minute, errors.New("not there after three minutes"))
	defer cancel()
	return eventually(ctx, 100*time.Millisecond, func() error {
		nodes, err := c.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("list nodes: %w", err)
		}
		found := map[string]*corev1.Node{}
		for i := range nodes.Items {
			found[nodes.Items[i].Name] = &nodes.Items[i]
		}
		for _, m := range s.Machines {
			n, ok := found[m.Name]
			if !ok {
				return fmt.Errorf("%s has not registered; the end of its kubelet's log:\n%s", m.Name, tail(s.Options.nodeDir(m.Name, "log", "kubelet.log"), 5))
			}
			if w := missing(n); w != "" {
				return fmt.Errorf("%s: %s", m.Name, w)
			}
		}
		return nil
	})
}

// firstError runs steps in order, and returns the first error.
func firstError(steps ...func() error) error {
	for _, f := range steps {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}
