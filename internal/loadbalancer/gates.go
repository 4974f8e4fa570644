package loadbalancer

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// GatePrefix, with a Service's name after it, is the type of the condition of a readiness gate. The existing
// manager uses the same.
const GatePrefix = "service.readiness.alibabacloud.com/"

// Gate returns the condition type of a Service's readiness gate.
func Gate(service string) corev1.PodConditionType {
	return corev1.PodConditionType(GatePrefix + service)
}

// GatesOf returns the names of the Services whose gates a pod has.
func GatesOf(pod *corev1.Pod) (services []string) {
	for _, g := range pod.Spec.ReadinessGates {
		if name, ours := strings.CutPrefix(string(g.ConditionType), GatePrefix); ours {
			services = append(services, name)
		}
	}
	return services
}

// IsOpen reports whether a pod's gate of a Service is open. It stays so: see Needless.
func IsOpen(pod *corev1.Pod, service string) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == Gate(service) && c.Status == corev1.ConditionTrue
	})
}

// Reasons of the condition of an open gate. A gate that has opened does not shut again: a load balancer whose
// health checks fail must not take all endpoints from the cluster's own Services, too.
const (
	GateHealthy         = "Healthy"             // on every listener
	GateAdded           = "Added"               // to every listener's group, some of which have no health check
	GateServiceGone     = "ServiceGone"         // there is no such Service any more
	GateNotLoadBalancer = "ServiceNotOurs"      // it wants no load balancer of Terway, or is being deleted
	GateNotSelected     = "ServiceSelectsOther" // its selector does not select the pod
	GateNoPort          = "NoSuchPort"          // the pod has none of the ports that its listeners name
)

// Needless returns why a pod needs no gate of a Service, nil if there is no such Service: a reason and a
// message for the condition. ok is false if the pod needs it.
func Needless(name string, svc *corev1.Service, pod map[string]string, s Settings) (reason, message string, ok bool) {
	if svc == nil {
		return GateServiceGone, fmt.Sprintf("there is no Service %s", name), true
	}
	switch _, ours := ProductOf(svc, s); {
	case !ours || !s.PodBackends:
		return GateNotLoadBalancer, fmt.Sprintf("Service %s wants no load balancer of Terway", name), true
	case svc.DeletionTimestamp != nil:
		return GateNotLoadBalancer, fmt.Sprintf("Service %s is being deleted", name), true
	case len(svc.Spec.Selector) == 0 || !labels.SelectorFromSet(svc.Spec.Selector).Matches(labels.Set(pod)):
		return GateNotSelected, fmt.Sprintf("the selector of Service %s does not select the pod", name), true
	}
	return "", "", false
}

// HasPort reports whether a pod can be an endpoint of a Service's port: not if that names a port which no container of
// the pod has (FindPort of k8s.io/endpointslice).
func HasPort(pod *corev1.Pod, port *corev1.ServicePort) bool {
	if port.TargetPort.Type != intstr.String {
		return true
	}
	named := func(p corev1.ContainerPort) bool {
		return p.Name == port.TargetPort.StrVal && cmp.Or(p.Protocol, corev1.ProtocolTCP) == cmp.Or(port.Protocol, corev1.ProtocolTCP)
	}
	return slices.ContainsFunc(Serving(pod), func(c corev1.Container) bool { return slices.ContainsFunc(c.Ports, named) })
}

// Serving returns the containers of a pod that may serve ports: sidecars, which are init containers that keep running,
// are among them.
func Serving(pod *corev1.Pod) []corev1.Container {
	all := slices.Clone(pod.Spec.Containers)
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			all = append(all, c)
		}
	}
	return all
}

// Needs are what a new pod gets for the load balancers whose backend it will be.
type Needs struct {
	// Gates are the condition types of its readiness gates, sorted.
	Gates []corev1.PodConditionType
	// Sleep is for how many seconds its containers wait before they are told to end: connections still come
	// until the load balancer has noticed. 0: they do not wait.
	Sleep int
}

// NeedsOf returns what a pod needs that has these labels, in the namespace of the Services.
func NeedsOf(services []corev1.Service, pod map[string]string, s Settings) (n Needs) {
	for i := range services {
		svc := &services[i]
		if _, _, needless := Needless(svc.Name, svc, pod, s); needless {
			continue
		}
		n.Gates = append(n.Gates, Gate(svc.Name))
		drain, _ := drainSeconds(svc)
		n.Sleep = max(n.Sleep, drain)
	}
	slices.Sort(n.Gates)
	return n
}

// The default of AnnotationDrainSeconds, and its largest value.
const (
	defaultDrain = 15
	longestDrain = 900
)

// drainSeconds returns for how long pods of a Service wait before they end. ok is false if the annotation is
// wrong; then it is the default.
func drainSeconds(svc *corev1.Service) (seconds int, ok bool) {
	v := svc.Annotations[AnnotationDrainSeconds]
	if v == "" {
		return defaultDrain, true
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 || n > longestDrain {
		return defaultDrain, false
	}
	return n, true
}
