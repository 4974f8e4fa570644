// Package shaping is the feature that limits pods' bandwidth: what exceeds a limit waits in a queue,
// and is dropped when the queue is full. docs/bandwidth.md has what is counted and how to look.
//
// It owns, on the devices of pods with a limit alone, the root queueing discipline: HTB with one class
// and below it a TBF that takes large packets apart and has the queue (fq_codel, else a plain one), or TBF where the kernel has no HTB. Where a direction
// has no device of its own that all its packets leave by, it also owns the device ifb of that
// direction in the pod's namespace, and the filters that send the packets there. All of it disappears
// with the pod's devices or its namespace, so there is nothing to delete on the node.
//
// A pod without a limit has none of these objects, and nothing is read for it. It must never take a
// pod for one without a limit because the kernel lacks something: such a pod does not start.
package shaping
