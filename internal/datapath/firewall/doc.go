// Package firewall handles other programs' firewall rules on the node: pods' packets are forwarded,
// and every base chain at hook forward must accept them. A verdict "accept" ends one chain, not the
// others. There are two cases:
//
//   - Chain FORWARD of iptables with policy DROP, as docker sets it. Programs share its list of rules;
//     two rules of ours at its end accept what comes from or goes to a pod. They are at the end so
//     that rules of others decide first: only the policy is overruled. They exist while the policy
//     is DROP.
//   - A chain of another program (firewalld), or of iptables where a rule at the end rejects
//     everything, or of iptables-legacy. Terway does not change it, but reports it
//     (datapath.Obstacle).
//
// Whether a chain that drops has rules that accept pods' packets cannot be computed here. Terway
// assumes that it has if any rule of its table names the pods' devices (tw…).
//
// It owns two rules at the end of iptables' chain FORWARD, and must not change any other rule.
package firewall
