// Package preview compares two sets of policies in one cluster. It returns which pairs of ends
// can connect before but not after, or the other way round, with the traffic and the deciding
// rules.
//
// It tries no connections. It takes the tables that package compile makes of both sets, in
// which the traffic of a rule set and an atom is a list of disjoint intervals, and compares the
// intervals. So it finds a difference in a single port, and reports no difference that does not
// exist. The tests compare it with package naive, which it must not import.
//
// A connection is allowed if egress at the pod that opens it and ingress at the pod that
// receives it allow it. Ends that are no pods, or pods in the host network, allow everything.
// If only the deciding rule changes and not the verdict, there is no difference. Connections of
// a pod to itself are not compared.
package preview
