package checks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/lab/instruments"
)

// onlyFar lets far alone into the server and lets the server answer it alone.
const onlyFar = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: server}
spec:
  podSelector: {matchLabels: {app: server}}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{podSelector: {matchLabels: {app: far}}}]}]
  egress: [{to: [{podSelector: {matchLabels: {app: far}}}]}]
`

// farAlone are the rows of onlyFar.
const farAlone = `
	far    > server tcp/8080 yes
	far    > server udp/9000 yes
	near   > server tcp/8080 no
	near   > server udp/9000 no
	server > near   tcp/8080 no
	server > far    udp/9000 yes`

var policyAgentRestart = once(policyCheck("policy-agent-restart",
	"kill -9 of every agent: while none runs, and while the next ones start, what is denied stays so and what is allowed passes; the next ones enforce the next change",
	func(ctx context.Context, c *cast) (string, error) {
		if err := c.e.apply(ctx, onlyFar); err != nil {
			return "", err
		}
		if err := c.judged(ctx, "before", farAlone); err != nil {
			return "", err
		}
		allowed := &instruments.Probe{NetNS: c.netns["far"], To: c.addr["server"]}
		denied := &instruments.Probe{NetNS: c.netns["near"], To: c.addr["server"]}
		for _, p := range []*instruments.Probe{allowed, denied} {
			p.Start()
		}
		began := time.Now()
		killed, err := instruments.Kill(agentName, c.e.Lab.Machines...)
		c.e.Killed += killed
		if err == nil {
			err = c.e.agentsAgain(ctx, began)
		}
		if err == nil {
			// The next agents have read what there is.
			time.Sleep(2 * time.Second)
		}
		for _, p := range []*instruments.Probe{allowed, denied} {
			p.Stop()
		}
		if err != nil {
			return "", err
		}
		sent, answered := allowed.Count()
		cut, passed := denied.Count()
		measured := fmt.Sprintf("%d agents killed; of %d allowed requests %d were answered, longest gap %d ms, of %d denied ones %d", killed, sent, answered, allowed.Gap().Milliseconds(), cut, passed)
		if sent != answered || passed > 0 {
			return measured, errors.New("want all that is allowed to be answered, and nothing else")
		}
		if err := c.allowTo(ctx, "near"); err != nil {
			return measured, err
		}
		return measured, c.judged(ctx, "after", `
			far  > server tcp/8080 no
			near > server udp/9000 yes`)
	}))

// agentsAgain waits until an agent that was killed since then runs again on each node.
func (e *env) agentsAgain(ctx context.Context, since time.Time) error {
	return e.Poll(ctx, "an agent to run on each node", func() (bool, error) {
		pods, err := e.Client.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{LabelSelector: "app=" + agentName})
		if err != nil {
			return false, err
		}
		// The kubelet may not have seen yet that one ended.
		ready := 0
		for _, m := range e.Lab.Machines {
			for _, p := range pods.Items {
				if p.Spec.NodeName == m.Name && instruments.PodReady(&p) && len(p.Status.ContainerStatuses) == 1 {
					if t := p.Status.ContainerStatuses[0].LastTerminationState.Terminated; t != nil && !t.FinishedAt.Time.Before(since.Truncate(time.Second)) {
						ready++
					}
				}
			}
		}
		return ready == len(e.Lab.Machines), nil
	})
}

var policyConnectionsFull = once(policyCheck("policy-connections-full",
	"a pod opens more connections than the programs remember: one from before, which is idle, goes on, new ones that rules allow open, one that was cut stays so, and what is denied is denied",
	func(ctx context.Context, c *cast) (string, error) {
		idle, err := c.hold(ctx, "far", "server")
		if err != nil {
			return "", err
		}
		defer idle.Close()
		cut, err := c.hold(ctx, "near", "server")
		if err != nil {
			return "", err
		}
		defer cut.Close()
		if err := c.e.apply(ctx, onlyFar); err != nil {
			return "", err
		}
		if err := c.judged(ctx, "before", farAlone); err != nil {
			return "", err
		}
		sizes, err := fastpath.SizesFor(0)
		if err != nil {
			return "", err
		}
		room := int(sizes.Known4 + sizes.Known6)
		began := time.Now()
		sent, err := c.flood("far", "server", room+room/8)
		if err != nil {
			return "", err
		}
		measured := fmt.Sprintf("%d connections in %.1f s for %d places", sent, time.Since(began).Seconds(), room)
		if err := exchange(idle, true); err != nil {
			return measured, fmt.Errorf("an idle connection from before: %w", err)
		}
		if err := exchange(cut, false); err != nil {
			return measured, fmt.Errorf("a connection that was cut: %w", err)
		}
		return measured, c.judged(ctx, "afterwards", farAlone)
	}))

// hold opens a connection that has exchanged data, and leaves it idle.
func (c *cast) hold(ctx context.Context, from, to string) (net.Conn, error) {
	var conn net.Conn
	err := kernel.InNSAt(c.netns[from], func() (err error) {
		d := net.Dialer{Timeout: policyPatience}
		conn, err = d.DialContext(ctx, "tcp", c.echo(to))
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := exchange(conn, true); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// exchange sends a byte, which is to come back, or is not.
func exchange(conn net.Conn, want bool) error {
	patience := time.Second
	if want {
		patience = 5 * time.Second
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err := conn.Write([]byte{1})
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	if want {
		return err
	}
	if err == nil {
		return errors.New("it was answered")
	}
	return nil
}

// flood sends a datagram for each of n connections from a pod to another, which differ by their ports.
func (c *cast) flood(from, to string, n int) (sent int, err error) {
	err = kernel.InNSAt(c.netns[from], func() error {
		for sent < n {
			socket, err := net.ListenPacket("udp", ":0")
			if err != nil {
				return err
			}
			defer socket.Close()
			peer := &net.UDPAddr{IP: net.ParseIP(c.addr[to])}
			for peer.Port = 10000; peer.Port < 60000 && sent < n; peer.Port++ {
				if _, err := socket.WriteTo([]byte{1}, peer); err != nil {
					return err
				}
				sent++
			}
		}
		return nil
	})
	return sent, err
}

var policyHubDown = trouble(policyCheck("policy-hub-down",
	"without a policy hub running pods keep their rules, also when the agents are killed; a pod of a namespace with policies waits and its event says for what, one of another namespace starts; when it is back the pod starts",
	func(ctx context.Context, c *cast) (_ string, err error) {
		e := c.e
		na, nb, err := e.TwoNodes()
		if err != nil {
			return "", err
		}
		if err := e.apply(ctx, onlyFar); err != nil {
			return "", err
		}
		if err := c.judged(ctx, "before", farAlone); err != nil {
			return "", err
		}
		free := *e.Env
		other := &env{&free}
		if err := other.MakeNamespace(ctx, metav1.ObjectMeta{GenerateName: "verify-policy-hub-down-", Labels: map[string]string{ofCheck: "policy-hub-down"}}); err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, other.Empty(context.WithoutCancel(ctx), other.Namespace)) }()
		defer func() { err = errors.Join(err, e.putControllerBackSurely(ctx)) }()
		none := int32(0)
		if err := e.changeController(ctx, func(d *appsv1.DeploymentSpec) { d.Replicas = &none }); err != nil {
			return "", err
		}
		if err := c.judged(ctx, "without a hub", farAlone); err != nil {
			return "", err
		}
		killed, err := instruments.Kill(agentName, e.Lab.Machines...)
		e.Killed += killed
		if err != nil {
			return "", err
		}
		if err := c.judged(ctx, "without a hub and agents", farAlone); err != nil {
			return "", err
		}
		if err := e.CreatePod(ctx, "waits", e.PodSpec(na.Name)); err != nil {
			return "", err
		}
		if err := other.CreatePod(ctx, "starts", other.PodSpec(nb.Name)); err != nil {
			return "", err
		}
		if _, err := other.Ready(ctx, "starts"); err != nil {
			return "", fmt.Errorf("a pod of a namespace without policies: %w", err)
		}
		var event string
		if err := e.Poll(ctx, "an event of the pod that waits that names the policy hub", func() (bool, error) {
			lines, err := e.Events(ctx, "waits")
			event = instruments.WithWords(lines, "policy hub")
			return event != "", err
		}); err != nil {
			return "", err
		}
		said, err := e.SaysProblem(ctx, na.Name, "policy hub")
		if err != nil {
			return "", err
		}
		if err := c.judged(ctx, "without a hub, by new agents", farAlone); err != nil {
			return "", err
		}
		if err := e.putControllerBack(ctx); err != nil {
			return "", err
		}
		back := time.Now()
		if err := c.join(ctx, "waits"); err != nil {
			return "", err
		}
		took := time.Since(back)
		if err := c.judged(ctx, "with a hub again", farAlone+`
			waits > server tcp/8080 no
			waits > near   tcp/8080 yes`); err != nil {
			return "", err
		}
		return fmt.Sprintf("status says %q; the pod that waits %q; it was ready %.1f s after the hub was back", said, event, took.Seconds()), e.NoProblem(ctx)
	}))

var policyCompletedPod = shared(once(policyCheck("policy-completed-pod",
	"a pod that has ended is let in no more: another pod that gets its address is judged by its own labels",
	func(ctx context.Context, c *cast) (string, error) {
		e := c.e
		na, _, err := e.TwoNodes()
		if err != nil {
			return "", err
		}
		if err := c.allowTo(ctx, "ended", "alike"); err != nil {
			return "", err
		}
		spec := e.PodSpec(na.Name)
		spec.RestartPolicy = corev1.RestartPolicyNever
		if err := e.CreatePod(ctx, "alike", spec); err != nil {
			return "", err
		}
		main := &spec.Containers[0]
		main.Command, main.Args, main.ReadinessProbe = []string{"/bin/sh", "-c", "/agnhost connect --timeout=900ms " + c.addr["server"] + ":8080"}, nil, nil
		if err := e.CreatePod(ctx, "ended", spec); err != nil {
			return "", err
		}
		if err := c.join(ctx, "alike"); err != nil {
			return "", err
		}
		var address string
		if err := e.Poll(ctx, "pod ended to have made its connection", func() (bool, error) {
			p, err := e.Client.CoreV1().Pods(e.Namespace).Get(ctx, "ended", metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			if p.Status.PodIP != "" {
				address = p.Status.PodIP
			}
			if p.Status.Phase == corev1.PodFailed {
				return false, errors.New("it could not, although a rule allows it")
			}
			return p.Status.Phase == corev1.PodSucceeded, nil
		}); err != nil {
			return "", err
		}
		// The address is given back when the kubelet has removed the sandbox, and cools. Then one of as many pods as there are addresses
		// has to get it.
		if _, err := e.Consistent(ctx); err != nil {
			return "", err
		}
		time.Sleep(6 * time.Second)
		all, err := e.Consistent(ctx)
		if err != nil {
			return "", err
		}
		n, err := freeOn(all, na)
		if err != nil {
			return "", err
		}
		d := e.NewDeployment("next", int32(n+1))
		d.Node = na.Name
		if err := d.Create(ctx); err != nil {
			return "", err
		}
		pods, err := d.Settle(ctx)
		if err != nil {
			return "", err
		}
		for _, p := range pods {
			if p.Status.PodIP != address {
				continue
			}
			if err := c.join(ctx, p.Name); err != nil {
				return "", err
			}
			return fmt.Sprintf("%s went from pod ended, whose object is still there, to %s, one of %d new ones", address, p.Name, len(pods)), c.judged(ctx, "by its own labels", fmt.Sprintf(`
				alike  > server tcp/8080 yes
				%[1]s  > server tcp/8080 no
				server > %[1]s tcp/8080 yes`, p.Name))
		}
		return "", fmt.Errorf("none of %d new pods on %s got %s: nothing was tested", len(pods), na.Name, address)
	})))
