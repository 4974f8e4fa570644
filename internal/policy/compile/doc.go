// Package compile turns policies into lookup tables. A node finds the verdict for a connection
// with a few lookups, however many rules there are.
//
// It owns the format of the tables, from the cluster's objects to the rows of the kernel's
// maps, and the lookup itself (Maps.Lookup), which the eBPF program repeats step by step. It
// must never read a cluster or a kernel, use a clock, or import package naive, which the tests
// compare it with.
//
// # Why tables
//
// Evaluating rules one by one makes each new connection pay for every rule. Engines that
// generate a chain or a program for each pod are slow for this reason, and the kernel's
// verifier rejects a program with too many rules. Engines that keep one map of identities and
// ports for each pod must flatten order, tiers and Pass into one entry for each peer and port,
// and their maps run full. Here the compiler resolves order, tiers and Pass, and equal tables
// are stored once.
//
// # How
//
// A term is one condition of a rule on the other end's address: a pod selector, a network, a
// node selector, a Service's endpoints or the name of a port. A term is live while an endpoint
// has a rule with it. An atom is a set of addresses for which the same live terms hold, so that
// no rule tells them apart; for named ports the port numbers are equal too. Addresses of pods,
// of nodes and outside the cluster are treated alike, so a CIDR matches pods and nodes with an
// address in it.
//
// A rule set holds all rules that apply to a pod in one direction and family, of all tiers.
// Pods with equal rules share one. Conditions on the pod itself (its address, its named ports)
// are evaluated when the pod gets its rule set.
//
// For one rule set and one atom, only protocol and port are left to decide. The compiler
// assigns the rules to port intervals in order; an earlier rule keeps the intervals that it
// covers. The result is a table: disjoint intervals for each class of protocols, each with its
// decision and the deciding rule. A table has no tiers, Pass, defaults or not-matches. Source
// ports are a second list of intervals below a destination interval. See ruleSet for how the
// compiler avoids a table for every combination of rules and atoms.
//
// The base of an atom has only the traits that follow from the address itself: its networks,
// and whether a pod has it. A rule set that uses no other trait of an atom uses the table of
// the base. So "all but 10.0.0.0/8" needs one table, and not one for each kind of pod in
// 10.0.0.0/8.
//
// A packet costs these lookups: the address's atom in a hash map, and for an unknown address in
// sorted ranges; the table of (rule set, atom), and if there is none of (rule set, base); the
// port in the table; and, unless that table's decision is final, the port in the default table.
//
// # What a change costs
//
// A Compiler is told what changed, and updates only what depends on it. The tests compare the
// result with compiling from scratch. Selectors are evaluated once for each class of pods with
// equal relevant labels. A pod of a known class needs no evaluation, and its addresses join an
// existing atom. A new atom costs a table for each rule set that uses one of its terms. A
// policy costs the rule sets of the pods that it selects and, if its terms are new, the
// addresses for which they hold. A change of networks rewrites the sorted ranges, as the
// kernel's array needs; rule sets that do not use the networks are not visited (see networkGroup).
// New labels of a namespace cost the pods in it.
//
// # What a node gets
//
// ForNode reduces all this to the terms in the rules of the node's own pods. Atoms that these
// rules cannot tell apart become one, and addresses that no rule mentions are left out. Each
// part is named by a hash of its content, so replicas agree on names without talking to each
// other, and a node fetches only the parts that it does not have.
//
// # Rule sets beyond the budget
//
// A rule set beyond the Budget fails closed: its pods neither open nor get new connections, and
// Errors names the policy. Other rule sets are not affected.
package compile
