// Package loadbalancer gives Services of type LoadBalancer their load balancers in the cloud, with the pods
// themselves as backends, or the nodes with Flannel.
//
// Package internal/loadbalancer says what a Service wants; this package reads what the cloud has, makes the
// calls, and reports. It owns the load balancers that carry the tag of a Service of this cluster, the groups
// and listeners with the Service's mark in them, and the backends with its mark in the groups of a load
// balancer that belongs to the user. It never changes or deletes anything else.
//
// It depends on no memory: a Service's finalizer is there before anything is made for it, what is made is found
// by tag or mark, and the finalizer goes last. What a group holds is known from one read and from the own
// changes; a change of pods needs no read.
package loadbalancer
