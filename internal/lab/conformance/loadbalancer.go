package conformance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/vpcsim/fabric"
)

// balancerProcs is how many specs of load balancers run at once: they wait most of the time.
const balancerProcs = 8

// loadBalancers runs the specs of load balancers, with Services without a class for a product. Their client is e2e.test
// itself, so it runs outside the VPC, where public addresses are reached as by any client.
func loadBalancers(product string) func(context.Context, *run) ([]Spec, error) {
	return func(ctx context.Context, r *run) (specs []Spec, err error) {
		classless := func(ctx context.Context) (undo, error) { return r.classless(ctx, strings.ToUpper(product)) }
		for _, step := range []func(context.Context) (undo, error){classless, r.injectGates, r.accept, r.makeOutside, r.relay} {
			back, failure := step(ctx)
			if back != nil {
				defer func() { err = errors.Join(err, back(context.WithoutCancel(ctx))) }()
			}
			if failure != nil {
				return nil, failure
			}
		}
		if r.procs > 1 {
			r.procs = balancerProcs
		}
		return ginkgo(`\[Feature:LoadBalancer\]`)(ctx, r)
	}
}

// undo reverts a step. A step that failed half-way returns one, too.
type undo func(context.Context) error

// classless gives Services without a class a product.
func (r *run) classless(ctx context.Context, product string) (undo, error) {
	const key = "load_balancer_classes"
	put := func(ctx context.Context, value any) (was any, err error) {
		err = r.cluster.EditConfig(ctx, func(m *corev1.ConfigMap) error {
			var raw map[string]any
			if err := yaml.Unmarshal([]byte(m.Data[config.ConfigMapKey]), &raw); err != nil {
				return fmt.Errorf("the configuration is not YAML: %w", err)
			}
			was = raw[key]
			if raw[key] = value; value == nil {
				delete(raw, key)
			}
			b, err := yaml.Marshal(raw)
			m.Data[config.ConfigMapKey] = string(b)
			return err
		})
		return was, err
	}
	was, err := put(ctx, map[string]string{"": product})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error { _, err := put(ctx, was); return err }, nil
}

// injectGates has the suite's namespaces labelled for readiness gates as they are created.
func (r *run) injectGates(ctx context.Context) (undo, error) {
	const name = "conformance-readiness-gates"
	api := r.cluster.Client.AdmissionregistrationV1()
	fail := admissionv1.Fail
	policy := &admissionv1.MutatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.MutatingAdmissionPolicySpec{
			FailurePolicy: &fail, ReinvocationPolicy: admissionv1.NeverReinvocationPolicy,
			MatchConstraints: &admissionv1.MatchResources{
				// e2e.test labels its namespaces with the name of the group of specs.
				ObjectSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "e2e-framework", Operator: metav1.LabelSelectorOpExists}}},
				ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
					Operations: []admissionv1.OperationType{admissionv1.Create},
					Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"namespaces"}},
				}}},
			},
			Mutations: []admissionv1.Mutation{{PatchType: admissionv1.PatchTypeApplyConfiguration, ApplyConfiguration: &admissionv1.ApplyConfiguration{
				Expression: fmt.Sprintf(`Object{metadata: Object.metadata{labels: {%q: "enabled"}}}`, claims.LabelInjectGates),
			}}},
		},
	}
	binding := &admissionv1.MutatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: name},
	}
	back := func(ctx context.Context) error {
		return errors.Join(client.IgnoreNotFound(api.MutatingAdmissionPolicyBindings().Delete(ctx, name, metav1.DeleteOptions{})),
			client.IgnoreNotFound(api.MutatingAdmissionPolicies().Delete(ctx, name, metav1.DeleteOptions{})))
	}
	if err := back(ctx); err != nil { // of a run that was killed
		return nil, fmt.Errorf("delete the former admission policy of readiness gates: %w", err)
	}
	if _, err := api.MutatingAdmissionPolicies().Create(ctx, policy, metav1.CreateOptions{}); err != nil {
		return back, fmt.Errorf("create an admission policy: %w", err)
	}
	if _, err := api.MutatingAdmissionPolicyBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		return back, fmt.Errorf("bind an admission policy: %w", err)
	}
	// It has effect when the API server has read it.
	if err := r.cluster.Poll(ctx, "the admission policy to label namespaces", func() (bool, error) {
		try := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"e2e-framework": "try"}}}
		made, err := r.cluster.Client.CoreV1().Namespaces().Create(ctx, try, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err == nil && made.Labels[claims.LabelInjectGates] != "", err
	}); err != nil {
		return back, err
	}
	return back, nil
}

// accept has pods accept what comes from outside.
func (r *run) accept(context.Context) (undo, error) {
	from := fabric.Outside.Masked()
	return func(context.Context) error { return r.cluster.Lab.Cloud.AcceptNoMore(from, 0) }, r.cluster.Lab.Cloud.Accept(from, 0)
}

// makeOutside makes a load balancer with a public address: the namespace outside the VPC exists while there is one.
func (r *run) makeOutside(ctx context.Context) (undo, error) {
	c := *r.cluster
	if err := c.MakeNamespace(ctx, metav1.ObjectMeta{GenerateName: "outside-"}); err != nil {
		return nil, err
	}
	back := func(ctx context.Context) error { return c.Empty(ctx, c.Namespace) }
	const name = "web"
	if err := c.Webservers(name, 1, 1, 0).Create(ctx); err != nil {
		return back, err
	}
	if _, err := c.Balance(ctx, instruments.BalancedService{Name: name, Of: name, Product: instruments.CLB, Public: true}); err != nil {
		return back, err
	}
	path, err := c.Lab.NetNS(lab.Internet)
	if err != nil {
		return back, err
	}
	if err := c.Poll(ctx, "the namespace outside the VPC", func() (bool, error) {
		_, err := os.Stat(path)
		return err == nil, nil
	}); err != nil {
		return back, err
	}
	r.netns = path
	r.resolvConf = filepath.Join(r.dir, "resolv.conf")
	return back, os.WriteFile(r.resolvConf, []byte("nameserver "+fabric.Outside.Addr().String()+"\n"), 0o644)
}

// relay makes the API server reachable outside the VPC.
func (r *run) relay(ctx context.Context) (undo, error) {
	stop, err := r.cluster.Lab.RelayIn(context.WithoutCancel(ctx), r.netns) // an interrupted suite removes what it made
	if err != nil {
		return nil, err
	}
	return func(context.Context) error { return stop() }, nil
}

// notOnNLB are the specs that an NLB does not pass.
var notOnNLB = map[string]string{
	balancersDo + "be able to preserve UDP traffic when server pod cycles for a LoadBalancer service on different nodes": onlyAddresses,
	balancersDo + "be able to preserve UDP traffic when server pod cycles for a LoadBalancer service on the same nodes":  onlyAddresses,
	localDo + "work for type=LoadBalancer": onlyAddresses,
	localDo + "work from pods":             onlyAddresses,
	balancersDo + "be able to change the type and ports of a UDP service": "all but the last step is done: when the NLB is gone, its name is, too, and to the spec a name " +
		"that cannot be resolved does not show that nobody answers",
	balancersDo + "only allow access from service loadbalancer source ranges": "one of its clients is on the node of the backend, which answers that pod straight: an NLB keeps the client's address",
}

const (
	balancersDo   = "LoadBalancers [Feature:LoadBalancer] should "
	localDo       = "LoadBalancers ExternalTrafficPolicy: Local [Feature:LoadBalancer] [Slow] should "
	onlyAddresses = "the spec wants an address in the Service's status, and an NLB has a name there"
)
