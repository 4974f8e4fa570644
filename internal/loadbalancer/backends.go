package loadbalancer

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"terway.dev/terway/internal/cloud"
)

// NotReadyFor is how long a backend that is not ready, and does not terminate, stays in its group with
// weight 0: it may be ready again in a moment, and to come back takes longer.
const NotReadyFor = 30 * time.Second

// Cluster is what is known of a Service's endpoints.
type Cluster struct {
	// Slices are the Service's EndpointSlices.
	Slices []*discoveryv1.EndpointSlice
	// Pod returns a pod of the Service's namespace; nil if it is not known. Only pods with a readiness
	// gate need to be.
	Pod func(name string) *corev1.Pod
	// ENI returns the ENI that has an address; "" if it is not known.
	ENI   func(netip.Addr) string
	Nodes []Node
	// Groups are the backends that the listeners' groups have now, in the order of the listeners.
	Groups [][]cloud.Backend
	// NotReady is Targets.NotReady of the time before.
	NotReady map[string]time.Time
	Now      time.Time
}

// Node is a node of the cluster.
type Node struct {
	Name string
	// Instance is the id of its ECS instance; "" if it is not known.
	Instance string
	Address  netip.Addr
	Ready    bool
	// Excluded: it is no backend of load balancers.
	Excluded bool
}

// taintToBeDeleted is the taint by which the cluster autoscaler announces that it removes a node.
const taintToBeDeleted = "ToBeDeletedByClusterAutoscaler"

// NodeOf returns what matters of a node, whose instance has the given id.
func NodeOf(n *corev1.Node, instance string) Node {
	node := Node{Name: n.Name, Instance: instance}
	for _, a := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); a.Type == corev1.NodeInternalIP && err == nil && ip.Is4() {
			node.Address = ip
			break
		}
	}
	for _, c := range n.Status.Conditions {
		node.Ready = node.Ready || c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	}
	_, node.Excluded = n.Labels[corev1.LabelNodeExcludeBalancers]
	for _, t := range n.Spec.Taints {
		node.Excluded = node.Excluded || t.Key == taintToBeDeleted
	}
	return node
}

// Target is a backend that a listener's group should have.
type Target struct {
	cloud.Backend
	// Pod is the name of the pod; "" for a node.
	Pod string
	// Terminating: the pod terminates.
	Terminating bool
}

// Problem is an endpoint that cannot be a backend. It stops no other.
type Problem struct {
	// Object is the endpoint: a pod, a node or an address.
	Object string
	// Why it is none, and what would be right.
	Why string
}

// Targets are the backends that a Service wants.
type Targets struct {
	// Listeners are the targets of each listener, sorted by server, address and port.
	Listeners [][]Target
	Problems  []Problem
	// NotReady is since when endpoints are not ready, for the next time.
	NotReady map[string]time.Time
	// Next is when the targets change although nothing else does; zero: never.
	Next time.Time
}

// phase is what a load balancer should do with an endpoint.
type phase int

const (
	// gone: it terminates and no longer serves.
	gone phase = iota
	// broken: it is not ready, and does not terminate.
	broken
	// leaving: it terminates and still serves.
	leaving
	// starting: only its readiness gate waits, for the load balancer.
	starting
	ready
)

// endpoint is an address and port with what Kubernetes says about it.
type endpoint struct {
	// key identifies it in NotReady.
	key     string
	address netip.Addr
	port    int
	node    string
	pod     string
	phase   phase
}

func (e *endpoint) String() string {
	if e.pod != "" {
		return "pod " + e.pod
	}
	return "address " + e.address.String()
}

// Backends returns the backends that the listeners of a Service's load balancer should have, by the rules:
//   - ready: the default weight. So has a pod for whose readiness only a gate of ours is missing: else the
//     load balancer would never find it healthy, and the gate would never open.
//   - terminating: weight 0 at once, and out of the group when it is gone or no longer serves. While no
//     endpoint is ready, those that terminate and serve have their weight.
//   - not ready and not terminating: weight 0, and out of the group after NotReadyFor.
//
// An endpoint that is not in the group is added only if it is ready. One that is in the group keeps its
// server there although its ENI is not known (any more).
func Backends(w *LoadBalancer, svc *corev1.Service, c Cluster) Targets {
	t := &targets{cluster: &c, weight: w.DefaultWeight, result: Targets{NotReady: map[string]time.Time{}}}
	for i, l := range w.Listeners {
		var now []cloud.Backend
		if i < len(c.Groups) {
			now = slices.DeleteFunc(slices.Clone(c.Groups[i]), func(b cloud.Backend) bool { return foreign(Owner(svc.UID, l), b) })
		}
		port := &svc.Spec.Ports[l.ServicePort]
		endpoints := t.endpoints(svc, port)
		var list []Target
		switch {
		case w.PodBackends:
			list = t.pods(endpoints, now)
			if t.older(svc) {
				list = append(list, unseen(now, endpoints)...)
			}
		case port.NodePort == 0:
			t.problem(fmt.Sprintf("port %d", l.Port), "it has no node port, and the pods of this cluster have no addresses of the VPC: leave out spec.allocateLoadBalancerNodePorts")
		case svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal:
			list = t.local(endpoints, int(port.NodePort), now)
		default:
			list = t.nodes(int(port.NodePort), now)
		}
		for i := range list {
			list[i].Description = Name(svc.UID, l)
		}
		slices.SortFunc(list, func(a, b Target) int { return compareBackends(a.Backend, b.Backend) })
		t.result.Listeners = append(t.result.Listeners, list)
	}
	return t.result
}

// Name is the name of a listener's group, and the description of the listener and of its backends: who has
// another one is not ours. It has only letters, digits, full stops and hyphens, as NLB wants.
func Name(service types.UID, l Listener) string {
	protocol := "tcp"
	if l.Protocol == UDP {
		protocol = "udp"
	}
	return namePrefix(service) + protocol + "." + strconv.Itoa(int(l.Port))
}

// Owner is the owner of a listener's backends for Changes: in a user's group only those with the listener's
// name are ours.
func Owner(service types.UID, l Listener) string {
	if l.GroupID == "" {
		return ""
	}
	return Name(service, l)
}

func foreign(owner string, b cloud.Backend) bool { return owner != "" && b.Description != owner }

const prefix = "terway."

func namePrefix(service types.UID) string { return prefix + string(service) + "." }

// IsOf reports whether a group or listener of this name or description is a Service's.
func IsOf(service types.UID, name string) bool {
	return service != "" && strings.HasPrefix(name, namePrefix(service))
}

// IsOfAny reports whether a group or listener of this name or description is of a Service, whichever that is.
func IsOfAny(name string) bool { return strings.HasPrefix(name, prefix) }

func compareBackends(a, b cloud.Backend) int {
	return cmp.Or(strings.Compare(a.Server, b.Server), a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port))
}

// targets collects the result of Backends.
type targets struct {
	cluster *Cluster
	weight  int
	result  Targets
}

func (t *targets) problem(object, why string) {
	if p := (Problem{object, why}); !slices.Contains(t.result.Problems, p) {
		t.result.Problems = append(t.result.Problems, p)
	}
}

// endpoints returns the endpoints of a port of the Service, each once.
func (t *targets) endpoints(svc *corev1.Service, port *corev1.ServicePort) []*endpoint {
	found := map[netip.AddrPort]*endpoint{}
	for _, slice := range t.cluster.Slices {
		if slice.AddressType != discoveryv1.AddressTypeIPv4 {
			continue
		}
		number := 0
		for _, p := range slice.Ports {
			if p.Port != nil && (p.Name == nil && port.Name == "" || p.Name != nil && *p.Name == port.Name) {
				number = int(*p.Port)
			}
		}
		if number == 0 {
			continue
		}
		for i := range slice.Endpoints {
			e := t.endpoint(svc, &slice.Endpoints[i], number)
			if e == nil {
				continue
			}
			at := netip.AddrPortFrom(e.address, uint16(number))
			if other := found[at]; other == nil || e.replaces(other) {
				found[at] = e
			}
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b *endpoint) int { return a.address.Compare(b.address) })
}

// older reports whether EndpointSlices are older than the Service: they have a port of a name that it does not have (any
// more). Then they may lack another one.
func (t *targets) older(svc *corev1.Service) bool {
	for _, slice := range t.cluster.Slices {
		if slice.Labels[discoveryv1.LabelManagedBy] != managedBy {
			continue
		}
		for _, p := range slice.Ports {
			if p.Name != nil && !slices.ContainsFunc(svc.Spec.Ports, func(x corev1.ServicePort) bool { return x.Name == *p.Name }) {
				return true
			}
		}
	}
	return false
}

// managedBy is the label's value of the slices that follow a Service's selector (controllerName of
// k8s.io/kubernetes/pkg/controller/endpointslice).
const managedBy = "endpointslice-controller.k8s.io"

// unseen returns backends of a group, as they are, of which the endpoints say nothing.
func unseen(now []cloud.Backend, endpoints []*endpoint) (list []Target) {
	for _, b := range now {
		if !slices.ContainsFunc(endpoints, func(e *endpoint) bool { return e.address == b.Address }) {
			list = append(list, Target{Backend: b})
		}
	}
	return list
}

// replaces reports which of two endpoints with one address and port counts: two slices may have it while it
// moves from one to the other. A pod that terminates does not come back; of two pods the one that serves counts.
func (e *endpoint) replaces(other *endpoint) bool {
	ends := func(e *endpoint) bool { return e.phase == gone || e.phase == leaving }
	if e.key == other.key && (ends(e) || ends(other)) {
		return ends(e) && (!ends(other) || e.phase == gone)
	}
	return e.phase > other.phase
}

// endpoint returns an endpoint of a slice; nil if it has no address.
func (t *targets) endpoint(svc *corev1.Service, in *discoveryv1.Endpoint, port int) *endpoint {
	if len(in.Addresses) == 0 {
		return nil
	}
	address, err := netip.ParseAddr(in.Addresses[0])
	if err != nil || !address.Is4() {
		t.problem("address "+in.Addresses[0], "want an IPv4 address")
		return nil
	}
	e := &endpoint{key: address.String(), address: address, port: port}
	if in.NodeName != nil {
		e.node = *in.NodeName
	}
	var pod *corev1.Pod
	if ref := in.TargetRef; ref != nil && ref.Kind == "Pod" {
		e.pod, e.key = ref.Name, cmp.Or(string(ref.UID), e.key)
		if t.cluster.Pod != nil {
			pod = t.cluster.Pod(ref.Name)
		}
		if pod != nil && ref.UID != "" && pod.UID != ref.UID {
			pod = nil
		}
	}
	is := func(b *bool, unknown bool) bool { return b == nil && unknown || b != nil && *b }
	isReady := is(in.Conditions.Ready, true)
	serves := is(in.Conditions.Serving, isReady)
	terminates := is(in.Conditions.Terminating, false)
	if pod != nil {
		terminates = terminates || pod.DeletionTimestamp != nil
		serves = serves && condition(pod, corev1.ContainersReady) != corev1.ConditionFalse
		ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
		terminates, serves = terminates || ended, serves && !ended
		// The pod knows earlier than the slice, unless the Service wants those that are not ready, too.
		if !svc.Spec.PublishNotReadyAddresses {
			isReady = condition(pod, corev1.PodReady) == corev1.ConditionTrue
		}
	}
	switch {
	case terminates && serves:
		e.phase = leaving
	case terminates:
		e.phase = gone
	case isReady:
		e.phase = ready
	case pod != nil && waitsForGate(pod):
		e.phase = starting
	default:
		e.phase = broken
	}
	return e
}

func condition(pod *corev1.Pod, of corev1.PodConditionType) corev1.ConditionStatus {
	for _, c := range pod.Status.Conditions {
		if c.Type == of {
			return c.Status
		}
	}
	return corev1.ConditionUnknown
}

// reasonGates is the reason that kubelet gives for Ready False if all containers are ready and a gate is not
// (ReadinessGatesNotReady of k8s.io/kubernetes/pkg/kubelet/status).
const reasonGates = "ReadinessGatesNotReady"

// waitsForGate reports whether a pod would be ready but for a gate of ours. When the gate has just opened,
// kubelet has not yet said so: it still gives the gates as the reason.
func waitsForGate(pod *corev1.Pod) bool {
	if condition(pod, corev1.ContainersReady) != corev1.ConditionTrue {
		return false
	}
	ours, shut := false, false
	for _, g := range pod.Spec.ReadinessGates {
		open := condition(pod, g.ConditionType) == corev1.ConditionTrue
		if !strings.HasPrefix(string(g.ConditionType), GatePrefix) {
			if !open {
				return false
			}
			continue
		}
		ours, shut = true, shut || !open
	}
	for _, c := range pod.Status.Conditions {
		shut = shut || c.Type == corev1.PodReady && c.Reason == reasonGates
	}
	return ours && shut
}

// weigh returns the weight of an endpoint or node; ok is false if it should not be in the group. in: it is there.
func (t *targets) weigh(key string, p phase, in, anyReady bool, full int) (weight int, ok bool) {
	switch p {
	case ready, starting:
		return full, true
	case leaving:
		if anyReady {
			return 0, in
		}
		return full, in
	case broken:
		since, known := t.cluster.NotReady[key]
		if !known || since.After(t.cluster.Now) {
			since = t.cluster.Now
		}
		until := since.Add(NotReadyFor)
		if !in {
			return 0, false
		}
		t.result.NotReady[key] = since
		if !t.cluster.Now.Before(until) {
			return 0, false
		}
		if t.result.Next.IsZero() || until.Before(t.result.Next) {
			t.result.Next = until
		}
		return 0, true
	}
	return 0, false
}

// pods returns the endpoints themselves as targets.
func (t *targets) pods(endpoints []*endpoint, now []cloud.Backend) []Target {
	instances := map[netip.Addr]string{}
	for _, n := range t.cluster.Nodes {
		if n.Address.IsValid() && n.Instance != "" {
			instances[n.Address] = n.Instance
		}
	}
	type place struct {
		cloud.Backend
		in bool
	}
	places := map[*endpoint]place{}
	anyReady := false
	for _, e := range endpoints {
		p := place{Backend: cloud.Backend{Address: e.address, Port: e.port}}
		at := slices.IndexFunc(now, func(b cloud.Backend) bool {
			return b.Port == e.port && (b.Address == e.address || b.Type == cloud.ServerInstance && b.Server == instances[e.address])
		})
		p.in = at >= 0
		if p.in && e.phase < starting {
			p.Server, p.Type = now[at].Server, now[at].Type // it is there that it leaves
		} else if id := instances[e.address]; id != "" { // a pod in the node's network
			p.Server, p.Type = id, cloud.ServerInstance
		} else if id := t.cluster.ENI(e.address); id != "" {
			p.Server, p.Type = id, cloud.ServerENI
		} else if p.in {
			p.Server, p.Type = now[at].Server, now[at].Type
		} else {
			if e.phase >= starting {
				t.problem(e.String(), fmt.Sprintf("no ENI of the cluster's nodes has its address %s: want a pod in the pods' network of the VPC, or of a node in it", e.address))
			}
			continue
		}
		places[e] = p
		anyReady = anyReady || e.phase == ready
	}
	var list []Target
	for _, e := range endpoints {
		p, ok := places[e]
		if !ok {
			continue
		}
		if p.Weight, ok = t.weigh(e.key, e.phase, p.in, anyReady, t.weight); ok {
			list = append(list, Target{Backend: p.Backend, Pod: e.pod, Terminating: e.phase == leaving})
		}
	}
	return list
}

// nodes returns all nodes as targets.
func (t *targets) nodes(port int, now []cloud.Backend) []Target {
	phases := map[string]phase{}
	// If no node is ready, it is not the nodes that fail but who asks them: all stay as they are.
	unready := leaving
	if slices.ContainsFunc(t.cluster.Nodes, func(n Node) bool { return n.Ready && n.Instance != "" && !n.Excluded }) {
		unready = broken
	}
	for _, n := range t.cluster.Nodes {
		if phases[n.Name] = unready; n.Ready {
			phases[n.Name] = ready
		}
	}
	return t.onNodes(phases, func(string) int { return t.weight }, port, now)
}

// local returns the nodes with endpoints as targets: the weight is their number.
func (t *targets) local(endpoints []*endpoint, port int, now []cloud.Backend) []Target {
	phases, count := map[string]phase{}, map[string]map[phase]int{}
	byName := map[string]Node{}
	for _, n := range t.cluster.Nodes {
		byName[n.Name] = n
	}
	for _, e := range endpoints {
		p := e.phase
		if p == starting {
			p = broken // no load balancer waits for it
		}
		node, known := byName[e.node]
		if !known {
			if p == ready {
				t.problem(e.String(), fmt.Sprintf("its node %q is not known", e.node))
			}
			continue
		}
		if !node.Ready {
			p = min(p, leaving) // as long as Kubernetes takes its endpoints for ready
		}
		if count[e.node] == nil {
			count[e.node] = map[phase]int{}
		}
		count[e.node][p]++
		phases[e.node] = max(phases[e.node], p)
	}
	return t.onNodes(phases, func(node string) int { return min(count[node][phases[node]], 100) }, port, now)
}

// onNodes returns nodes as targets, each with its phase and its weight if it serves.
func (t *targets) onNodes(phases map[string]phase, full func(string) int, port int, now []cloud.Backend) []Target {
	anyReady := false
	for _, n := range t.cluster.Nodes {
		anyReady = anyReady || phases[n.Name] == ready && n.Instance != "" && !n.Excluded
	}
	var list []Target
	for _, n := range t.cluster.Nodes {
		if phases[n.Name] == gone || n.Excluded {
			continue
		}
		if n.Instance == "" {
			t.problem("node "+n.Name, "its ECS instance is not known: want spec.providerID REGION.INSTANCE-ID")
			continue
		}
		in := slices.ContainsFunc(now, func(b cloud.Backend) bool { return b.Server == n.Instance && b.Port == port })
		weight, ok := t.weigh("node "+n.Name, phases[n.Name], in, anyReady, full(n.Name))
		if !ok {
			continue
		}
		list = append(list, Target{Backend: cloud.Backend{Server: n.Instance, Type: cloud.ServerInstance, Address: n.Address, Port: port, Weight: weight}})
	}
	return list
}
