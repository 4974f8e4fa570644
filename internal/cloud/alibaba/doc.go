// Package alibaba implements cloud.API with the official SDK's typed ECS and VPC requests. It
// owns everything between a method and the network: credentials and their renewal, a rate
// limiter for each action, retries with the same client token, validation of every answer, and
// metrics.
//
// A limiter's queue is sorted by the callers' priorities (cloud.WithPriority): calls that pods
// wait for come before calls that fill pools. A caller with other work can be told when to
// retry instead of being queued (cloud.WithDeferral). A temporary credential is renewed in the
// background while the old one is still in use.
//
// The package must never decide anything about nodes or pools, never cache the state of the
// cloud, and never put a secret into a log, an error or a label.
package alibaba
