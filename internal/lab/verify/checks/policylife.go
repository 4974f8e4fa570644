package checks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/lab/instruments"
)

// starts and jobs are how many pods policy-no-open-window and policy-first-packet start; fewStarts it is if each needs an ENI.
const (
	starts    = 50
	fewStarts = 10
	jobs      = 100
)

// silentPort is a port of the server at which a check counts and nothing answers.
const silentPort = 9100

var policyNoOpenWindow = policyCheck("policy-no-open-window",
	fmt.Sprintf("of %d pods (with exclusive ENIs %d) whose first instruction sends, and that may send nothing, no packet arrives; those of a pod that may do", starts, fewStarts),
	func(ctx context.Context, c *cast) (string, error) {
		if err := c.e.apply(ctx, `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: quiet}
spec: {podSelector: {matchLabels: {sends: nothing}}, policyTypes: [Egress]}
`); err != nil {
			return "", err
		}
		heard := map[string]int{} // packets by sender; read when the socket is closed
		var socket net.PacketConn
		if err := kernel.InNSAt(c.netns["server"], func() (err error) {
			socket, err = net.ListenPacket("udp", fmt.Sprintf(":%d", silentPort))
			return err
		}); err != nil {
			return "", err
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for buf := make([]byte, 64); ; {
				_, from, err := socket.ReadFrom(buf)
				if err != nil {
					return // closed
				}
				heard[from.(*net.UDPAddr).IP.String()]++
			}
		}()
		defer socket.Close()
		burst, err := c.e.Burst(ctx)
		if err != nil {
			return "", err
		}
		// Five packets, the first at once, the last half a second later.
		send := fmt.Sprintf("for i in 1 2 3 4 5; do /agnhost connect --protocol=udp --timeout=100ms %s; done; exit 0", net.JoinHostPort(c.addr["server"], strconv.Itoa(silentPort)))
		sender := func(name string, labels map[string]string) *corev1.Pod {
			spec := c.e.PodSpec("")
			spec.NodeSelector, spec.RestartPolicy = nil, corev1.RestartPolicyNever
			spec.Containers[0].Command, spec.Containers[0].Args, spec.Containers[0].ReadinessProbe = []string{"/bin/sh", "-c", send}, nil, nil
			return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: spec}
		}
		starts := starts
		if c.e.AllExclusive() {
			starts = fewStarts
		}
		of := map[string]string{}
		for first := 0; first < starts; first += int(burst) {
			var wave []*corev1.Pod
			for i := first; i < min(first+int(burst), starts); i++ {
				wave = append(wave, sender(fmt.Sprintf("quiet-%d", i), map[string]string{"sends": "nothing"}))
			}
			if first == 0 {
				wave = append(wave, sender("loud", nil))
			}
			if err := c.e.runToEnd(ctx, wave, of); err != nil {
				return "", err
			}
		}
		if err := socket.Close(); err != nil {
			return "", err
		}
		<-done
		loud := heard[of["loud"]]
		delete(heard, of["loud"])
		measured := fmt.Sprintf("%d starts, %d packets of them arrived; of a pod that may send %d of 5", starts, sum(heard), loud)
		if loud == 0 || len(heard) > 0 {
			return measured, fmt.Errorf("packets of pods that may send nothing: %v; of the one that may: %d of 5", heard, loud)
		}
		return measured, nil
	})

func sum(of map[string]int) (n int) {
	for _, k := range of {
		n += k
	}
	return n
}

// runToEnd runs pods until all have ended well, notes their addresses, and deletes them.
func (e *env) runToEnd(ctx context.Context, pods []*corev1.Pod, addresses map[string]string) error {
	api := e.Client.CoreV1().Pods(e.Namespace)
	for _, p := range pods {
		if _, err := api.Create(ctx, p, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create pod %s: %w", p.Name, err)
		}
	}
	for _, p := range pods {
		if err := e.Poll(ctx, "pod "+p.Name+" to end", func() (bool, error) {
			now, err := api.Get(ctx, p.Name, metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			if now.Status.PodIP != "" {
				addresses[p.Name] = now.Status.PodIP
			}
			if now.Status.Phase == corev1.PodFailed {
				return false, fmt.Errorf("it failed: %s", now.Status.Message)
			}
			return now.Status.Phase == corev1.PodSucceeded, nil
		}); err != nil {
			return err
		}
	}
	for _, p := range pods {
		if err := api.Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
			return fmt.Errorf("delete pod %s: %w", p.Name, err)
		}
	}
	return nil
}

var policyFirstPacket = once(policyCheck("policy-first-packet",
	fmt.Sprintf("%d short Jobs, whose pods a rule of pods on both nodes lets in, open a connection to each at once, and none fails", jobs),
	func(ctx context.Context, c *cast) (string, error) {
		if err := c.e.apply(ctx, `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: jobs}
spec:
  podSelector: {matchExpressions: [{key: app, operator: In, values: [server, far]}]}
  ingress: [{from: [{podSelector: {matchLabels: {app: job}}}], ports: [{port: 8080}]}]
`); err != nil {
			return "", err
		}
		if err := c.judged(ctx, "for others", `
			near > server tcp/8080 no
			near > far    tcp/8080 no`); err != nil {
			return "", err
		}
		burst, err := c.e.Burst(ctx)
		if err != nil {
			return "", err
		}
		n := func(n int32) *int32 { return &n }
		spec := c.e.PodSpec("")
		spec.NodeSelector, spec.RestartPolicy = nil, corev1.RestartPolicyNever
		main := &spec.Containers[0]
		// A SYN is repeated after a second: one that is lost makes it fail.
		try := "/agnhost connect --timeout=900ms "
		main.Command, main.Args, main.ReadinessProbe = []string{"/bin/sh", "-c", try + c.addr["server"] + ":8080 && " + try + c.addr["far"] + ":8080"}, nil, nil
		job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "first"}, Spec: batchv1.JobSpec{
			Completions: n(jobs), Parallelism: n(min(burst, 12)), BackoffLimit: n(jobs),
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "job"}}, Spec: spec},
		}}
		api := c.e.Client.BatchV1().Jobs(c.e.Namespace)
		if _, err := api.Create(ctx, job, metav1.CreateOptions{}); err != nil {
			return "", fmt.Errorf("create a Job: %w", err)
		}
		began := time.Now()
		var s batchv1.JobStatus
		if err := c.e.Poll(ctx, "the Job to complete", func() (bool, error) {
			j, err := api.Get(ctx, job.Name, metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			s = j.Status
			return s.Succeeded >= jobs || s.Failed > jobs, nil
		}); err != nil {
			return "", fmt.Errorf("%w: %d succeeded, %d failed", err, s.Succeeded, s.Failed)
		}
		background := metav1.DeletePropagationBackground
		if err := api.Delete(ctx, job.Name, metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
			return "", fmt.Errorf("delete the Job: %w", err)
		}
		measured := fmt.Sprintf("%d pods opened 2 connections each in %.0f s, %d pods failed", s.Succeeded, time.Since(began).Seconds(), s.Failed)
		if s.Failed > 0 {
			return measured, fmt.Errorf("%d pods could not open a connection that a rule allows", s.Failed)
		}
		return measured, nil
	}))

// allowTo lets pods by their label app, and no others, into the server.
func (c *cast) allowTo(ctx context.Context, apps ...string) error {
	return c.e.apply(ctx, fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: server}
spec: {podSelector: {matchLabels: {app: server}}, ingress: [{from: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [%s]}]}}]}]}
`, strings.Join(apps, ", ")))
}

// echo returns where a pod echoes.
func (c *cast) echo(name string) string {
	return net.JoinHostPort(c.addr[name], strconv.Itoa(instruments.TrafficPort))
}

// updates is how often policy-running-connection changes its policy.
const updates = 200

var policyRunningConnection = policyCheck("policy-running-connection",
	fmt.Sprintf("a change of a policy cuts running connections and lets them go on; while it changes %d times, allowed ones exchange data, new ones open, and a 1 kHz UDP stream loses no packet. "+
		"The time from the write to the API server to the first packet that is judged by it is measured", updates),
	func(ctx context.Context, c *cast) (string, error) {
		c.echoes.Close() // the traffic has its own
		traffic, err := instruments.StartTraffic(c.pods["far"], []corev1.Pod{c.pods["server"]}, "")
		if err != nil {
			return "", err
		}
		stop := func() instruments.TrafficReport { r := traffic.Stop(); traffic = nil; return r }
		defer func() {
			if traffic != nil {
				traffic.Stop()
			}
		}()
		if err := c.allowTo(ctx, "far", "near"); err != nil {
			return "", err
		}
		cut, err := c.cuts(ctx)
		if err != nil {
			return "", err
		}
		asks, err := instruments.AskVerdicts(ctx, c.netns["near"], c.netns["server"], c.addr["server"], silentPort)
		if err != nil {
			return "", err
		}
		defer asks.Close()
		var took []time.Duration
		for i := range updates {
			allowed := i%2 == 0 // cuts leaves near denied
			apps := []string{"far"}
			if allowed {
				apps = append(apps, "near")
			}
			wrote := time.Now()
			if err := c.allowTo(ctx, apps...); err != nil {
				return "", err
			}
			at, err := asks.Await(ctx, wrote, allowed, policyPatience)
			if err != nil {
				return "", fmt.Errorf("update %d: %w", i+1, err)
			}
			took = append(took, at.Sub(wrote))
		}
		r := stop()
		measured := fmt.Sprintf("a running TCP connection was cut %s after the write; of %d updates each was in force after p50 %s, p99 %s; meanwhile %s",
			cut.Round(time.Millisecond), updates, instruments.Quantile(took, 0.5), instruments.Quantile(took, 0.99), r)
		return measured, errors.Join(r.Err(), r.LostNone())
	})

// cuts denies a pod that exchanges data, and returns how long after the write the last answer came.
func (c *cast) cuts(ctx context.Context) (time.Duration, error) {
	talk, err := instruments.OpenTalk(ctx, c.netns["near"], c.echo("server"))
	if err != nil {
		return 0, err
	}
	defer talk.Close()
	if err := c.judged(ctx, "by the first policy", `
		near > server tcp/9000 yes`); err != nil {
		return 0, err
	}
	if since := time.Since(talk.Last()); since > time.Second {
		return 0, errors.Join(fmt.Errorf("a running connection that rules allow has no answer for %s", since.Round(time.Millisecond)), talk.Err())
	}
	wrote := time.Now()
	if err := c.allowTo(ctx, "far"); err != nil {
		return 0, err
	}
	var last time.Time
	err = c.e.within(ctx, policyPatience, "a running connection to be cut", func(context.Context) (bool, error) {
		last = talk.Last()
		return time.Since(last) > time.Second, nil
	})
	return last.Sub(wrote), err
}
