// Package nodenetwork gives each node its ENIs and addresses.
//
// It owns the spec of every NodeNetwork and all ENIs that carry the cluster's
// tag. It must never take away an address before the node has confirmed that it
// stopped using it, never offer one that is not assigned, and never create
// anything in the cloud before the intent is recorded in the spec. Its order of
// steps is such that a kill between any two leaves something that the next
// reconcile finishes:
//
//   - an ENI is recorded with its client token, then created with that token;
//   - an address is assigned in the cloud, then written to the spec; if the write
//     is lost the address is found on the ENI and adopted;
//   - an address that the node has confirmed is marked Unassigning, then
//     unassigned, then dropped from the spec; a repeated unassignment does no harm.
//     The mark is written only if the spec is still the one known, so a leader that was deposed
//     stops there;
//   - an ENI is marked Detaching, then detached, deleted and dropped.
//
// A node's ENIs are given back when its Node is gone (the API server itself says so, not a
// cache), is labelled to be left alone, or is another instance, and only then when its agent
// has confirmed that no pod has an address, when two answers of the cloud say that the
// instance is stopped or gone, or after GoneDelay. The condition NodeGone says what is waited for. A Node that
// comes back keeps all. One that is labelled keeps them while pods have addresses. To delete the
// NodeNetwork of a node that is there changes nothing: the finalizer holds it, and it goes
// on serving. If it goes by force, what the cloud has is adopted before anything is made.
//
// One gap is left: a leader that is deposed between the mark and the call to the cloud
// makes the call late. It ends itself when it cannot renew its lease, before a successor
// may begin, so it takes a process that stands still for longer than the lease and then
// goes on, and a successor that in that time unassigned the address and was given it
// again for the same ENI. The next comparison finds that such an address is gone.
//
// The cloud is compared with the spec when a process first sees a node, after an
// error, and when the sweep finds a difference. The answers to calls are true; the
// cloud's lists may be ListsLag old, and evidence.go says what of them is believed when.
// So what the controller took away is written into the spec for that long, and no list,
// and no restart, brings it back. Lists older than that, and a NodeNetwork that is made
// anew within that time of an unassignment, are not borne: an address that is taken for
// one of the node's is then offered until the lists are right.
//
// Before anything is destroyed the API server is asked, not the cache, and a deletion names
// the UID of what it means. Order is checked against what is durable: the generation of the
// spec that the node has confirmed, not what this process remembers.
//
// Fixing one difference moves the records of the spec: nothing holds a pointer into them
// over a cut or a save, but their tokens. What was taken is given back in a defer, the
// doubt about a node above all: without it the node is not compared again.
//
// What a reconcile costs must not grow with the cluster, and one node's, vSwitch's or
// action's trouble must not be another node's:
//
//   - whatever is asked of the cloud for many nodes goes through an answers.Cache or the
//     lister: one flight for a key, old answers serve, failures are remembered;
//   - what a new leader cannot ask for is as the spec has it: ENIs that are there get
//     addresses, none is made, nothing more is taken away;
//   - no plan waits for vSwitches' figures: what the old ones allow is done, the rest when
//     new ones are there;
//   - an operation that fails is tried again after a pause of its own, which grows
//     (calls.go); a node that wants more than then, or has other settings, does not wait
//     to its end;
//   - doubt about one node asks for that node's ENIs; all are listed by the sweep, and once
//     by a new leader;
//   - calls say whether pods wait for them, and are deferred rather than waited for where
//     many are before them: a worker that is held holds nodes that need another action.
package nodenetwork

// The tags on every ENI that the controller creates.
const (
	TagCreator = "creator"
	TagNode    = "terway.dev/node"
	TagToken   = "terway.dev/token"
	// TagExclusive marks an ENI that serves one pod.
	TagExclusive = "terway.dev/exclusive"
	// tagOwn is TagExclusive under the name of the former version; it is read, not written.
	tagOwn = "terway.dev/own"

	creator = "terway"
)
