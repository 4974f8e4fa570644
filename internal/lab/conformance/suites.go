// Package conformance runs other projects' suites on a lab, and says what came out: Kubernetes' specs of network policies, and
// its conformance specs of sig-network and those of load balancers, by its e2e.test; ClusterNetworkPolicy by network-policy-api's conformance suite. The
// suites' programs are built from their Go modules as they are (lab.BuildSuites).
package conformance

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
)

// Suite is a suite of another project.
type Suite struct {
	Name string
	// About is one line on what it is.
	About string
	// Count is how many specs it has in the version that is built: a run with another number has not run it.
	Count int
	// Policy is set if it is about network policies.
	Policy bool
	// product is that of Services without a class, if it is about load balancers.
	product string
	// known are the specs that do not pass, with the reason.
	known map[string]string
	// selection are some specs that show most in a few minutes.
	selection []string
	// programs are what run needs (lab.BuildSuites).
	programs []string
	run      func(context.Context, *run) ([]Spec, error)
}

// State is how a spec ended.
type State string

// The states of a spec.
const (
	Passed  State = "passed"
	Failed  State = "failed"
	Skipped State = "skipped" // by itself
)

// Spec is one spec of a suite and how it ended.
type Spec struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	// Why is what the suite says of a spec that failed or was skipped.
	Why     string  `json:"why,omitempty"`
	Seconds float64 `json:"seconds"`
}

// Suites returns all suites in the order in which they run.
func Suites() []Suite {
	e2e := []string{lab.ProgramGinkgo, lab.ProgramE2E}
	const between = "Netpol NetworkPolicy between server and client "
	return []Suite{
		{
			Name: "netpol", About: "Kubernetes' e2e.test, its specs of NetworkPolicy", Count: 50, Policy: true,
			programs: e2e, run: ginkgo(`\[sig-network\] Netpol`),
			selection: []string{
				between + "should support a 'default-deny-ingress' policy",
				between + "should support a 'default-deny-all' policy",
				between + "should enforce policy based on PodSelector and NamespaceSelector",
				between + "should enforce policy based on Ports",
				between + "should allow egress access on one named port",
				between + "should enforce updated policy",
				between + "should allow ingress access from updated pod",
				between + "should deny egress from all pods in a namespace",
				between + "should enforce except clause while egress access to server in CIDR block",
				between + "should stop enforcing policies after they are deleted",
				between + "should not allow access by TCP when a policy specifies only UDP",
				"Netpol [LinuxOnly] NetworkPolicy between server and client using UDP should enforce policy based on Ports",
			},
		},
		{
			Name: "cluster-network-policy", About: "network-policy-api's conformance suite, profile ClusterNetworkPolicy with all features", Count: 30, Policy: true,
			programs: []string{lab.ProgramPolicyAPI}, run: policyAPI,
			selection: []string{
				"CNPAdminTierIngressTCP", "CNPAdminTierEgressUDP", "CNPAdminTierEgressNodePeers", "CNPAdminTierIngressNamedPort",
				"CNPAdminTierEgressNamedPort", "CNPAdminTierIntegration", "CNPAdminTierPriorityField", "CNPBaselineTierIngressUDP",
				"CNPBaselineTierEgressNamedPort", "CNPBaselineTierEgressNodePeers",
			},
		},
		{
			Name: "sig-network", About: "Kubernetes' e2e.test, the conformance specs of sig-network", Count: 47,
			programs: e2e, run: ginkgo(`\[sig-network\].*\[Conformance\]`),
		},
		{
			Name: "loadbalancer-clb", About: "Kubernetes' e2e.test, its specs of load balancers; they get CLBs", Count: 17, product: instruments.CLB,
			programs: e2e, run: loadBalancers(instruments.CLB),
		},
		{
			Name: "loadbalancer-nlb", About: "Kubernetes' e2e.test, its specs of load balancers; they get NLBs", Count: 17, product: instruments.NLB,
			programs: e2e, run: loadBalancers(instruments.NLB), known: notOnNLB,
		},
	}
}

// PickSuites returns suites by name, all without names.
func PickSuites(names []string) ([]Suite, error) {
	all := Suites()
	if len(names) == 0 {
		return all, nil
	}
	var picked []Suite
	for i, name := range names {
		at := slices.IndexFunc(all, func(s Suite) bool { return s.Name == name })
		switch {
		case at < 0:
			var known []string
			for _, s := range all {
				known = append(known, s.Name)
			}
			return nil, fmt.Errorf("--suites %q: no such suite; there are %s", name, strings.Join(known, ", "))
		case slices.Contains(names[:i], name):
			return nil, fmt.Errorf("--suites %s: %s is named twice", strings.Join(names, ","), name)
		}
		picked = append(picked, all[at])
	}
	return picked, nil
}

// run is one run of a suite on a lab.
type run struct {
	lab     *lab.State
	cluster *instruments.Cluster
	// only are the names of specs to run; nil is all.
	only []string
	// procs is how many specs of e2e.test run at once.
	procs int
	// dir gets what the suite writes: its output, and its reports.
	dir string
	// netns is the path of the network namespace in which the suite's program runs, with this file as its
	// /etc/resolv.conf; "": this process's.
	netns, resolvConf string
}

// suiteTimeout limits a suite that hangs.
const suiteTimeout = 2 * time.Hour

// check returns an error if the specs are not those that had to run.
func (s *Suite) check(specs []Spec, only []string) error {
	if only == nil {
		switch {
		case len(specs) != s.Count:
			return fmt.Errorf("%d specs have run, and the suite has %d", len(specs), s.Count)
		case !slices.ContainsFunc(specs, func(spec Spec) bool { return spec.State != Skipped }):
			return fmt.Errorf("all %d specs were skipped", len(specs))
		}
		return nil
	}
	var missing []string
	for _, name := range only {
		if !slices.ContainsFunc(specs, func(spec Spec) bool { return spec.Name == name && spec.State != Skipped }) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 || len(specs) != len(only) {
		return fmt.Errorf("%d specs have run instead of %d; not %q", len(specs), len(only), missing)
	}
	return nil
}

// oneOf returns a regular expression for exactly these texts.
func oneOf(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = regexp.QuoteMeta(n)
	}
	return "(" + strings.Join(quoted, "|") + ")"
}
