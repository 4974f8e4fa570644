//go:build bench

// Package bench measures how close each datapath comes to the host, and how long a pod takes to
// get and to lose its network, compared with other plugins. "make bench-datapath" and "make
// bench-cni" run it; docs/benchmarks.md explains the results.
//
// Its tests assert no duration and no ratio: they print goals and whether they are met.
package bench
