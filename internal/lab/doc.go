// Package lab starts a real Kubernetes cluster on a simulated VPC on one machine and takes it
// down again.
//
// It owns the lab's directory, its build cache, the processes that it starts and their
// namespaces, mounts and cgroups. All of it can be found after a crash: processes have the
// environment variable Marker, namespaces and cgroups the prefix Prefix.
//
// It must never change the machine outside of these: no address, route, sysctl or nftables rule
// of the root network namespace, no mount in the root mount namespace, no file outside its two
// directories. Therefore the root of a node is an overlay of the machine's root, and programs
// on the node write there.
//
// The lab uses the product like a user: it calls the simulated cloud through the official SDK
// and installs Terway with "terwayctl install".
package lab
