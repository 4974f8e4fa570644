// Package lab builds a real Kubernetes cluster on a simulated VPC on one machine
// and takes it down again.
//
// It owns the lab's directory, its build cache, the processes it starts and the
// namespaces, mounts and cgroups they live in. All of it can be found again after
// a crash: processes carry the environment variable Marker, namespaces and
// cgroups the prefix Prefix.
//
// It must never change the machine outside of these: no address, route, sysctl or
// nftables rule of the root network namespace, no mount in the root mount
// namespace, no file outside its two directories. A node therefore has an overlay
// of the machine's root as its own root, and whatever runs on the node writes
// there.
//
// The lab is a user of the product, not a part of it: it talks to the simulated
// cloud through the official SDK and installs Terway with Helm.
package lab
