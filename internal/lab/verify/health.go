package verify

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"terway.dev/terway/internal/lab/instruments"
)

// restarts returns the number of container restarts of each system pod.
func (e *Env) restarts(ctx context.Context) (map[types.UID]int, error) {
	n, _, err := e.system(ctx)
	return n, err
}

// system counts the restarts of the system's containers and returns one that is not ready.
func (e *Env) system(ctx context.Context) (restarts map[types.UID]int, notReady string, err error) {
	pods, err := e.Client.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, "", fmt.Errorf("list the system's pods: %w", err)
	}
	restarts = map[types.UID]int{}
	for i := range pods.Items {
		p := &pods.Items[i]
		for _, c := range p.Status.ContainerStatuses {
			restarts[p.UID] += int(c.RestartCount)
			if c.State.Running == nil {
				notReady = p.Name + ": " + ended(c)
			}
		}
		if !instruments.PodReady(p) && notReady == "" {
			notReady = p.Name
		}
	}
	return restarts, notReady, nil
}

func ended(c corev1.ContainerStatus) string {
	if t := c.LastTerminationState.Terminated; t != nil {
		return fmt.Sprintf("container %s ended with status %d: %s", c.Name, t.ExitCode, t.Reason)
	}
	return "container " + c.Name + " does not run"
}

// unharmed fails a check during which a system process ended that the check did not kill:
// traffic may continue while an agent crashes. The restarts of pods that the check deleted do
// not count.
func (e *Env) unharmed(ctx context.Context, before map[types.UID]int) error {
	var restarts map[types.UID]int
	var notReady string
	if err := e.Poll(ctx, "every pod of the system to be ready", func() (_ bool, err error) {
		restarts, notReady, err = e.system(ctx)
		return notReady == "", err
	}); err != nil {
		return fmt.Errorf("%w: %s", err, notReady)
	}
	got := 0
	for uid, n := range restarts {
		got += n - before[uid]
	}
	if got != e.Killed {
		return fmt.Errorf("containers of the system were restarted %d times during the check, which killed %d processes", got, e.Killed)
	}
	return nil
}
