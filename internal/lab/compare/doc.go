// Package compare measures the properties that the user guide compares for the two networks,
// Terway and Flannel, on one lab after the other: throughput and latency of pods relative to
// their nodes', a NetworkPolicy, held and used addresses, route entries, a bandwidth limit. It
// reports results and judges nothing. Speeds depend on the machine, so they are only reported
// relative to the nodes' own, measured alternately in the same run.
//
// It changes nothing in the lab that a user could not change, and removes what it made.
package compare
