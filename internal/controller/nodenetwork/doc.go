// Package nodenetwork gives each node its ENIs and addresses.
//
// It owns the spec of every NodeNetwork and all ENIs with the cluster's tag. It never takes away an
// address before the node has confirmed that it no longer uses it, never offers one that is not
// assigned, and never creates anything in the cloud before the intent is in the spec. Its order of
// steps is such that the next reconcile can continue after a kill between any two:
//
//   - an ENI is recorded with its client token, then created with that token;
//   - an address is assigned in the cloud, then written to the spec; if the write is lost, the
//     address is found on the ENI and adopted;
//   - an address that the node has confirmed is marked Unassigning, then unassigned, then dropped
//     from the spec; repeating the unassignment does no harm. The mark is written only if the spec
//     is the one that this process knows, so a deposed leader stops there;
//   - an ENI is marked Detaching, then detached, deleted and dropped.
//
// A node's ENIs are given back when its Node is gone (according to the API server, not a cache), has
// a label to ignore it, or names another instance; and only after its agent has confirmed that no pod
// has an address, after two answers of the cloud that the instance is stopped or gone, or after
// GoneDelay. The condition NodeGone says what the controller waits for. A Node that comes back keeps
// all. A labelled one keeps its ENIs while pods have addresses. Deleting the NodeNetwork of an
// existing node changes nothing: the finalizer keeps the object, and it continues to serve. If it is
// deleted by force, what the cloud has is adopted before anything is created.
//
// One gap remains: a leader that is deposed between the mark and the call to the cloud makes the call
// late. A leader exits when it cannot renew its lease, before a successor may start. So this needs a
// process that is suspended for longer than the lease, and a successor that in that time unassigned
// the address and got the same one again for the same ENI. The next comparison finds that such an
// address is gone.
//
// The cloud is compared with the spec when a process first sees a node, after an error, and when the
// sweep finds a difference. The answers to calls are up to date; the cloud's lists may be ListsLag
// old, and evidence.go decides which differences are acted on, and when. What the controller took
// away is written into the spec for that long, so neither a list nor a restart brings it back. Older
// lists, and a NodeNetwork that is created again within that time of an unassignment, are not
// handled: an unassigned address may then be offered until the lists are up to date.
//
// Before anything is deleted the API server is read, not the cache, and a deletion has the UID of its
// object as a precondition. Order is checked against what is durable: the generation of the spec that
// the node has confirmed, not what this process remembers.
//
// Fixing one difference moves the records of the spec: code keeps their tokens, not pointers to them,
// across a removal or a save. State that must be restored is restored in a defer, above all
// needsCompare: without it the node is not compared again.
//
// The cost of a reconcile must not grow with the cluster, and a problem of one node, vSwitch or action
// must not affect another node:
//
//   - a query for many nodes goes through an answers.Cache or the lister: one query at a time for a
//     key, old answers are used, failures are remembered;
//   - what a new leader cannot query is as in the spec: existing ENIs get addresses, none is created,
//     nothing more is taken away;
//   - a plan does not wait for vSwitches' free addresses: what the old figures allow is done at once,
//     the rest when new ones arrive;
//   - an operation that fails is tried again after its own growing pause (calls.go), which is cut
//     short when the node needs more or its settings change;
//   - a comparison of one node lists that node's ENIs; all are listed by the sweep, and once by a new
//     leader;
//   - calls say whether pods wait for them, and are deferred instead of waiting behind many others: a
//     waiting worker delays nodes that need another action.
package nodenetwork
