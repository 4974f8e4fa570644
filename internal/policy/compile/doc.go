// Package compile makes tables of policies, in which a node finds the verdict on a connection
// with a few searches, however many rules there are.
//
// It owns the tables' form, from the cluster's objects to the rows of the kernel's maps, and
// the search in them (Maps.Lookup), which the kernel's program does step by step. It must
// never read a cluster or a kernel, know a clock, or import what it is held against (package
// naive).
//
// # Why tables
//
// Walking rules costs what the rules cost, for each new connection: that is what made engines
// which generate a chain or a program for each pod slow, and what the kernel's verifier
// refuses to load when there are enough. Engines that keep a map of identities and ports
// for each pod flatten order, tiers and Pass by hand when they fill it, one entry for each peer
// and port, and such maps run full. Here order is compiled away, and what is equal is one.
//
// # How
//
// An atom is a class of addresses that the live rules cannot tell apart: pods, nodes,
// networks outside, all the same. What a rule asks of the other end is a term: pods that a
// selector selects, networks, nodes, a Service's endpoints, the name of a port. An atom is
// the set of terms that hold for its addresses, and for names of ports the numbers. Terms
// are live while an endpoint has a rule that asks them. A network is a term like others, so a
// CIDR matches a pod or a node that has an address in it.
//
// A rule set is all that policies say of a pod in one direction and family, all tiers
// together. Pods of which they say the same share it. What a rule asks of the pod itself (its
// address, its named ports) is answered when the pod gets its rule set.
//
// For a rule set and an atom only protocol and port are left. The rules are painted over the
// numbers in order, each on what is still bare. What comes of it is a table: disjoint
// intervals for each class of protocols, each with its decision and the rule that decided.
// Tiers, Pass, defaults and not-matches are gone. Source ports are a second line behind an
// interval. See ruleSet for how a product of rules and atoms is avoided.
//
// An atom's base is what is left of it without what is known of its addresses alone: the
// networks that they are in, and whether a pod has them. A rule set that asks nothing more of
// an atom has its base's table for it, so that "all but 10.0.0.0/8" makes one table, and not
// one for each kind of pod in 10.0.0.0/8.
//
// A packet then costs: one search for the address's atom in a hash map, and where nobody has
// the address one in sorted ranges; one or two for the table of (rule set, atom or base); one
// in its line; and, unless the table had the last word, one in the default table's line.
//
// # What a change costs
//
// A Compiler is told what changed, and does what follows from that, which the tests hold
// against compiling anew. Selectors are asked once for each class of pods with the same
// relevant labels; a pod of a class that is known is asked nothing, and its addresses enter an
// atom that is there. An atom that is new costs a table for each rule set that names one
// of its terms. A policy costs the rule sets of the pods that it selects, and, if its terms
// are new, the addresses that they hold for. A change of networks writes the sorted ranges
// anew, as the kernel's array must be; rule sets that do not ask for them are not looked at (see
// horizon). Relabelling a namespace costs its pods.
//
// # What a node gets
//
// ForNode projects all this onto the terms that the rules of the node's own pods ask: atoms
// that they cannot tell apart are one atom there, and addresses of which they say nothing are
// not in it. Everything is named by a hash of what it says, so replicas agree without
// talking, and a node that has most of it already gets the rest.
//
// # What has no tables
//
// A rule set beyond the Budget fails closed: its pods open and get no new connections, and
// Errors names the policy. Others are not touched.
package compile
