package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"terway.dev/terway/internal/kernel"
)

// PodNetNS returns the network namespace of the pod on a node with an address, as a path that
// this machine can open. The runtime keeps the namespaces in the node's own mount namespace.
func (s *State) PodNetNS(node string, addr netip.Addr) (string, error) {
	b, err := os.ReadFile(s.Options.nodeDir(node, "pid"))
	if err != nil {
		return "", fmt.Errorf("find the first process of %s: %w", node, err)
	}
	dir := filepath.Join("/proc", strings.TrimSpace(string(b)), "root/run/netns")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("list the pods' network namespaces on %s: %w", node, err)
	}
	var wrong []error
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		found := false
		if err := kernel.InNSAt(path, func() error {
			addrs, err := net.InterfaceAddrs()
			for _, a := range addrs {
				if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr() == addr {
					found = true
				}
			}
			return err
		}); err != nil {
			wrong = append(wrong, err) // the pod is ending
		}
		if found {
			return path, nil
		}
	}
	return "", errors.Join(append([]error{fmt.Errorf("no pod on %s has %s (of %d network namespaces)", node, addr, len(entries))}, wrong...)...)
}
