// Package firewall is about others' rules on the node: pods' packets are forwarded, and every
// base chain at hook forward must let them pass. A verdict "accept" ends one chain, not the
// others. So there are two cases:
//
//   - Chain FORWARD of iptables with policy DROP, as docker sets it. Its rules are a list
//     that programs share; two of ours at its end accept what comes from or goes to a pod.
//     At the end, so that rules of others still decide first: only the policy is overruled.
//     They are there while the policy is DROP.
//   - A chain that is somebody's own (firewalld's), or iptables' where a rule at the end
//     rejects all, or iptables-legacy. It is theirs to change; it is named (datapath.Obstacle).
//
// Whether a chain that drops has rules that let pods pass cannot be computed here. It counts
// as if it had when any rule of its table names the pods' devices (tw…).
//
// It owns two rules at the end of iptables' chain FORWARD, and must never change another one.
package firewall
