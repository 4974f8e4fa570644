// Package policy is the model that every policy language is translated into: Kubernetes
// NetworkPolicy, Calico v3 policies and ClusterNetworkPolicy.
//
// It owns the types: tiers of policies, policies of rules, the conditions of a rule, and the
// objects of a cluster that rules refer to. It holds no algorithm: package translate makes a
// Set from the API's objects, package compile makes tables from a Set and a Cluster. It must
// never import either of them, nor a Kubernetes client, netlink or a clock.
//
// How a Set decides. A connection is judged twice: at the pod that opens it (egress), and at
// the pod that receives it (ingress). Both must allow it. The tiers are evaluated in order. A
// tier is skipped if none of its policies selects the pod for this direction. In the other
// tiers the rules of the policies that select the pod are tried in order:
//
//   - Allow and Deny decide; no later tier is evaluated;
//   - Pass continues with the next tier;
//   - Log records the connection and continues with the next rule;
//   - after the last rule of a tier its Default applies: Deny, or Pass.
//
// After the last tier the connection is allowed. Packets of an allowed connection (replies,
// ICMP errors about it) are not judged again.
package policy
