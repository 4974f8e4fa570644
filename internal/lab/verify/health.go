package verify

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"terway.dev/terway/internal/lab/instruments"
)

// a container of a pod.
type container struct {
	pod  types.UID
	name string
}

// restarts returns how often each container of the system was restarted.
func (e *Env) restarts(ctx context.Context) (map[container]int, error) {
	all, _, err := e.system(ctx)
	n := map[container]int{}
	for c, s := range all {
		n[c] = int(s.RestartCount)
	}
	return n, err
}

// system returns the state of the system's containers and one that is not ready.
func (e *Env) system(ctx context.Context) (all map[container]corev1.ContainerStatus, notReady string, err error) {
	pods, err := e.Client.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, "", fmt.Errorf("list the system's pods: %w", err)
	}
	all = map[container]corev1.ContainerStatus{}
	for i := range pods.Items {
		p := &pods.Items[i]
		for _, c := range p.Status.ContainerStatuses {
			all[container{p.UID, p.Name + "/" + c.Name}] = c
			if c.State.Running == nil {
				notReady = p.Name + "/" + c.Name + ": " + ended(c)
			}
		}
		if !instruments.PodReady(p) && notReady == "" {
			notReady = p.Name
		}
	}
	return all, notReady, nil
}

func ended(c corev1.ContainerStatus) string {
	t := c.LastTerminationState.Terminated
	if t == nil {
		return "does not run"
	}
	return strings.TrimSpace(fmt.Sprintf("ended with status %d: %s %s", t.ExitCode, t.Reason, t.Message))
}

// unharmed fails a check during which a system process ended that the check did not kill:
// traffic may continue while an agent crashes. The restarts of pods that the check deleted do
// not count.
func (e *Env) unharmed(ctx context.Context, before map[container]int) error {
	var all map[container]corev1.ContainerStatus
	var notReady string
	if err := e.Poll(ctx, "every pod of the system to be ready", func() (_ bool, err error) {
		all, notReady, err = e.system(ctx)
		return notReady == "", err
	}); err != nil {
		return fmt.Errorf("%w: %s", err, notReady)
	}
	got := 0
	var which []string
	for c, s := range all {
		if n := int(s.RestartCount) - before[c]; n > 0 {
			got += n
			which = append(which, fmt.Sprintf("%s (%d, the last one %s)", c.name, n, ended(s)))
		}
	}
	if got != e.Killed {
		return fmt.Errorf("containers of the system were restarted %d times during the check, which killed %d processes: %s", got, e.Killed, strings.Join(which, "; "))
	}
	return nil
}
