// Package state is the state of the simulated cloud: a deterministic state machine of VPCs,
// vSwitches, ENIs, instances, security groups, route tables, load balancers and tags, with the
// real service's states, quotas and error codes.
//
// It owns what the cloud contains and when an asynchronous operation is done. It must never
// start a goroutine, read a clock or use randomness other than that of Options, touch a network
// device, or serve HTTP.
//
// # Products
//
// The cloud is divided like the real one: ECS (files ecs*.go), VPC (vpc*.go), SLB (slb*.go) and
// NLB (nlb*.go), each with its actions, resources, requests and, in ecs.go and the like, its row
// in the table of products. The other files are common to all. Another product needs a file with
// such a row, and a line each in products, API, View, and few or many.
//
// # Use
//
// Every OpenAPI action is one method. A request struct has the action's parameters by their own
// names and consists of strings, ints, bools, pointers to those (where absent differs from
// zero), string lists and lists of such structs, so that a decoder can fill it by reflection.
// Requests are validated here, with the codes of the real service: an error is always an
// *Error, and an action that returns one has changed nothing. Parameters without a meaning in a
// simulated VPC (disks, prices, images) are not in the structs.
//
// Results are copies: the caller may keep and change them.
//
// # Time
//
// Asynchronous operations take the durations of Timing and complete in Tick, never in the call
// that starts them: with a zero duration at the next Tick. Callers run Tick(now) before each
// request and at NextDue.
//
// # Concurrency
//
// A State is not safe for concurrent use; its owner holds a mutex.
package state
