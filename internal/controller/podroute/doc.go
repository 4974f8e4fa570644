// Package podroute gives each node's pod CIDR an entry in the VPC's route tables,
// for clusters whose pods have addresses of a pod CIDR (network: flannel).
//
// It owns the entries inside the pod CIDR that carry the cluster's mark, and the
// condition NetworkUnavailable of nodes. It must never delete an entry without
// that mark, never delete one because a cache lacks a Node or has it otherwise than the API
// server, never delete one because the cloud does not answer, never change two things in the
// VPC at once, and never depend on what it remembers: nodes and tables say everything. A batch
// that was cut short, by a kill or a lost answer, is seen in the table.
//
// Where instances are and which tables there are hardly changes: while the cloud does not
// say, its last answers serve. What the tables have is read each time, or nothing is changed.
// A question that failed is not repeated at once, whoever wakes the controller.
//
// There is one item of work, the VPC. Package entries decides what comes next;
// this package reads, makes the one call, and reports.
package podroute

// Mark is the name of the cluster's route entries: what tells them from others'.
// (VPC API: RouteEntries.N.Name, at most 128 characters; a cluster id has at most 64.)
func Mark(clusterID string) string { return "terway-" + clusterID }
