package instruments

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/load"
	"terway.dev/terway/internal/vpcsim/state"
)

// Products of load balancers, as the classes of Services name them.
const (
	CLB = "clb"
	NLB = "nlb"
)

const (
	// balancerAnnotation begins the annotations of Services for their load balancers.
	balancerAnnotation = "service.beta.kubernetes.io/alibaba-cloud-loadbalancer-"
	// injectGates on a namespace has pods' readiness gates and their sleep injected.
	injectGates = "k8s.alibabacloud.com/pod-readiness-gate-inject"
	// BalancerPort is the port of the Services.
	BalancerPort = 80
)

// Balanced is a Service with a load balancer, in front of a Deployment of webservers.
type Balanced struct {
	cluster *Cluster
	// Name is that of the Service, ID that of the load balancer in the cloud.
	Name, ID string
	// To is where the load balancer listens: its public address, if it has one.
	To netip.AddrPort
}

// BalancedService is what Balance asks for.
type BalancedService struct {
	// Name of the Service, and the Deployment that it selects.
	Name, Of string
	// Product is CLB or NLB.
	Product string
	// Public: with an address outside of the VPC.
	Public bool
	// Annotations are further ones, by names without their common prefix.
	Annotations map[string]string
}

// QuickChecks returns annotations for health checks that come to a verdict in two seconds, with further ones in
// pairs of a name and a value.
func QuickChecks(more ...string) map[string]string {
	at := map[string]string{"health-check-interval": "1", "healthy-threshold": "2", "unhealthy-threshold": "2"}
	for i := 0; i+1 < len(more); i += 2 {
		at[more[i]] = more[i+1]
	}
	return at
}

// InjectGates has the namespace's new pods wait for load balancers; required: none is created that does not.
func (c *Cluster) InjectGates(ctx context.Context, required bool) error {
	value := "enabled"
	if required {
		value = "required"
	}
	patch := fmt.Appendf(nil, `{"metadata":{"labels":{%q:%q}}}`, injectGates, value)
	if _, err := c.Client.CoreV1().Namespaces().Patch(ctx, c.Namespace, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("label namespace %s: %w", c.Namespace, err)
	}
	return nil
}

// Webservers returns a Deployment of the lab's webserver with some arguments, which is not created
// yet. Its pods end as their program does: they have the usual grace period.
func (c *Cluster) Webservers(name string, replicas int32, surge, unavailable int, args ...string) *Deployment {
	d := c.NewDeployment(name, replicas)
	d.Change = func(spec *appsv1.DeploymentSpec) {
		spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{
			MaxSurge: new(intstr.FromInt(surge)), MaxUnavailable: new(intstr.FromInt(unavailable)),
		}}
		pod := &spec.Template.Spec
		pod.TerminationGracePeriodSeconds = nil
		pod.Containers[0].Image, pod.Containers[0].Args = lab.ImageWebserver, args
	}
	return d
}

// Balance creates a Service with a load balancer, and waits until that has an address. It has
// NodePorts only with Flannel: else only pods can be backends.
func (c *Cluster) Balance(ctx context.Context, want BalancedService) (*Balanced, error) {
	at := map[string]string{}
	for name, value := range want.Annotations {
		at[balancerAnnotation+name] = value
	}
	at[balancerAnnotation+"address-type"] = "intranet"
	if want.Public {
		at[balancerAnnotation+"address-type"] = "internet"
	}
	if c.nodePorts() { // the cluster's configuration names no vSwitches
		var zones []string
		for _, zone := range c.Lab.Options.Zones {
			zones = append(zones, zone+":"+c.Lab.Cloud.NodeVSwitches[zone])
		}
		if want.Product == NLB {
			at[balancerAnnotation+"zone-maps"] = strings.Join(zones, ",")
		} else {
			at[balancerAnnotation+"vswitch-id"] = c.Lab.Cloud.NodeVSwitches[c.Lab.Options.Zones[0]]
		}
	}
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: want.Name, Annotations: at},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, LoadBalancerClass: new("network.terway.dev/" + want.Product), AllocateLoadBalancerNodePorts: new(c.nodePorts()),
			Selector: map[string]string{"app": want.Of},
			Ports:    []corev1.ServicePort{{Port: BalancerPort, TargetPort: intstr.FromInt32(HTTPPort)}},
		},
	}
	if _, err := c.Client.CoreV1().Services(c.Namespace).Create(ctx, s, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("create Service %s: %w", want.Name, err)
	}
	b := &Balanced{cluster: c, Name: want.Name}
	if err := c.Poll(ctx, "the address of Service "+want.Name, func() (bool, error) {
		now, err := c.Client.CoreV1().Services(c.Namespace).Get(ctx, want.Name, metav1.GetOptions{})
		if err != nil || len(now.Status.LoadBalancer.Ingress) == 0 {
			return false, err
		}
		all, err := c.Lab.Cloud.Balancers(ctx)
		if err != nil {
			return false, err
		}
		return b.find(all, now.Status.LoadBalancer.Ingress[0], want.Public), nil
	}); err != nil {
		return nil, errors.Join(err, c.explain(want.Name))
	}
	return b, nil
}

// nodePorts reports whether NodePorts are the backends of load balancers: pods have no addresses in the VPC.
func (c *Cluster) nodePorts() bool { return c.Lab.Options.Network == lab.NetworkFlannel }

// find looks for the load balancer of a Service's status: by an address, or by the name in the domain of
// NLB, which begins with its id.
func (b *Balanced) find(all []state.Balancer, at corev1.LoadBalancerIngress, public bool) bool {
	id, _, _ := strings.Cut(at.Hostname, ".")
	for i := range all {
		lb := &all[i]
		for _, a := range lb.Addresses {
			if a.Public == public && (lb.LoadBalancerId == id || a.Address.String() == at.IP) {
				b.ID, b.To = lb.LoadBalancerId, netip.AddrPortFrom(a.Address, BalancerPort)
				return true
			}
		}
	}
	return false
}

// State returns the load balancer as the cloud's data plane has it.
func (b *Balanced) State(ctx context.Context) (*state.Balancer, error) {
	all, err := b.cluster.Lab.Cloud.Balancers(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].LoadBalancerId == b.ID {
			return &all[i], nil
		}
	}
	return nil, fmt.Errorf("the cloud has no load balancer %s any more, which Service %s has", b.ID, b.Name)
}

// Taking returns the addresses of the backends that get new connections, with their listeners'.
func Taking(lb *state.Balancer) map[netip.AddrPort]bool {
	taking := map[netip.AddrPort]bool{}
	for _, l := range lb.Listeners {
		for i := range l.Backends {
			if l.Takes(&l.Backends[i]) {
				taking[netip.AddrPortFrom(l.Backends[i].Address, l.Backends[i].Port)] = true
			}
		}
	}
	return taking
}

// backends returns the addresses of what should get a load balancer's connections: the pods, or with
// Flannel the nodes with the Service's NodePort.
func (b *Balanced) backends(ctx context.Context, pods []corev1.Pod) (map[netip.AddrPort]bool, error) {
	want := map[netip.AddrPort]bool{}
	if b.cluster.nodePorts() {
		s, err := b.cluster.Client.CoreV1().Services(b.cluster.Namespace).Get(ctx, b.Name, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("the NodePort of Service %s: %w", b.Name, err)
		}
		for _, m := range b.cluster.Lab.Machines {
			want[netip.AddrPortFrom(m.Address, uint16(s.Spec.Ports[0].NodePort))] = true
		}
		return want, nil
	}
	for _, p := range pods {
		addr, err := netip.ParseAddr(p.Status.PodIP)
		if err != nil {
			return nil, fmt.Errorf("pod %s: %w", p.Name, err)
		}
		want[netip.AddrPortFrom(addr, HTTPPort)] = true
	}
	return want, nil
}

// Serves waits until the pods, or with Flannel all nodes for them, and no others, get the load
// balancer's connections.
func (b *Balanced) Serves(ctx context.Context, pods []corev1.Pod) error {
	want, err := b.backends(ctx, pods)
	if err != nil {
		return err
	}
	var got map[netip.AddrPort]bool
	if err := b.cluster.Poll(ctx, fmt.Sprintf("%d backends to get connections from %s", len(want), b.ID), func() (bool, error) {
		lb, err := b.State(ctx)
		if err != nil {
			return false, err
		}
		got = Taking(lb)
		return len(lb.Listeners) > 0 && maps.Equal(got, want), nil
	}); err != nil {
		list := func(m map[netip.AddrPort]bool) []netip.AddrPort {
			return slices.SortedFunc(maps.Keys(m), netip.AddrPort.Compare)
		}
		return errors.Join(fmt.Errorf("%w: they are %v, want %v", err, list(got), list(want)), b.cluster.explain(b.Name))
	}
	return nil
}

// LoadFrom sends requests to the load balancer from a network namespace: each over a connection of
// its own, or over so many that stay.
func (b *Balanced) LoadFrom(netns string, rate, connections int, timeout time.Duration) (*load.Load, error) {
	return load.Start(load.Options{
		Dial: func(ctx context.Context) (net.Conn, error) { return lab.DialIn(ctx, netns, "tcp", b.To.String()) },
		URL:  "http://" + b.To.String() + "/", Rate: rate, Connections: connections, Timeout: timeout,
	})
}

// Terminates waits until a pod of a Deployment is being deleted.
func (c *Cluster) Terminates(ctx context.Context, d *Deployment) error {
	return c.Poll(ctx, "a pod of Deployment "+d.name+" to be deleted", func() (bool, error) {
		pods, err := d.Pods(ctx)
		return slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil }), err
	})
}

// controller is the name of the controller's program and of its Lease.
const controller = "terway-controller"

// Leader returns the machine on which the leading controller runs.
func (c *Cluster) Leader(ctx context.Context) (lab.Machine, error) {
	lease, err := c.Client.CoordinationV1().Leases(metav1.NamespaceSystem).Get(ctx, controller, metav1.GetOptions{})
	if err != nil {
		return lab.Machine{}, fmt.Errorf("look for the leading controller: %w", err)
	}
	holder := ""
	if lease.Spec.HolderIdentity != nil {
		holder, _, _ = strings.Cut(*lease.Spec.HolderIdentity, "_") // the host's name, which is the node's
	}
	m, err := c.Lab.Machine(holder)
	if err != nil {
		return lab.Machine{}, fmt.Errorf("the holder of Lease %s: %w", controller, err)
	}
	return *m, nil
}
