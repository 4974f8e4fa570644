// Package routing is what a node has once, however many pods it has: the rules, a table for
// each ENI, and what an ENI's device needs to carry pods' packets.
//
// It owns rules and routes with protocol 84 in the tables of ENIs, and of the ENIs that it is
// given state, MTU, one host-scope address and sysctls. The routes to pods, in the table of
// local pods, are others' work. It knows no pod, and must never change another rule or route.
package routing
