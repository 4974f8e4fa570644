// Package policy is the one model that every policy language is translated into:
// Kubernetes' NetworkPolicy, Calico's v3 policies and ClusterNetworkPolicy.
//
// It owns the words: tiers of policies of rules, what a rule asks of a connection, and
// the facts of a cluster that rules are about. It holds no algorithm: translate makes a
// Set of the API's objects, compile makes tables of a Set and a Cluster. It must never
// import either, nor a Kubernetes client, netlink or a clock.
//
// How a Set decides. A connection is judged twice: at the pod that opens it (egress), and
// at the pod that it goes to (ingress); both must allow it. One judgement walks the tiers
// in order. A tier in which no policy selects the pod for this direction is skipped. In the
// others the rules of the policies that select the pod are tried in order:
//
//   - Allow and Deny end the judgement, over all tiers;
//   - Pass leaves the tier;
//   - Log is noted, and the walk goes on;
//   - after the last rule of a tier its Default holds: Deny, or Pass.
//
// After the last tier the connection is allowed. What belongs to an allowed connection
// (its replies, ICMP errors about it) is not judged.
package policy
