// Package teardown removes from a node's kernel what Flannel has made there: the bridge with its pods' devices, and nftables tables. It
// must not touch another network's bridge of the same name.
package teardown

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"terway.dev/terway/internal/agent/flannel"
	"terway.dev/terway/internal/netlinkx"
)

// Kernel is a node's: its network namespace, and the range of all pods.
type Kernel struct {
	NS      netns.NsHandle
	PodCIDR netip.Prefix
}

// bridge returns the bridge, if it has an address of the pods' range, and its pods' devices.
func (k Kernel) bridge(h *netlink.Handle) (bridge netlink.Link, pods []netlink.Link, left string, err error) {
	link, err := h.LinkByName(flannel.Bridge)
	if netlinkx.Gone(err) {
		return nil, nil, "", nil
	}
	if err != nil {
		return nil, nil, "", fmt.Errorf("read device %s: %w", flannel.Bridge, err)
	}
	addrs, err := h.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil, nil, "", fmt.Errorf("list the addresses of %s: %w", flannel.Bridge, err)
	}
	ours := false
	for _, a := range addrs {
		ours = ours || k.PodCIDR.Contains(netlinkx.Addr(a.IP))
	}
	if !ours || link.Type() != "bridge" {
		return nil, nil, fmt.Sprintf("device %s is not a bridge with an address of %s", flannel.Bridge, k.PodCIDR), nil
	}
	links, err := h.LinkList()
	if err != nil {
		return nil, nil, "", fmt.Errorf("list devices: %w", err)
	}
	for _, l := range links {
		if l.Attrs().MasterIndex == link.Attrs().Index {
			pods = append(pods, l)
		}
	}
	return link, pods, "", nil
}

// Pods returns how many pods the node connects.
func (k Kernel) Pods() (int, error) {
	h, err := netlinkx.Open(k.NS)
	if err != nil {
		return 0, err
	}
	defer h.Close()
	_, pods, _, err := k.bridge(h)
	return len(pods), err
}

// Remove removes all, and returns a line for what stays because it is somebody else's.
func (k Kernel) Remove() (left []string, err error) {
	h, err := netlinkx.Open(k.NS)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	bridge, pods, other, err := k.bridge(h)
	if err != nil {
		return nil, err
	}
	if other != "" {
		left = append(left, other)
	}
	if bridge != nil {
		pods = append(pods, bridge)
	}
	var errs []error
	for _, l := range pods {
		if err := h.LinkDel(l); err != nil && !netlinkx.Gone(err) {
			errs = append(errs, fmt.Errorf("delete device %s: %w", l.Attrs().Name, err))
		}
	}
	return left, errors.Join(append(errs, k.removeTables())...)
}

// flannelds are flanneld's tables (pkg/trafficmngr/nftables). It removes them itself when it ends, but not when it is killed.
var flannelds = map[string]nftables.TableFamily{"flannel-ipv4": nftables.TableFamilyIPv4, "flannel-ipv6": nftables.TableFamilyIPv6}

// hostPorts is the name of the tables of the plugin portmap, which never removes them; hostPortChains have its pods' rules.
const hostPorts = "cni_hostport"

var hostPortChains = map[string]bool{"hostports": true, "hostip_hostports": true}

func (k Kernel) removeTables() error {
	var options []nftables.ConnOption
	if k.NS.IsOpen() {
		options = append(options, nftables.WithNetNSFd(int(k.NS)))
	}
	c, err := nftables.New(options...)
	if err != nil {
		return fmt.Errorf("open nftables netlink socket: %w", err)
	}
	tables, err := c.ListTables()
	if err != nil {
		return fmt.Errorf("list nftables tables: %w", err)
	}
	for _, t := range tables {
		family, ours := flannelds[t.Name]
		ours = ours && t.Family == family
		if t.Name == hostPorts {
			if ours, err = unused(c, t); err != nil {
				return err
			}
		}
		if !ours {
			continue
		}
		c.DelTable(t)
		if err := c.Flush(); err != nil && !netlinkx.Gone(err) {
			return fmt.Errorf("delete nftables table %s: %w", t.Name, err)
		}
	}
	return nil
}

// unused reports whether a table of portmap has no rule of a pod, of whichever network: the plugin makes it again for the next one.
func unused(c *nftables.Conn, t *nftables.Table) (bool, error) {
	chains, err := c.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return false, fmt.Errorf("list nftables chains: %w", err)
	}
	for _, chain := range chains {
		if chain.Table.Name != t.Name || !hostPortChains[chain.Name] {
			continue
		}
		rules, err := c.GetRules(t, chain)
		if err != nil {
			return false, fmt.Errorf("list the rules of nftables chain %s of table %s: %w", chain.Name, t.Name, err)
		}
		if len(rules) > 0 {
			return false, nil
		}
	}
	return true, nil
}
