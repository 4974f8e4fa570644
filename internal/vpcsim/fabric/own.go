package fabric

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/netlinkx"
)

// The fabric's own namespaces beside the switch: one for the balancers of each VPC, and one
// outside of all VPCs. They are instances that the fabric adds to the topology.

const (
	// OutsideID is the id of the outside namespace, and of its VPC. It exists while a balancer
	// has a public address, and can reach only such addresses.
	OutsideID = "internet"
	// balancerPrefix begins the ids of balancers' namespaces.
	balancerPrefix = "slb-"
	// ownGroup is a security group that accepts everything.
	ownGroup = "(own)"
)

// BalancersOf returns the id of the namespace of a VPC's balancers, which exists while the VPC
// has one. It has the balancers' addresses, and BalancerSource for its own connections to
// backends.
func BalancersOf(vpc string) string { return balancerPrefix + vpc }

// isReserved reports whether a namespace of the fabric's own may have this id.
func isReserved(id string) bool {
	return id == "fabric" || id == OutsideID || strings.HasPrefix(id, balancerPrefix)
}

var (
	// BalancerSource is the address of a balancers' namespace, in the range from which the
	// service sends health checks.
	BalancerSource = netip.MustParsePrefix("100.64.0.1/10")
	// Outside is the range of the outside namespace, whose clients may have any address of it,
	// with the address that its device has. The range is for documentation (TEST-NET-1).
	Outside = netip.MustParsePrefix("192.0.2.1/24")
)

// withOwn adds the fabric's own instances to a topology.
func withOwn(t Topology) Topology {
	if len(t.Balancers) == 0 {
		return t
	}
	t.Instances, t.VSwitches, t.SecurityGroups = slices.Clone(t.Instances), slices.Clone(t.VSwitches), slices.Clone(t.SecurityGroups)
	t.SecurityGroups = append(t.SecurityGroups, SecurityGroup{ID: ownGroup, AcceptIngress: true, AcceptEgress: true})
	add := func(id, vpc string, device netip.Prefix, balancer bool) {
		gateway := netipx.PrefixLastIP(device).Prev()
		t.VSwitches = append(t.VSwitches, VSwitch{ID: id, VPC: vpc, CIDR: device.Masked(), Gateway: gateway})
		p := Port{
			ENI: id, VPC: vpc, VSwitch: id, Primary: true, Addresses: []netip.Addr{device.Addr()},
			SecurityGroups: []string{ownGroup}, MTU: 1500, balancer: balancer,
		}
		sum := sha256.Sum256([]byte(id))
		copy(p.MAC[:], sum[:])
		p.MAC[0] = 2
		if balancer {
			p.MTU = 8500
		} else {
			p.Prefixes = []netip.Prefix{device.Masked()}
		}
		t.Instances = append(t.Instances, Instance{ID: id, Running: true, Ports: []Port{p}})
	}
	vpcs := map[string]bool{}
	for i := range t.Balancers {
		if vpc := t.Balancers[i].VPC; !vpcs[vpc] {
			vpcs[vpc] = true
			add(BalancersOf(vpc), vpc, BalancerSource, true)
		}
	}
	if len(publicVPCs(&t)) > 0 {
		add(OutsideID, OutsideID, Outside, false)
	}
	return t
}

// vips returns the addresses of each VPC's balancers.
func (t *Topology) vips() map[string][]netip.Addr {
	out := map[string][]netip.Addr{} // of every VPC with a balancer, even without addresses
	for i := range t.Balancers {
		b := &t.Balancers[i]
		list := out[b.VPC]
		for _, a := range b.Addresses {
			list = append(list, a.Address)
		}
		out[b.VPC] = list
	}
	return out
}

// addVIPs makes the addresses of balancers local in their namespaces.
func (f *Fabric) addVIPs(t *Topology) error {
	for vpc, want := range t.vips() {
		if err := f.changeVIPs(vpc, func(h *netlink.Handle, lo netlink.Link, have map[netip.Addr]bool) error {
			for _, a := range want {
				if have[a] {
					continue
				}
				if err := h.AddrReplace(lo, &netlink.Addr{IPNet: netipx.AddrIPNet(a), Scope: unix.RT_SCOPE_HOST}); err != nil {
					return fmt.Errorf("add %s: %w", a, err)
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// removeVIPs removes addresses that no balancer has any more.
func (f *Fabric) removeVIPs(t *Topology) error {
	for vpc, want := range t.vips() {
		if err := f.changeVIPs(vpc, func(h *netlink.Handle, lo netlink.Link, have map[netip.Addr]bool) error {
			for a := range have {
				if slices.Contains(want, a) {
					continue
				}
				if err := h.AddrDel(lo, &netlink.Addr{IPNet: netipx.AddrIPNet(a)}); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
					return fmt.Errorf("remove %s: %w", a, err)
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// changeVIPs calls change with the addresses on lo of a balancers' namespace.
func (f *Fabric) changeVIPs(vpc string, change func(*netlink.Handle, netlink.Link, map[netip.Addr]bool) error) error {
	name := BalancersOf(vpc)
	err := withHandle(f.namespaces[name], func(h *netlink.Handle, _ netns.NsHandle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("find lo: %w", err)
		}
		list, err := netlinkx.List(context.Background(), "the addresses of balancers", func() ([]netlink.Addr, error) { return h.AddrList(lo, netlink.FAMILY_V4) })
		if err != nil {
			return err
		}
		have := map[netip.Addr]bool{}
		for _, a := range list {
			if ip, ok := netip.AddrFromSlice(a.IP); ok && !ip.Unmap().IsLoopback() {
				have[ip.Unmap()] = true
			}
		}
		return change(h, lo, have)
	})
	if err != nil {
		return fmt.Errorf("addresses of the balancers in %s: %w", name, err)
	}
	return nil
}

// keepDraining adds to the image the removed backends that still have connections, and when
// those end.
func (f *Fabric) keepDraining(img *image) error {
	if f.backends.have == nil {
		if err := f.backends.read(); err != nil {
			return err
		}
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("read the program's clock: %w", err)
	}
	listeners := map[uint64]bool{}
	for _, l := range img.listeners {
		listeners[l.Id] = true
	}
	img.backends = drained(f.backends.have, img.backends, listeners, uint64(now.Nano()))
	return nil
}

// pruneLoads removes the counters of open connections of backends that are gone.
func (f *Fabric) pruneLoads(backends map[uint64]programBackend) error {
	var gone []uint64
	var id, load uint64
	it := f.program.Loads.Iterate()
	for it.Next(&id, &load) {
		if _, ok := backends[id]; !ok {
			gone = append(gone, id)
		}
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read the map loads: %w", err)
	}
	for _, id := range gone {
		if err := f.program.Loads.Delete(id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete a backend from the map loads: %w", err)
		}
	}
	return nil
}
