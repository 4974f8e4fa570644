// Package preview compares what two sets of policies say of one cluster: which pairs of ends
// may talk before and not after, or the other way round, by which traffic and by which rules.
//
// It tries no connection. It takes the tables that package compile makes of both, in which the
// traffic of a rule set and an atom is disjoint intervals, and cuts these against each other: so
// a difference of a single port among all is found, and nothing is that is none. Package naive
// is what it is held against, and must not be imported.
//
// A connection is allowed if egress at the pod that opens it and ingress at the pod that it goes
// to allow it; ends that are no pods, or pods of the host's network, allow everything. A change
// of the deciding rule that leaves the answer as it was is no difference, and what a pod sends to
// itself is not asked.
package preview
