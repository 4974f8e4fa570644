// Package alibaba implements cloud.API with the official SDK's typed ECS and VPC
// requests. It owns everything that lies between a method and the wire:
// credentials and their renewal, one rate limiter per action, repetition with
// the same client token, the checks of every answer, and the metrics.
//
// A limiter's queue is in the order of the callers' priorities (cloud.WithPriority), so that
// what pods wait for is before what fills pools. Whoever has other work is told when to come
// again instead of being queued (cloud.WithDeferral). A temporary credential is renewed
// beside the calls that the old one signs.
//
// It must never decide anything about nodes or pools, never keep a copy of what
// the cloud holds, and never put a secret into a log, an error or a label.
package alibaba
