package checks

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

// wrongLimits are values that nobody may take for a limit, or for none.
var wrongLimits = []struct{ key, value string }{
	{bandwidth.Ingress, "10m"}, {bandwidth.Egress, "fast"}, {bandwidth.IngressBytes, "10"}, {bandwidth.EgressBytes, "1e6"},
}

var bandwidthWrongValue = verify.Check{
	Name: "bandwidth-wrong-value",
	About: "a pod with a wrong limit is refused with annotation, value and a right one, and so is such a change; without a controller the pod is created, " +
		"does not start, and its event says the same, and a changed pod keeps the limit that it had",
	NotFor: noLimitsOfFlannel,
	Once:   true,
	Run: run(func(ctx context.Context, e *env) (_ string, err error) {
		m := e.Lab.Machines[0]
		right := bandwidth.Limits{Egress: limitBits}
		if err := e.CreateAnnotated(ctx, "limited", map[string]string{bandwidth.Egress: limitText}, e.PodSpec(m.Name), metav1.CreateOptions{}); err != nil {
			return "", err
		}
		if _, err := e.Ready(ctx, "limited"); err != nil {
			return "", err
		}
		dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
		for _, w := range wrongLimits {
			if err := refusal(w.key, w.value, e.CreateAnnotated(ctx, "wrong", map[string]string{w.key: w.value}, e.PodSpec(m.Name), dry)); err != nil {
				return "", fmt.Errorf("a new pod: %w", err)
			}
			if err := refusal(w.key, w.value, e.annotate(ctx, "limited", map[string]any{w.key: w.value})); err != nil {
				return "", fmt.Errorf("a changed pod: %w", err)
			}
		}
		if err := e.enforces(ctx, m, "limited", right); err != nil {
			return "", err
		}
		measured := fmt.Sprintf("%d wrong values refused, for new pods and for a running one", len(wrongLimits))
		began := time.Now()
		stage := func(what string) { measured += fmt.Sprintf("; %s after %.1f s", what, time.Since(began).Seconds()) }
		defer func() { err = errors.Join(err, e.putControllerBackSurely(ctx)) }()
		if err := e.changeController(ctx, func(d *appsv1.DeploymentSpec) { d.Replicas = new(int32) }); err != nil {
			return measured, err
		}
		stage("no controller")
		// The container runtime knows nothing of this annotation: the answer is Terway's.
		const key, value = bandwidth.EgressBytes, "10"
		if err := e.CreateAnnotated(ctx, "wrong", map[string]string{key: value}, e.PodSpec(m.Name), metav1.CreateOptions{}); err != nil {
			return measured, fmt.Errorf("without a controller: %w", err)
		}
		if err := e.annotate(ctx, "limited", map[string]any{bandwidth.Egress: "10m"}); err != nil {
			return measured, fmt.Errorf("without a controller: %w", err)
		}
		event, err := e.eventOf(ctx, "wrong", "FailedCreatePodSandBox", key, fmt.Sprintf("%q", value), "such as")
		if err != nil {
			return measured, err
		}
		stage(fmt.Sprintf("an event of a pod that does not start (%s)", event[max(0, strings.Index(event, "annotation ")):]))
		if err := e.DeletePod(ctx, "wrong"); err != nil {
			return measured, err
		}
		if err := e.putControllerBack(ctx); err != nil {
			return measured, err
		}
		stage("a controller")
		if _, err := e.eventOf(ctx, "limited", "BandwidthLimitInvalid", bandwidth.Egress, `"10m"`); err != nil {
			return measured, err
		}
		stage("its event of the running pod")
		return measured + ", which keeps " + right.String(), e.enforces(ctx, m, "limited", right)
	}),
}

// refusal returns an error unless err is the API server's refusal that names annotation, value, and a right value.
func refusal(key, value string, err error) error {
	if err == nil {
		return fmt.Errorf("annotation %s: %q was accepted", key, value)
	}
	for _, word := range []string{key, fmt.Sprintf("%q", value), "such as"} {
		if !strings.Contains(err.Error(), word) {
			return fmt.Errorf("annotation %s: %q was refused without %s: %w", key, value, word, err)
		}
	}
	return nil
}

// eventOf waits for an event of a pod with all of the words, and returns it.
func (e *env) eventOf(ctx context.Context, pod string, words ...string) (line string, err error) {
	var all []string
	if err := e.Poll(ctx, fmt.Sprintf("an event of pod %s with %q", pod, words), func() (_ bool, err error) {
		if all, err = e.Events(ctx, pod); err != nil {
			return false, err
		}
		line = instruments.WithWords(all, words...)
		return line != "", nil
	}); err != nil {
		return "", fmt.Errorf("%w; it has %q", err, all)
	}
	return line, nil
}

// enforces waits until the agent says that it enforces exactly these limits of a pod.
func (e *env) enforces(ctx context.Context, m lab.Machine, pod string, want bandwidth.Limits) error {
	var got bandwidth.Limits
	if err := e.Poll(ctx, fmt.Sprintf("%s to limit pod %s: %s", m.Name, pod, want), func() (bool, error) {
		all, err := e.limitsOn(ctx, m.Name)
		got = all[pod]
		return got == want, err
	}); err != nil {
		return fmt.Errorf("%w; it says %s", err, got)
	}
	return nil
}

var bandwidthNoTrace = verify.Check{
	Name:   "bandwidth-no-trace",
	About:  "pods with limits end, some of them while the agent is killed: no queue, device, map entry or record of theirs is left on the node",
	NotFor: noLimitsOfFlannel,
	Run: run(func(ctx context.Context, e *env) (string, error) {
		m := e.Lab.Machines[0]
		// Some end before the agent is killed, and some after.
		pods, err := e.RoomOn(ctx, m, 2, 4)
		if err != nil {
			return "", err
		}
		// Pods of a check before may still be ending.
		var left []string
		gone := func(what string, addrs []netip.Addr, uids map[string]bool) error {
			err := e.Poll(ctx, what+" to be gone", func() (_ bool, err error) {
				left, err = e.limitTraces(ctx, m, addrs, uids)
				return len(left) == 0, err
			})
			if err != nil {
				return fmt.Errorf("%w; left: %s", err, strings.Join(left, ", "))
			}
			return nil
		}
		if err := gone("traces of earlier pods' limits", nil, nil); err != nil {
			return "", err
		}
		var names []string
		for i := range pods {
			names = append(names, fmt.Sprintf("limited%d", i+1))
			if err := e.CreateAnnotated(ctx, names[i], map[string]string{bandwidth.Ingress: limitText, bandwidth.Egress: limitText}, e.PodSpec(m.Name), metav1.CreateOptions{}); err != nil {
				return "", err
			}
		}
		ends, err := e.ends(ctx, names...)
		if err != nil {
			return "", err
		}
		running, err := e.podsOf(ctx)
		if err != nil {
			return "", err
		}
		var addrs []netip.Addr
		for _, end := range ends {
			addrs = append(addrs, end.Addr)
		}
		uids := map[string]bool{}
		for _, p := range running {
			uids[string(p.UID)] = true
		}
		// What would be looked for in vain must be found now.
		if err := e.Poll(ctx, "the node to report the pods' limits", func() (bool, error) {
			all, err := e.limitsOn(ctx, m.Name)
			return len(all) == pods, err
		}); err != nil {
			return "", err
		}
		there, err := e.limitTraces(ctx, m, addrs, uids)
		if err == nil {
			err = enoughTraces(e.Datapath(), there, pods)
		}
		if err != nil {
			return "", err
		}
		inPods := 0
		for _, end := range ends {
			list, err := instruments.Shapers(ctx, end.NetNS)
			if err != nil {
				return "", err
			}
			if len(list) == 0 {
				return "", fmt.Errorf("pod %s has no queue", end.Addr)
			}
			inPods += len(list)
		}
		if err := e.endWithoutAgent(ctx, m, names); err != nil {
			return "", err
		}
		if err := gone("all traces of the pods' limits", addrs, uids); err != nil {
			return "", err
		}
		return fmt.Sprintf("%d pods with limits had %d traces on %s and %d queues and devices inside; half of them ended while the agent was killed; none is left", pods, len(there), m.Name, inPods), nil
	}),
}

// enoughTraces returns an error if traces of so many pods are missing: they would be looked for in vain afterwards.
func enoughTraces(datapath string, found []string, pods int) error {
	want := []string{"status.used "}
	if datapath != instruments.Exclusive && datapath != claims.IPvlan { // there queues are in the pods alone
		want = append(want, "htb of ")
	}
	if datapath == claims.EBPF || datapath == claims.Netkit {
		want = append(want, mapEntry)
	}
	for _, kind := range want {
		n := 0
		for _, f := range found {
			if strings.HasPrefix(f, kind) {
				n++
			}
		}
		if n < pods {
			return fmt.Errorf("%d pods with limits on %s have %d traces %q, want %d: %s", pods, datapath, n, kind, pods, strings.Join(found, ", "))
		}
	}
	return nil
}

const mapEntry = "map entry"

// endWithoutAgent deletes pods: half of them, and the others when the node's agent has just been killed.
func (e *env) endWithoutAgent(ctx context.Context, m lab.Machine, names []string) error {
	now := metav1.DeleteOptions{GracePeriodSeconds: new(int64)}
	for i, name := range names {
		if i == len(names)/2 {
			n, err := instruments.Kill(agentName, m)
			if err != nil {
				return err
			}
			e.Killed += n
		}
		if err := e.Client.CoreV1().Pods(e.Namespace).Delete(ctx, name, now); err != nil {
			return fmt.Errorf("delete pod %s: %w", name, err)
		}
	}
	_, err := e.Consistent(ctx)
	return err
}

// limitTraces returns what a node has of pods' limits: queues and devices in its own network namespace, entries of maps with
// the addresses, and records with the UIDs.
func (e *env) limitTraces(ctx context.Context, m lab.Machine, addrs []netip.Addr, uids map[string]bool) ([]string, error) {
	found, err := instruments.Shapers(ctx, m.NetNS)
	if err != nil {
		return nil, err
	}
	n, err := instruments.EndsEntries(addrs)
	if err != nil {
		return nil, err
	}
	for range n {
		found = append(found, mapEntry)
	}
	nn, err := e.NodeNetwork(ctx, m.Name)
	if err != nil {
		return nil, err
	}
	for _, l := range nn.Spec.PodLimits {
		if uids[l.UID] {
			found = append(found, "spec.podLimits "+l.UID)
		}
	}
	for _, u := range nn.Status.Used {
		if u.Limits != nil && uids[u.Limits.UID] {
			found = append(found, "status.used "+u.Pod)
		}
	}
	return found, nil
}

// limitsOn returns the limits that a node's agent says it enforces, by the pod's name, in the check's namespace.
func (e *env) limitsOn(ctx context.Context, node string) (map[string]bandwidth.Limits, error) {
	nn, err := e.NodeNetwork(ctx, node)
	if err != nil {
		return nil, err
	}
	found := map[string]bandwidth.Limits{}
	for _, u := range nn.Status.Used {
		if name, here := strings.CutPrefix(u.Pod, e.Namespace+"/"); here && u.Limits != nil {
			found[name] = bandwidth.Limits{Ingress: uint64(u.Limits.Ingress), Egress: uint64(u.Limits.Egress)}
		}
	}
	return found, nil
}

// podsOf returns the pods of the check's namespace.
func (e *env) podsOf(ctx context.Context) ([]corev1.Pod, error) {
	list, err := e.Client.CoreV1().Pods(e.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	return list.Items, nil
}
