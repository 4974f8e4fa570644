package connectivity

import (
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"terway.dev/terway/internal/cli/agents"
	"terway.dev/terway/internal/datapath/claims"
)

const (
	port        = 8080
	servicePort = 80
	container   = "probe"
	// nobody is the user of the pods.
	nobody = 65534
	// life is how long pods live beyond their start at most, if nobody removes them; a run is shorter.
	life = 5 * time.Minute
)

// newNamespace is for pods that need no right at all, which the API server holds them to.
func newNamespace(name string, until time.Time) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name,
		Labels: map[string]string{
			claims.LabelConnectivity:             "true",
			"pod-security.kubernetes.io/enforce": "restricted",
		},
		Annotations: map[string]string{claims.AnnotationConnectivityUntil: until.UTC().Format(time.RFC3339)},
	}}
}

// newPod is a pod that answers probes, and in which they are sent. It goes to its node without the
// scheduler: also if the node is cordoned or tainted, as it may be because of what is looked for.
func newPod(namespace, name, node, image string, exclusive bool, lives time.Duration) *corev1.Pod {
	seconds := int64(lives.Seconds())
	resources := corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
		Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("256Mi")},
	}
	if exclusive {
		resources.Requests[claims.ResourceENI], resources.Limits[claims.ResourceENI] = resource.MustParse("1"), resource.MustParse("1")
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{claims.LabelConnectivity: name}},
		Spec: corev1.PodSpec{
			NodeName:                      node,
			RestartPolicy:                 corev1.RestartPolicyNever,
			ActiveDeadlineSeconds:         &seconds,
			TerminationGracePeriodSeconds: new(int64),
			AutomountServiceAccountToken:  new(bool),
			EnableServiceLinks:            new(bool),
			Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: ptr(true), RunAsUser: ptr(int64(nobody)), RunAsGroup: ptr(int64(nobody)),
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{{
				Name: container, Image: image, ImagePullPolicy: corev1.PullIfNotPresent,
				Command: []string{agents.Program, "probe", "serve", "--port=" + strconv.Itoa(port)},
				Ports:   []corev1.ContainerPort{{ContainerPort: port}},
				ReadinessProbe: &corev1.Probe{
					ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(port)}},
					PeriodSeconds: 1,
				},
				Resources:                resources,
				TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
				SecurityContext: &corev1.SecurityContext{
					AllowPrivilegeEscalation: ptr(false), ReadOnlyRootFilesystem: ptr(true),
					Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				},
			}},
		},
	}
}

// newService has one pod as its only backend, so that it is known which way a packet takes.
func newService(namespace, name, pod string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{claims.LabelConnectivity: pod},
			Ports:    []corev1.ServicePort{{Port: servicePort, TargetPort: intstr.FromInt32(port)}},
		},
	}
}

func ptr[T any](v T) *T { return &v }

// ready says whether a pod serves.
func ready(p *corev1.Pod) bool {
	if p.Status.PodIP == "" || p.DeletionTimestamp != nil {
		return false
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// why says why a pod does not serve: what its container or the kubelet says, or else the last event.
func why(p *corev1.Pod, events []corev1.Event) string {
	for _, s := range p.Status.ContainerStatuses {
		if t := s.State.Terminated; t != nil {
			return fmt.Sprintf("its program has ended with %d: %s", t.ExitCode, t.Message)
		}
		if w := s.State.Waiting; w != nil && w.Message != "" {
			return w.Reason + ": " + w.Message
		}
	}
	if p.Status.Phase == corev1.PodFailed {
		return p.Status.Reason + ": " + p.Status.Message
	}
	last := ""
	var at time.Time
	for _, e := range events {
		when := e.LastTimestamp.Time
		if when.IsZero() {
			when = e.EventTime.Time
		}
		if e.InvolvedObject.Name == p.Name && e.Type == corev1.EventTypeWarning && !when.Before(at) {
			last, at = e.Reason+": "+e.Message, when
		}
	}
	switch {
	case last != "":
		return last
	case p.Status.PodIP == "":
		return "it has no address, and no event says why: does the kubelet of its node work?"
	}
	return "it has address " + p.Status.PodIP + ", and its node's kubelet gets no answer from it"
}
