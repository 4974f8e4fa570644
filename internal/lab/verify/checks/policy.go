package checks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

// policyPatience is how long what a policy says may take to be so; policy-running-connection measures it.
const policyPatience = 15 * time.Second

// cast are the ends of the connections that a check of policies tries: its pods, the nodes and the control plane's instance.
type cast struct {
	e *env
	// netns and addr are of each end, by name; a Service has an address alone.
	netns, addr map[string]string
	pods        map[string]corev1.Pod
	echoes      instruments.Echoes
	// answered and silent count connections.
	answered, silent int
}

// policyCheck is a check with the pods far on the first node, and near and server on the second, each of which echoes TCP and UDP at
// instruments.TrafficPort and answers HTTP at instruments.HTTPPort. Everything passes between them when it begins.
func policyCheck(name, about string, check func(context.Context, *cast) (string, error)) verify.Check {
	return verify.Check{
		Name: name, About: about, Policy: true,
		NotFor: map[string]string{lab.NetworkFlannel: "Flannel enforces no network policy"},
		Run: run(func(ctx context.Context, e *env) (measured string, err error) {
			c, err := e.newCast(ctx)
			if err != nil {
				return "", err
			}
			defer c.echoes.Close()
			if err := c.judged(ctx, "before any policy", `
				far  > server tcp/8080 yes
				near > server udp/9000 yes
				server > far  tcp/9000 yes`); err != nil {
				return "", err
			}
			c.answered, c.silent = 0, 0
			defer func() { err = errors.Join(err, e.removePolicies(context.WithoutCancel(ctx), e.ownPolicies())) }()
			said, err := check(ctx, c)
			if c.answered+c.silent > 0 {
				said += fmt.Sprintf("; %d connections answered, %d silent", c.answered, c.silent)
			}
			return strings.TrimPrefix(said, "; "), err
		}),
	}
}

func (e *env) newCast(ctx context.Context) (*cast, error) {
	na, nb, err := e.TwoNodes()
	if err != nil {
		return nil, err
	}
	c := &cast{e: e, netns: map[string]string{}, addr: map[string]string{}, pods: map[string]corev1.Pod{}}
	for _, m := range []lab.Machine{na, nb, e.Lab.Master} {
		c.netns[m.Name], c.addr[m.Name] = m.NetNS, m.Address.String()
	}
	for name, node := range map[string]lab.Machine{"far": na, "near": nb, "server": nb} {
		if err := e.CreatePod(ctx, name, e.PodSpec(node.Name)); err != nil {
			return nil, err
		}
	}
	if err := c.join(ctx, "far", "near", "server"); err != nil {
		c.echoes.Close()
		return nil, err
	}
	return c, nil
}

// trouble marks a check as one of trouble, shared as one for ENIs that pods share, once as one of what does not depend on the datapath, beside as one that may run beside others.
func trouble(c verify.Check) verify.Check {
	c.Trouble = true
	return c
}

func beside(c verify.Check) verify.Check {
	c.Beside = true
	return c
}

func shared(c verify.Check) verify.Check {
	c.Shared = true
	return c
}

func once(c verify.Check) verify.Check {
	c.Once = true
	return c
}

// join waits for pods, and makes them ends.
func (c *cast) join(ctx context.Context, names ...string) error {
	pods, err := c.e.Ready(ctx, names...)
	if err != nil {
		return err
	}
	for _, p := range pods {
		addr, err := netip.ParseAddr(p.Status.PodIP)
		if err != nil {
			return fmt.Errorf("pod %s: %w", p.Name, err)
		}
		ns, err := c.e.Lab.PodNetNS(p.Spec.NodeName, addr)
		if err != nil {
			return err
		}
		if err := c.echoes.Serve(ns); err != nil {
			return fmt.Errorf("pod %s: %w", p.Name, err)
		}
		c.netns[p.Name], c.addr[p.Name], c.pods[p.Name] = ns, p.Status.PodIP, p
	}
	return nil
}

// A row is a connection and what is to become of it.
type row struct {
	text, netns, network, to, want string
}

// verdicts are the words of rows.
var verdicts = map[string]string{"yes": instruments.Open, "no": instruments.Silent}

// rows parses lines such as "far > server tcp/8080 yes".
func (c *cast) rows(text string) ([]row, error) {
	var list []row
	for line := range strings.Lines(text) {
		line = strings.Join(strings.Fields(line), " ")
		if line == "" {
			continue
		}
		f := strings.Fields(line)
		if len(f) != 5 || f[1] != ">" || c.netns[f[0]] == "" || verdicts[f[4]] == "" {
			return nil, fmt.Errorf("row %q: want FROM > TO PROTOCOL/PORT yes|no", line)
		}
		network, port, _ := strings.Cut(f[3], "/")
		to, ok := c.addr[f[2]]
		if _, err := strconv.ParseUint(port, 10, 16); err != nil || !ok {
			return nil, fmt.Errorf("row %q: no such port, or nobody is named %s", line, f[2])
		}
		list = append(list, row{line, c.netns[f[0]], network, net.JoinHostPort(to, port), verdicts[f[4]]})
	}
	return list, nil
}

// try tries all at once and returns the rows that are otherwise.
func (c *cast) try(ctx context.Context, list []row) (wrong []string, err error) {
	got, errs := make([]string, len(list)), make([]error, len(list))
	var all sync.WaitGroup
	for i, r := range list {
		all.Go(func() { got[i], errs[i] = instruments.Reach(ctx, r.netns, r.network, r.to) })
	}
	all.Wait()
	for i, r := range list {
		switch got[i] {
		case instruments.Open:
			c.answered++
		case instruments.Silent:
			c.silent++
		}
		if got[i] != r.want {
			wrong = append(wrong, fmt.Sprintf("%q, which was %s", r.text, got[i]))
		}
	}
	return wrong, errors.Join(errs...)
}

// judged waits until all rows are as they say, and then tries them once more.
func (c *cast) judged(ctx context.Context, when, text string) error {
	list, err := c.rows(text)
	if err != nil {
		return err
	}
	var wrong []string
	if err := c.e.within(ctx, policyPatience, "connections to be judged "+when, func(ctx context.Context) (bool, error) {
		wrong, err = c.try(ctx, list)
		return len(wrong) == 0, err
	}); err != nil {
		return fmt.Errorf("%w: want %s", err, strings.Join(wrong, "; "))
	}
	if wrong, err = c.try(ctx, list); err != nil || len(wrong) > 0 {
		return errors.Join(err, fmt.Errorf("%s, once more: want %s", when, strings.Join(wrong, "; ")))
	}
	return nil
}

// globalKinds are those of the kinds of policies that no namespace has, in the order in which they are removed.
var globalKinds = []struct{ group, kind string }{
	{"projectcalico.org/v3", "GlobalNetworkPolicy"}, {"projectcalico.org/v3", "StagedGlobalNetworkPolicy"}, {"policy.networking.k8s.io/v1beta1", "ClusterNetworkPolicy"},
	{"projectcalico.org/v3", "GlobalNetworkSet"}, {"projectcalico.org/v3", "HostEndpoint"}, {"projectcalico.org/v3", "ClusterInformation"}, {"projectcalico.org/v3", "Tier"},
}

// ofCheck marks objects of checks that no namespace has. Its value is the namespace of the check.
const ofCheck = "lab.terway.dev/check"

// ownPolicies selects the objects of the check that no namespace has.
func (e *env) ownPolicies() client.ListOption { return client.MatchingLabels{ofCheck: e.Namespace} }

// documents parses manifests. NAMESPACE in them is the check's, which objects have whose kind has one.
func (e *env) documents(manifests string) ([]*unstructured.Unstructured, error) {
	var list []*unstructured.Unstructured
	for doc := range strings.SplitSeq("\n"+strings.ReplaceAll(manifests, "NAMESPACE", e.Namespace), "\n---") {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &o.Object); err != nil {
			return nil, fmt.Errorf("parse the manifest: %w\n%s", err, doc)
		}
		if len(o.Object) == 0 {
			continue
		}
		namespaced, err := e.Objects.IsObjectNamespaced(o)
		if err != nil {
			return nil, fmt.Errorf("kind %s: %w", o.GetKind(), err)
		}
		if namespaced {
			o.SetNamespace(e.Namespace)
		} else {
			labels := o.GetLabels()
			if labels == nil {
				labels = map[string]string{}
			}
			labels[ofCheck] = e.Namespace
			o.SetLabels(labels)
		}
		list = append(list, o)
	}
	return list, nil
}

// apply applies manifests like "kubectl apply --server-side".
func (e *env) apply(ctx context.Context, manifests string) error {
	list, err := e.documents(manifests)
	if err != nil {
		return err
	}
	for _, o := range list {
		if err := e.Objects.Apply(ctx, client.ApplyConfigurationFromUnstructured(o), client.FieldOwner("lab-verify"), client.ForceOwnership); err != nil {
			return fmt.Errorf("apply %s %s: %w", o.GetKind(), o.GetName(), err)
		}
	}
	return nil
}

// remove deletes objects of manifests.
func (e *env) remove(ctx context.Context, manifests string) error {
	list, err := e.documents(manifests)
	if err != nil {
		return err
	}
	for _, o := range list {
		if err := e.Objects.Delete(ctx, o); err != nil {
			return fmt.Errorf("delete %s %s: %w", o.GetKind(), o.GetName(), err)
		}
	}
	return nil
}

// removePolicies removes objects that no namespace has, of one check or of all. What a namespace has goes with it.
func (e *env) removePolicies(ctx context.Context, of client.ListOption) error {
	if !e.Lab.Options.Policy {
		return nil
	}
	var errs []error
	for _, k := range globalKinds {
		list := &unstructured.UnstructuredList{}
		list.SetAPIVersion(k.group)
		list.SetKind(k.kind + "List")
		if err := e.Objects.List(ctx, list, of); err != nil {
			errs = append(errs, fmt.Errorf("list %s of checks: %w", k.kind, err))
			continue
		}
		for i := range list.Items {
			if err := e.Objects.Delete(ctx, &list.Items[i]); client.IgnoreNotFound(err) != nil {
				errs = append(errs, fmt.Errorf("delete %s %s: %w", k.kind, list.Items[i].GetName(), err))
			}
		}
	}
	return errors.Join(errs...)
}
