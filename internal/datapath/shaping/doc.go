// Package shaping has two features by which packets wait in queues, and are dropped when those are full:
// Feature limits pods' bandwidth, Priorities lets packets leave an ENI by their pods' network priority.
// docs/bandwidth.md has what is counted and how to look.
//
// Feature owns, on the devices of pods with a limit alone, the root queueing discipline: HTB with one class
// and below it a TBF that takes large packets apart and has the queue (fq_codel, else a plain one), or TBF where the kernel has no HTB. Where a direction
// has no device of its own that all its packets leave by, it also owns the device ifb of that
// direction in the pod's namespace, and the filters that send the packets there. All of it disappears
// with the pod's devices or its namespace, so there is nothing to delete on the node.
//
// A pod without a limit has none of these objects, and nothing is read for it. The feature must never take a
// pod for one without a limit because the kernel lacks something: such a pod does not start.
//
// Priorities owns, on the shared ENIs of a node with a total for them alone, the root queueing discipline, HTB
// with a class of the total and below it one for each priority; the tc filter with the program of bpf/priority.c, which says to
// which class a packet belongs; and the map by which it knows that. It must never replace a root discipline of others, and
// never keep a pod from starting.
package shaping
