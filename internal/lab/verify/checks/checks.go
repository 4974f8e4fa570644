// Package checks has the named checks of a lab's network, each in its own file, each measuring
// something on the running cluster.
//
// A check owns one Kubernetes namespace, which is removed when it ends, and leaves the cluster
// as it was. It must change the lab's namespaces or the product's objects only in ways that a
// user or a failure could (it may kill a process). Temporary changes outside its namespace are
// reverted after a failure or an interrupt too; after a kill, undo finds them.
package checks

import (
	"context"

	"terway.dev/terway/internal/lab/verify"
)

// All returns the checks of a lab's network in the order in which they run: the cheap ones first, those that may run beside others together.
func All() verify.Suite {
	return verify.Suite{Undo: func(ctx context.Context, e *verify.Env) error { return (&env{e}).undo(ctx) }, Checks: []verify.Check{
		samePod, ownReport, addressFromVSwitch, addressFromBlock, vpcRoutes, crossNode, podToNode, podToService, dns, hostPort, outboundNAT,
		nodePort, noSpoofing, policyDeny, policyAllow, policyCalicoOrder, policyTiers, policyCluster, policyServiceBackend, policyMasquerade,
		policyCIDRPods, policyCRDRoundtrip, policyPreview, lbDirect,
		sameName, bandwidthEgress, bandwidthIngress, bandwidthSameNode, bandwidthLiveChange, bandwidthExclusive,
		bandwidthOfType, bandwidthWrongValue, bandwidthNoTrace, policyExclusiveENI, policyCompletedPod, policyRunningConnection, policyNoOpenWindow, policyFirstPacket, policyConnectionsFull, exclusiveENI, lbOutside, lbPolicy, lbRollingUpgrade, lbDrain, podLimit, release, agentRestart, policyAgentRestart, agentUpgrade, controllerRestart, lbControllerFailover, nodeRemoved, nodeAnew,
		forwardPolicy, repair, registeredAgain, eniTaken, addressTaken, controllerAway, staleCloud, vswitchReplaced, kubeletKilled, lbThrottled, lbAPIDown, lbNodeLoss,
		policyHubDown, policyOffNoLoad, upgradeCheck, rollbackCheck, uninstalled,
	}}
}

// env is the environment of the checks: the framework's, with helpers that checks share.
type env struct{ *verify.Env }

// run adapts a check to Check.Run.
func run(check func(context.Context, *env) (string, error)) func(context.Context, *verify.Env) (string, error) {
	return func(ctx context.Context, e *verify.Env) (string, error) { return check(ctx, &env{e}) }
}
