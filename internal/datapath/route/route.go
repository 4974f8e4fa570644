// Package route is the kind of pod that any supported kernel can run: a veth for each pod and
// policy routing on the node, by the host stack alone. All of that is what every pod has
// (package node); this package says whether the kernel can do it.
package route

import (
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/node"
)

// New is the kind.
func New() node.Kind { return node.Plain{KindName: claims.Route} }
