// Package migrate makes objects of projectcalico.org/v3 of those that Calico up to 3.31 keeps for
// itself in the API group crd.projectcalico.org/v1: what the existing Terway's chart installs, and
// what its users' policies are in.
//
// It owns how the private group stores an object: where names, labels and annotations are, and
// what a field that is not there means to the engine that read it. It is pure: it reads objects and
// makes objects, and must never ask a cluster.
package migrate
