package lab

import (
	"context"
	"slices"
)

// Programs of other projects' suites (BuildSuites), for Bin.
const (
	// ProgramE2E is Kubernetes' e2e.test.
	ProgramE2E = "e2e.test"
	// ProgramGinkgo runs several processes of e2e.test at once.
	ProgramGinkgo = "ginkgo"
	// ProgramPolicyAPI is the conformance suite of network-policy-api.
	ProgramPolicyAPI = "network-policy-api.test"
)

// BuildSuites builds those of these programs that are missing or out of date. It waits while a lab builds.
func (o *Options) BuildSuites(ctx context.Context, programs []string, p *Progress) error {
	unlock, err := o.waitCache(ctx, processBuild)
	if err != nil {
		return err
	}
	defer unlock()
	suite := func(name, module, program, pkg string, flags []string, test bool) target {
		return target{name: name, dir: "test/conformance/suites/" + module, packages: []string{pkg}, out: "bin/" + program, made: []string{"bin/" + program}, flags: flags, stamped: true, test: test}
	}
	targets := []target{
		suite("Kubernetes' e2e.test", "kubernetes", ProgramE2E, "k8s.io/kubernetes/test/e2e", kubeFlags(KubernetesVersion), true),
		suite("ginkgo", "kubernetes", ProgramGinkgo, "github.com/onsi/ginkgo/v2/ginkgo", strip, false),
		suite("network-policy-api's conformance suite", "policyapi", ProgramPolicyAPI, "sigs.k8s.io/network-policy-api/conformance", strip, true),
	}
	targets = slices.DeleteFunc(targets, func(t target) bool {
		return !slices.ContainsFunc(programs, func(name string) bool { return t.out == "bin/"+name })
	})
	return o.buildAll(ctx, targets, p)
}
