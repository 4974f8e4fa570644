// Package claims has what the datapaths claim for themselves on a node and the words that
// the rest of the project uses for them: names of datapaths and modes, names of devices,
// rule priorities, table numbers, marks, device groups and priorities of tc filters.
//
// It is values and the functions that make them, and must never ask the kernel or import
// another package of the project: the planner and the configuration use it too. Package
// linkkind says which devices are ours.
package claims
