//go:build bench

// Package bench measures how close each datapath comes to the host, and how long a pod
// takes to get and to lose its network, against what a user would have else. "make
// bench-datapath" and "make bench-cni" run it; docs/benchmarks.md says how to read it.
//
// No test of it asserts a duration or a ratio: it prints goals, and whether they are met.
package bench
