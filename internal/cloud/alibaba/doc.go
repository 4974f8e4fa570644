// Package alibaba implements cloud.API with the official SDK's typed ECS and VPC
// requests. It owns everything that lies between a method and the wire:
// credentials and their renewal, one rate limiter per action, repetition with
// the same client token, the checks of every answer, and the metrics.
//
// It must never decide anything about nodes or pools, never keep a copy of what
// the cloud holds, and never put a secret into a log, an error or a label.
package alibaba
