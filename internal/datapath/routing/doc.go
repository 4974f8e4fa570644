// Package routing has what a node has once, however many pods it has: the rules, a table for each
// ENI, and the settings of an ENI's device for pods' packets.
//
// It owns rules and routes with protocol 84 in the tables of ENIs, and of given ENIs the state,
// MTU, one host-scope address and sysctls. Other packages write the routes to pods in the table of
// local pods. It knows no pod, and must not change any other rule or route.
package routing
