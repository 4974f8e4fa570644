// Package compare measures what the user guide says of the two networks, Terway and
// Flannel, on one lab after the other: throughput and latency of pods against their
// nodes', a NetworkPolicy, addresses held against addresses used, route entries, a
// bandwidth limit. It writes down what it saw, and judges nothing: a machine is slow
// or busy, so speeds are only ever told as a ratio to the nodes' own, measured in
// turns in the same run.
//
// It changes nothing of the lab that a user could not change, and takes away what it
// made.
package compare
