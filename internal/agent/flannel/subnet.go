// Package flannel makes the CNI configuration of a node whose pods use Flannel: the official
// bridge, host-local and portmap plugins, configured from the file in which flanneld writes the
// node's block of the pod CIDR.
//
// It owns that configuration, the copies of those plugins on the node, and the file that requests a
// restart of flanneld. It must not touch the kernel, the cluster or the cloud: flanneld makes the
// node's NAT rules, the plugins wire the pods, package cluster publishes the blocks, the controller
// writes the VPC's routes.
package flannel

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Subnet is the contents of flanneld's file.
type Subnet struct {
	// Ranges has one entry for each family, IPv4 first.
	Ranges []Range
	// MTU of the pods.
	MTU int
	// Masquerade is true if flanneld itself masquerades what leaves the pod CIDR.
	Masquerade bool
}

// Range is the part of one family.
type Range struct {
	// Network is the pod CIDR of the whole cluster, Block the node's part of it.
	Network, Block netip.Prefix
	// Gateway is the bridge's address, the first of Block.
	Gateway netip.Addr
}

// Blocks returns the node's blocks, IPv4 first.
func (s *Subnet) Blocks() (all []netip.Prefix) {
	for _, r := range s.Ranges {
		all = append(all, r.Block)
	}
	return all
}

// The smallest MTUs that the protocols allow (576, which every host accepts, RFC 791; RFC 8200) and
// the largest packet of either.
const (
	minMTU4 = 576
	minMTU6 = 1280
	maxMTU  = 65535
)

// Parse reads flanneld's subnet file (flannel's pkg/subnet, WriteSubnetFile). The error names every
// problem. Unknown keys are ignored: another version may write them.
func Parse(data []byte) (*Subnet, error) {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	values := map[string]string{}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		k, v, ok := strings.Cut(line, "=")
		if !ok {
			bad("line %.80q: want KEY=VALUE", line)
			continue
		}
		if _, twice := values[k]; twice {
			bad("%.80s occurs twice", k)
		}
		values[k] = v
	}
	s := &Subnet{}
	least := minMTU4
	for _, family := range []string{"FLANNEL_", "FLANNEL_IPV6_"} {
		network, hasNetwork := values[family+"NETWORK"]
		block, hasBlock := values[family+"SUBNET"]
		if !hasNetwork && !hasBlock {
			continue
		}
		r, err := parseRange(family, network, block)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if r.Block.Addr().Is6() {
			least = minMTU6
		}
		s.Ranges = append(s.Ranges, r)
	}
	if len(s.Ranges) == 0 && len(errs) == 0 {
		bad("FLANNEL_NETWORK and FLANNEL_SUBNET are missing: want the cluster's pod CIDR and the node's block of it")
	}
	mtu, err := strconv.Atoi(values["FLANNEL_MTU"])
	if err != nil || mtu < least || mtu > maxMTU {
		bad("FLANNEL_MTU %.80q: want %d to %d", values["FLANNEL_MTU"], least, maxMTU)
	}
	s.MTU = mtu
	switch v := values["FLANNEL_IPMASQ"]; v {
	case "true", "false":
		s.Masquerade = v == "true"
	default:
		bad("FLANNEL_IPMASQ %.80q: want true or false", v)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return s, nil
}

// parseRange reads the two values of a family: "172.20.0.0/16" and "172.20.1.1/24", the block with
// its first address.
func parseRange(family, network, block string) (Range, error) {
	want6 := family == "FLANNEL_IPV6_"
	n, err := netip.ParsePrefix(network)
	if err != nil || n != n.Masked() || n.Addr().Is6() != want6 || n.Addr().Is4In6() {
		return Range{}, fmt.Errorf("%sNETWORK %.80q: want the cluster's pod CIDR, for example %s", family, network, example(want6, "172.20.0.0/16", "fd00:20::/56"))
	}
	b, err := netip.ParsePrefix(block)
	if err != nil || b.Addr().Is6() != want6 || b.Addr().Is4In6() || b.Addr() != b.Masked().Addr().Next() {
		return Range{}, fmt.Errorf("%sSUBNET %.80q: want the node's block with its first address, for example %s", family, block, example(want6, "172.20.1.1/24", "fd00:20:0:1::1/64"))
	}
	// The bridge and at least one pod need an address; IPv4's broadcast address is not usable.
	if b.Bits() > b.Addr().BitLen()-2 {
		return Range{}, fmt.Errorf("%sSUBNET %s: the block has no address for a pod", family, block)
	}
	if b.Bits() < n.Bits() || !n.Contains(b.Addr()) {
		return Range{}, fmt.Errorf("%sSUBNET %s: want a block of %sNETWORK, %s", family, block, family, network)
	}
	return Range{Network: n, Block: b.Masked(), Gateway: b.Addr()}, nil
}

func example(six bool, four, v6 string) string {
	if six {
		return v6
	}
	return four
}
