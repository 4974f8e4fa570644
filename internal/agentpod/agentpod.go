// Package agentpod makes pods that run a command of terwayd once on a node, with the agent's mounts and rights: what cleans a node when
// Terway is uninstalled or the node goes to another network. It must not know what the commands do.
package agentpod

import (
	"fmt"
	"path"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// program is what the agent's container runs in the chart's DaemonSets (deploy/chart/templates/agent.yaml, flannel.yaml).
const program = "terwayd"

// shared are the flags that commands have in common with the agent.
var shared = map[string][]string{
	"teardown":  {"state-dir", "socket", "ask-socket", "cni-conf-dir", "cni-bin-dir", "host-root", "proc-sys", "policy-dir"},
	"cni-files": {"cni-conf-dir"},
}

// Spec returns the pod for a command and its further arguments. It goes to the node whatever that is: without network, cordoned, or
// not the agent's. It is an error if the DaemonSet is not the chart's.
func Spec(set *appsv1.DaemonSet, node, command string, args ...string) (*corev1.PodSpec, error) {
	spec := set.Spec.Template.Spec.DeepCopy()
	at := slices.IndexFunc(spec.Containers, func(c corev1.Container) bool { return len(c.Command) > 0 && path.Base(c.Command[0]) == program })
	if at < 0 {
		return nil, fmt.Errorf("DaemonSet %s/%s has no container that runs %s: it is not the chart's", set.Namespace, set.Name, program)
	}
	c := spec.Containers[at]
	flags := slices.DeleteFunc(slices.Clone(c.Args), func(a string) bool {
		name, _, _ := strings.Cut(strings.TrimLeft(a, "-"), "=")
		return !slices.Contains(shared[command], name)
	})
	c.Command, c.Args = c.Command[:1], slices.Concat([]string{command}, flags, args)
	c.Ports, c.LivenessProbe, c.ReadinessProbe, c.StartupProbe, c.Lifecycle = nil, nil, nil, nil, nil
	c.TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
	spec.Containers, spec.InitContainers = []corev1.Container{c}, nil
	spec.RestartPolicy, spec.AutomountServiceAccountToken = corev1.RestartPolicyNever, ptr.To(false)
	// Not by the scheduler; and the kubelet refuses a pod whose selector or affinity is not for its node.
	spec.NodeName, spec.NodeSelector, spec.Affinity = node, nil, nil
	spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	return spec, nil
}
