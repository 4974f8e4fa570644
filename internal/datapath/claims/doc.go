// Package claims has what Terway claims for itself among what others use too, and the words
// for it: on a node the names of devices, rule priorities, table numbers, marks, device groups
// and priorities of tc filters; in the cluster the keys of labels, annotations and taints, the
// extended resource; and the names of networks, modes and datapaths. Nothing of it is said a
// second time elsewhere.
//
// It is values and the functions that make them, and must never ask the kernel or import
// another package of the project: the planner, the configuration and the controllers use it too. Package
// linkkind says which devices are ours.
package claims
