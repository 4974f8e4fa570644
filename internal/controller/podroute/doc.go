// Package podroute gives each node's pod CIDR an entry in the VPC's route tables,
// for clusters whose pods have addresses of a pod CIDR (network: flannel).
//
// It owns the entries inside the pod CIDR that carry the cluster's mark, and the condition
// NetworkUnavailable of nodes. It never deletes an entry without that mark, never deletes one
// because a cache lacks a Node or has an older version of it than the API server, never deletes one
// because the cloud does not answer, and never changes two things in the VPC at once. It depends on
// no memory: nodes and tables have all the state. A batch that was cut short, by a kill or a lost
// answer, is visible in the table.
//
// In which VPC instances are, and which tables exist, hardly changes: while the cloud does not
// answer, its last answers are used. The tables' entries are read each time, or nothing is changed.
// A failed query is not repeated at once, whatever triggers a reconcile.
//
// There is one work item, the VPC. Package entries decides the next change; this package reads,
// makes the call, and reports.
package podroute

// Mark returns the name of the cluster's route entries, which distinguishes them from those of
// others (VPC API: RouteEntries.N.Name, at most 128 characters; a cluster id has at most 64).
func Mark(clusterID string) string { return "terway-" + clusterID }
