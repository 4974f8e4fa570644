// Package claims has the names and numbers that Terway uses in places that it shares with other
// programs: on a node the names of devices, rule priorities, table numbers, marks, device groups
// and priorities of tc filters; in the cluster the keys of labels, annotations and taints, and the
// extended resource. It also has the names of networks, modes and datapaths. No other package
// repeats them.
//
// It contains values and the functions that make them, calls no kernel and imports no other package
// of the project: the planner, the configuration and the controllers use it too. Package linkkind
// tells which devices are Terway's.
package claims
