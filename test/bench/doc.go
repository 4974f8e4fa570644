//go:build bench

// Package bench measures how close each datapath comes to the host, how long a pod takes to get and
// to lose its network, compared with other plugins, what policies cost, and how close rates come to
// bandwidth limits. "make bench-datapath", "make bench-cni", "make bench-policy" and "make
// bench-bandwidth" run it; docs/benchmarks.md explains the results.
//
// Its tests assert no duration and no ratio: they print goals and whether they are met.
package bench
