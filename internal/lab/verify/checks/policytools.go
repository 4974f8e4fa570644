package checks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

var policyCRDRoundtrip = verify.Check{
	Name:   "policy-crd-roundtrip",
	About:  "an object of each kind of policy, all of them together with every field, is read from the API server as it was written (those that would select pods outside the check's namespace are only tried)",
	Policy: true, Once: true, Beside: true,
	NotFor: map[string]string{lab.NetworkFlannel: "with Flannel the chart installs no kinds of policies"},
	Run: run(func(ctx context.Context, e *env) (_ string, err error) {
		defer func() { err = errors.Join(err, e.removePolicies(context.WithoutCancel(ctx), e.ownPolicies())) }()
		text, err := os.ReadFile(filepath.Join(e.Lab.Options.Source, "test", "api", "testdata", "all.yaml"))
		if err != nil {
			return "", err
		}
		list, err := e.documents(string(text))
		if err != nil {
			return "", err
		}
		kinds, fields := map[string]int{}, 0
		var wrong []error
		for _, o := range list {
			want := o.DeepCopy()
			var how []client.CreateOption
			enforced := o.GetNamespace() == "" && strings.HasSuffix(o.GetKind(), "NetworkPolicy") && !strings.HasPrefix(o.GetKind(), "Staged")
			if enforced {
				how = append(how, client.DryRunAll)
			}
			// The controller has made some of the tiers.
			if err := e.Objects.Create(ctx, o, how...); client.IgnoreAlreadyExists(err) != nil {
				wrong = append(wrong, fmt.Errorf("%s %s: %w", o.GetKind(), o.GetName(), err))
				continue
			}
			got := o // as the API server would keep it
			if !enforced {
				got = &unstructured.Unstructured{}
				got.SetGroupVersionKind(o.GroupVersionKind())
				if err := e.Objects.Get(ctx, client.ObjectKeyFromObject(o), got); err != nil {
					return "", fmt.Errorf("read %s %s: %w", o.GetKind(), o.GetName(), err)
				}
			}
			kinds[o.GetKind()]++
			n, lost := survived("spec", want.Object["spec"], got.Object["spec"])
			fields += n
			for _, l := range lost {
				wrong = append(wrong, fmt.Errorf("%s %s: %s", o.GetKind(), o.GetName(), l))
			}
		}
		return fmt.Sprintf("%d values of %d objects of %d kinds", fields, len(list), len(kinds)), errors.Join(wrong...)
	}),
}

// survived counts the values of want and lists those that are others in got.
func survived(at string, want, got any) (n int, lost []string) {
	and := func(k int, l []string) { n, lost = n+k, append(lost, l...) }
	switch want := want.(type) {
	case map[string]any:
		g, is := got.(map[string]any)
		if len(want) == 0 && !is { // it means everything, or nothing
			return 1, []string{at + " is lost"}
		}
		for _, key := range slices.Sorted(maps.Keys(want)) {
			and(survived(at+"."+key, want[key], g[key]))
		}
	case []any:
		g, _ := got.([]any)
		for i := range want {
			if i >= len(g) {
				and(1, []string{fmt.Sprintf("%s[%d] is lost", at, i)})
				continue
			}
			and(survived(fmt.Sprintf("%s[%d]", at, i), want[i], g[i]))
		}
	default:
		n = 1
		if whole, ok := got.(int64); ok {
			got = float64(whole) // as YAML reads numbers
		}
		if fmt.Sprint(want) != fmt.Sprint(got) {
			lost = []string{fmt.Sprintf("%s was %v and is %v", at, want, got)}
		}
	}
	return n, lost
}

var policyPreview = beside(once(policyCheck("policy-preview",
	"terwayctl policy preview of what is in the cluster names the pods that a policy cuts off and those that it lets through, with exit status 2, and what it says comes true",
	func(ctx context.Context, c *cast) (string, error) {
		e := c.e
		kubectl := exec.CommandContext(ctx, e.Lab.Options.Bin("kubectl"), "--kubeconfig", e.Lab.Options.Kubeconfig(), "get",
			"pods,namespaces,serviceaccounts,nodes,endpointslices,networkpolicies", "-A", "-o", "yaml")
		objects, err := kubectl.Output()
		if err != nil {
			return "", fmt.Errorf("kubectl get: %w", err)
		}
		dir, err := os.MkdirTemp("", "lab-verify-*")
		if err != nil {
			return "", err
		}
		defer os.RemoveAll(dir)
		const manifest = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: server, namespace: NAMESPACE}
spec: {podSelector: {matchLabels: {app: server}}, ingress: [{from: [{podSelector: {matchLabels: {app: near}}}], ports: [{port: 8080}]}]}
`
		before, next := filepath.Join(dir, "before"), filepath.Join(dir, "next.yaml")
		if err := errors.Join(os.Mkdir(before, 0o755), os.WriteFile(filepath.Join(before, "cluster.yaml"), objects, 0o644),
			os.WriteFile(next, []byte(strings.ReplaceAll(manifest, "NAMESPACE", e.Namespace)), 0o644)); err != nil {
			return "", err
		}
		cmd := exec.CommandContext(ctx, e.Lab.Options.Terwayctl(), "policy", "preview", "--offline", before, "-f", next)
		var out, msg bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &msg
		if err := cmd.Run(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 2 {
			return "", fmt.Errorf("terwayctl policy preview: %w, want exit status 2: %s%s", err, out.String(), msg.String())
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		for _, words := range [][]string{{"cut", e.Namespace + "/far ", e.Namespace + "/server", "all "}, {"cut", e.Namespace + "/near ", e.Namespace + "/server", "all but tcp/8080"}} {
			if instruments.WithWords(lines, words...) == "" {
				return "", fmt.Errorf("terwayctl policy preview: no line with %q:\n%s", words, out.String())
			}
		}
		if err := e.apply(ctx, manifest); err != nil {
			return "", err
		}
		return "it says " + lines[len(lines)-1], c.judged(ctx, "as previewed", `
			far  > server tcp/8080 no
			far  > server udp/9000 no
			near > server tcp/8080 yes
			near > server tcp/9000 no
			near > far    tcp/8080 yes`)
	})))

// switchedOff on the agents' DaemonSet says that a check has turned policies off.
const switchedOff = "lab.terway.dev/policies-switched-off"

// switchPolicies turns policies off, or on again, like an operator.
func (e *env) switchPolicies(ctx context.Context, on bool) error {
	mark := func(there bool) error {
		_, err := edit(ctx, e.Client.AppsV1().DaemonSets(metav1.NamespaceSystem), agentName, func(o *appsv1.DaemonSet) error {
			if there {
				metav1.SetMetaDataAnnotation(&o.ObjectMeta, switchedOff, "")
			} else {
				delete(o.Annotations, switchedOff)
			}
			return nil
		})
		return err
	}
	if !on {
		if err := mark(true); err != nil {
			return err
		}
	}
	if err := e.Lab.SwitchPolicy(ctx, on); err != nil || !on {
		return err
	}
	return mark(false)
}

// putPoliciesBack turns policies on again if a check has turned them off.
func (e *env) putPoliciesBack(ctx context.Context) error {
	set, err := e.Client.AppsV1().DaemonSets(metav1.NamespaceSystem).Get(ctx, agentName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read DaemonSet %s: %w", agentName, err)
	}
	if _, off := set.Annotations[switchedOff]; !off {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), 3*time.Minute, errors.New("not done within three minutes"))
	defer cancel()
	return e.switchPolicies(ctx, true)
}

// policyResources are what nobody of Terway asks the API server for while policies are off; of core those that the hub watches
// and the controller does not need.
var policyResources = []string{"networkpolicies", "globalnetworkpolicies", "networksets", "globalnetworksets", "hostendpoints", "tiers", "clusternetworkpolicies",
	"serviceaccounts", "namespaces"}

var policyOffNoLoad = trouble(policyCheck("policy-off-no-load",
	"policies are turned off and on under traffic: running connections lose nothing that is allowed, what was denied passes while they are off and is cut again; while they are off "+
		"Terway's pods ask the API server for nothing that policies are made of (its audit log), and no node has policies' program at its eth0, or their table",
	func(ctx context.Context, c *cast) (_ string, err error) {
		e := c.e
		if err := e.apply(ctx, onlyFar); err != nil {
			return "", err
		}
		if err := c.judged(ctx, "while they are on", farAlone); err != nil {
			return "", err
		}
		asked, err := e.asked(ctx)
		if err != nil {
			return "", err
		}
		if err := e.hooked(true); err != nil {
			return "", err
		}
		on := len(asked)
		if on == 0 {
			return "", errors.New("the audit log shows nothing of what policies are made of while they are on: nothing would be tested")
		}
		talk, err := instruments.OpenTalk(ctx, c.netns["far"], c.echo("server"))
		if err != nil {
			return "", err
		}
		defer talk.Close()
		probe := &instruments.Probe{NetNS: c.netns["far"], To: c.addr["server"]}
		probe.Start()
		running := true
		stop := func() {
			if running {
				running = false
				probe.Stop()
			}
		}
		defer stop()
		defer func() { err = errors.Join(err, e.putPoliciesBack(ctx)) }()
		began := time.Now()
		if err := e.switchPolicies(ctx, false); err != nil {
			return "", err
		}
		off := time.Since(began)
		if err := c.judged(ctx, "while they are off", strings.ReplaceAll(farAlone, " no", " yes")); err != nil {
			return "", err
		}
		// As long as the slowest of the periodic things.
		time.Sleep(3 * time.Second)
		if asked, err = e.asked(ctx); err != nil {
			return "", err
		}
		if len(asked) > 0 {
			return "", fmt.Errorf("while policies are off Terway's pods ask for %s", strings.Join(asked, ", "))
		}
		if err := e.hooked(false); err != nil {
			return "", err
		}
		began = time.Now()
		if err := e.switchPolicies(ctx, true); err != nil {
			return "", err
		}
		again := time.Since(began)
		if err := c.judged(ctx, "on again", farAlone); err != nil {
			return "", err
		}
		stop()
		sent, answered := probe.Count()
		measured := fmt.Sprintf("on, %d kinds of requests for what policies are made of; off (after %.0f s) none; on again (after %.0f s); meanwhile %d of %d requests were answered, longest gap %d ms",
			on, off.Seconds(), again.Seconds(), answered, sent, probe.Gap().Milliseconds())
		if err := talk.Err(); err != nil || time.Since(talk.Last()) > time.Second {
			return measured, errors.Join(fmt.Errorf("a running connection that rules allow is cut, its last answer is of %s ago", time.Since(talk.Last()).Round(time.Millisecond)), err)
		}
		return measured, nil
	}))

// hooked returns an error if a node does not have policies' program at its eth0, and their table, or has them if want is false.
func (e *env) hooked(want bool) error {
	for _, m := range e.Lab.Machines {
		filters, err := e.onNode(m.Name, "tc", "filter", "show", "dev", "eth0", "egress")
		if err != nil {
			return err
		}
		tables, err := e.onNode(m.Name, "nft", "list", "tables")
		if err != nil {
			return err
		}
		if program, table := strings.Contains(filters, "tw_to_other"), strings.Contains(tables, "terway-policy"); program != want || table != want {
			return fmt.Errorf("%s has policies' program at its eth0: %t, and their table: %t; want %t", m.Name, program, table, want)
		}
	}
	return nil
}

// asked returns what Terway's pods that run now have asked the API server for of what policies are made of.
func (e *env) asked(ctx context.Context) ([]string, error) {
	pods, err := e.Client.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{LabelSelector: "app in (" + agentName + "," + controllerName + ")"})
	if err != nil {
		return nil, fmt.Errorf("list Terway's pods: %w", err)
	}
	requests, err := e.Lab.Requests()
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	for _, r := range requests {
		if slices.Contains(policyResources, r.Resource) && slices.ContainsFunc(pods.Items, func(p corev1.Pod) bool { return p.Name == r.Pod }) {
			found[r.Verb+" "+r.Resource] = true
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}
