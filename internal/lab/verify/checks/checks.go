// Package checks has the named checks of a lab's network, each in a file of its own, each
// measuring something on the running cluster.
//
// A check owns one Kubernetes namespace, which is gone when it ends, and leaves the
// cluster as it found it. It must never change the lab's namespaces or the
// product's objects by other ways than a user or a failure would (it may kill a
// process: that is what happens to processes). What it changes for a while outside its
// namespace it puts back after a failure and an interrupt too, and undo finds it after a
// kill.
package checks

import (
	"context"

	"terway.dev/terway/internal/lab/verify"
)

// All are the checks of a lab's network, in the order in which they run: the cheap ones first.
func All() verify.Suite {
	return verify.Suite{Undo: func(ctx context.Context, e *verify.Env) error { return (&env{e}).undo(ctx) }, Checks: []verify.Check{
		ownReport, addressFromVSwitch, addressFromBlock, vpcRoutes, samePod, crossNode, podToNode, podToService, dns, hostPort, outboundNAT,
		nodePort, sameName, noSpoofing, exclusiveENI, podLimit, release, agentRestart, agentUpgrade, controllerRestart, nodeRemoved, nodeAnew,
		forwardPolicy, repair, registeredAgain, eniTaken, addressTaken, controllerAway, staleCloud, vswitchReplaced, kubeletKilled,
	}}
}

// env is what the checks work with: the framework's, and what they share among each other.
type env struct{ *verify.Env }

// run is a check's Run.
func run(check func(context.Context, *env) (string, error)) func(context.Context, *verify.Env) (string, error) {
	return func(ctx context.Context, e *verify.Env) (string, error) { return check(ctx, &env{e}) }
}
