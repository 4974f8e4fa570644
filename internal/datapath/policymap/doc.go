// Package policymap puts a node's compiled policies into the kernel's maps, in which bpf/policy.h looks
// for verdicts.
//
// Each map is there twice: two halves, of which the head names the one that holds. A change is written into the other half,
// the head is replaced, and then the former half gets the change too. A packet reads one half from
// its first look to its last, so it sees the rules before the change or after it. The kernel returns from replacing the head
// when no program can still see the former one (synchronize_rcu, as after every change of a map of maps), so no row is
// replaced that a packet can see, and rows that become free can be used again at once.
//
// A change that takes nothing away and replaces nothing does not wait for that: a pod starts whose rules are there, or an address
// comes. Its rows held nothing; they are written into the half that holds, each before those that lead to it, and the address comes last.
//
// Rows keep their numbers from one change to the next: requests to the kernel follow the change. Only the sorted
// ranges move behind a new one. What compile.Node names by a hash is looked through for each change, without asking the kernel.
//
// If the process ends at any point the half that holds is whole. The next process writes both halves anew, the one that holds last.
//
// The package does not load programs and does not attach them: it is given the maps of policy.h.
package policymap
