// Package route is the kind of pod that every supported kernel can run: a veth for each pod and
// policy routing on the node, by the host stack alone. Package node implements all of that for
// every kind of pod; this package tests whether the kernel supports it.
package route

import (
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/node"
)

// New returns the kind.
func New() node.Kind { return node.Plain{KindName: claims.Route} }
