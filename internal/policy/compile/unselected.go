package compile

import (
	"fmt"
	"net/netip"
	"sync"

	"terway.dev/terway/internal/policy"
)

// Unselected returns what the compiler makes of a pod that no policy selects: its rule sets, and the entries that they
// refer to. Everything is allowed to and from such a pod. The result is shared: the caller must not change it.
func Unselected() (endpoint Endpoint, part *Node) {
	part = unselected()
	return part.Endpoints[policy.NamespacedName{}], part
}

var unselected = sync.OnceValue(func() *Node {
	c := New(DefaultBudget)
	pod := &policy.Pod{Addresses: []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}}
	if _, err := c.Apply(All(policy.Set{}, policy.Cluster{Pods: map[policy.NamespacedName]*policy.Pod{{}: pod}})); err != nil {
		panic(fmt.Sprintf("compile a pod without policies: %v", err)) // it is valid, as the test shows
	}
	return c.ForNode("")
})
