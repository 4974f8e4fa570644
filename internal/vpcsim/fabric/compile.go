package fabric

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

// virtualMAC is the MAC of every neighbour of an ENI.
var virtualMAC = [6]byte{0xee, 0xff, 0xff, 0xff, 0xff, 0xff}

// virtualLinkLocal is the link-local address for virtualMAC.
var virtualLinkLocal = netip.MustParseAddr("fe80::ecff:ffff:feff:ffff")

// Flags of a port, as in enum port_flag.
const (
	flagDown = 1 << iota
	flagCheck
	flagLoose
	flagPoliced
	flagBalancer
	flagPublic
)

// Priorities of the defaults of a group, which apply if none of its rules (1–100) does.
const (
	priorityInner   = 1000
	priorityDefault = 1001
)

// minBurst lets a few GSO frames pass under a small bandwidth limit.
const minBurst = 512 << 10

// image has the contents of the maps for a Topology.
type image struct {
	ports   map[uint32]programPort
	addrs   map[programAddrKey]uint32
	routes  map[programRouteKey]programRoute
	rules   map[programRuleKey]programRule
	buckets map[programBucketKey]programBucket

	listeners map[programListenerKey]programListener
	tables    map[uint64][]programSlot // of slots
	backends  map[uint64]programBackend
	turns     map[uint64]uint64
}

// compile is a pure function of the topology, the options and the ports' ifindexes. known are
// slot tables of an earlier image, which it need not compute again.
func compile(t *Topology, opts *Options, ifindex map[string]uint32, known map[uint64][]programSlot) (*image, error) {
	img := &image{
		ports:   map[uint32]programPort{},
		addrs:   map[programAddrKey]uint32{},
		routes:  map[programRouteKey]programRoute{},
		rules:   map[programRuleKey]programRule{},
		buckets: map[programBucketKey]programBucket{},

		listeners: map[programListenerKey]programListener{},
		tables:    map[uint64][]programSlot{},
		backends:  map[uint64]programBackend{},
		turns:     map[uint64]uint64{},
	}
	vswitches := map[string]*VSwitch{}
	for i := range t.VSwitches {
		vswitches[t.VSwitches[i].ID] = &t.VSwitches[i]
	}
	groups := map[string]*SecurityGroup{}
	for i := range t.SecurityGroups {
		groups[t.SecurityGroups[i].ID] = &t.SecurityGroups[i]
	}
	public := publicVPCs(t)
	for i := range t.Instances {
		in := &t.Instances[i]
		policed := in.Limit != (Bandwidth{})
		if policed {
			img.addBuckets(in)
		}
		for j := range in.Ports {
			p := &in.Ports[j]
			index, ok := ifindex[p.ENI]
			if !ok {
				return nil, fmt.Errorf("ENI %s has no port device", p.ENI)
			}
			port, err := img.compilePort(p, vswitches[p.VSwitch], groups)
			if err != nil {
				return nil, err
			}
			if !in.Running {
				port.Flags |= flagDown
			}
			if !opts.Strict {
				port.Flags |= flagLoose
			}
			if public[p.VPC] {
				port.Flags |= flagPublic
			}
			if policed {
				port.Flags |= flagPoliced
				port.Bucket = hashID("instance", in.ID)
			}
			img.ports[index] = *port
			for _, a := range p.Addresses {
				key := programAddrKey{Vpc: port.Vpc}
				key.Addr.W = words(a)
				img.addrs[key] = index
			}
			for _, prefix := range p.Prefixes {
				img.routes[routeKey(port.Vpc, prefix)] = programRoute{Hops: 1, Hop: [maxHops]uint32{index}}
			}
		}
	}
	img.compileRoutes(t, ifindex)
	if err := img.compileBalancers(t, ifindex, groups, known); err != nil {
		return nil, err
	}
	return img, nil
}

func (img *image) compilePort(p *Port, vs *VSwitch, groups map[string]*SecurityGroup) (*programPort, error) {
	port := &programPort{
		Vpc:   vpcID(p.VPC),
		Table: hashID("table", vs.RouteTable),
		Mtu:   uint16(p.MTU),
	}
	copy(port.Macs[:6], p.MAC[:])
	copy(port.Macs[6:], virtualMAC[:])
	port.Subnet4.W, port.Mask4.W = network(vs.CIDR)
	if vs.CIDR6.IsValid() {
		port.Subnet6.W, port.Mask6.W = network(vs.CIDR6)
	}
	if p.SourceDestCheck {
		port.Flags |= flagCheck
	}
	if p.balancer {
		port.Flags |= flagBalancer
	}
	ids := slices.Compact(slices.Sorted(slices.Values(p.SecurityGroups)))
	for i, id := range ids {
		port.Groups[i] = hashID("group", id)
	}
	policy, counts, err := img.addPolicy(ids, groups)
	if err != nil {
		return nil, fmt.Errorf("ENI %s: %w", p.ENI, err)
	}
	port.Policy, port.Rules = policy, counts
	return port, nil
}

// addPolicy merges groups into one ordered list for each direction, named by the hash of its
// contents.
func (img *image) addPolicy(ids []string, groups map[string]*SecurityGroup) (policy uint64, counts [2]uint16, err error) {
	var all []Rule
	for _, id := range ids {
		g := groups[id]
		if g == nil {
			continue // a group without a definition accepts nothing
		}
		all = append(all, g.Rules...)
		if g.InnerAccept {
			all = append(all,
				Rule{Direction: Ingress, Accept: true, Priority: priorityInner, PeerGroup: id},
				Rule{Direction: Egress, Accept: true, Priority: priorityInner, PeerGroup: id})
		}
		if g.AcceptIngress {
			all = append(all, Rule{Direction: Ingress, Accept: true, Priority: priorityDefault})
		}
		if g.AcceptEgress {
			all = append(all, Rule{Direction: Egress, Accept: true, Priority: priorityDefault})
		}
	}
	all = slices.DeleteFunc(all, func(r Rule) bool { // IPv4 at one end and IPv6 at the other: matches nothing
		return r.Peer.IsValid() && r.Local.IsValid() && r.Peer.Addr().Is4() != r.Local.Addr().Is4()
	})
	slices.SortStableFunc(all, func(a, b Rule) int {
		if c := cmp.Compare(a.Priority, b.Priority); c != 0 {
			return c
		}
		return cmp.Compare(verdict(a.Accept), verdict(b.Accept))
	})
	if len(all) > maxRules {
		return 0, counts, fmt.Errorf("its security groups have %d rules, the fabric knows %d at most", len(all), maxRules)
	}

	digest := sha256.New()
	for _, id := range ids {
		fmt.Fprintf(digest, "%q", id)
	}
	compiled := make([]programRule, len(all))
	for i := range all {
		compiled[i] = compileRule(&all[i])
		if err := binary.Write(digest, binary.LittleEndian, struct {
			Direction Direction
			Rule      programRule
		}{all[i].Direction, compiled[i]}); err != nil {
			return 0, counts, fmt.Errorf("encode rule %d: %w", i, err)
		}
	}
	policy = binary.LittleEndian.Uint64(digest.Sum(nil))
	for i := range all {
		d := all[i].Direction
		img.rules[programRuleKey{Policy: policy, Direction: uint32(d), Index: uint32(counts[d])}] = compiled[i]
		counts[d]++
	}
	return policy, counts, nil
}

func verdict(accept bool) uint8 {
	if accept {
		return 1
	}
	return 0
}

func compileRule(r *Rule) programRule {
	out := programRule{
		Sport:  [2]uint16{r.SourcePorts.From, r.SourcePorts.To},
		Dport:  [2]uint16{r.Ports.From, r.Ports.To},
		Proto:  r.Protocol,
		Accept: verdict(r.Accept),
	}
	if r.SourcePorts == (PortRange{}) {
		out.Sport[1] = 65535
	}
	if r.Ports == (PortRange{}) {
		out.Dport[1] = 65535
	}
	for _, p := range []netip.Prefix{r.Peer, r.Local} {
		switch {
		case p.IsValid() && p.Addr().Is4():
			out.Family = 4
		case p.IsValid():
			out.Family = 6
		}
	}
	if r.Peer.IsValid() {
		out.Peer.W, out.PeerMask.W = network(r.Peer)
	}
	if r.Local.IsValid() {
		out.Local.W, out.LocalMask.W = network(r.Local)
	}
	if r.PeerGroup != "" {
		out.Group = hashID("group", r.PeerGroup)
	}
	return out
}

// compileRoutes adds the vSwitches of a VPC to each of its tables, like system routes: an
// address in a vSwitch that no ENI has must not use a default route.
func (img *image) compileRoutes(t *Topology, ifindex map[string]uint32) {
	for i := range t.RouteTables {
		table := &t.RouteTables[i]
		scope := hashID("table", table.ID)
		for _, r := range table.Routes {
			var route programRoute
			for _, eni := range r.NextHops {
				if index, ok := ifindex[eni]; ok { // an ENI that is not attached is a black hole
					route.Hop[route.Hops] = index
					route.Hops++
				}
			}
			img.routes[routeKey(scope, r.Prefix)] = route
		}
		for j := range t.VSwitches {
			vs := &t.VSwitches[j]
			if vs.VPC != table.VPC {
				continue
			}
			for _, cidr := range []netip.Prefix{vs.CIDR, vs.CIDR6} {
				if cidr.IsValid() {
					img.routes[routeKey(scope, cidr)] = programRoute{}
				}
			}
		}
	}
}

func (img *image) addBuckets(in *Instance) {
	for d, bits := range [2]uint64{Ingress: in.Limit.In, Egress: in.Limit.Out} {
		if bits == 0 {
			continue
		}
		rate := bits / 8
		burst := max(rate/20, minBurst)
		key := programBucketKey{Instance: hashID("instance", in.ID), Direction: uint64(d)}
		img.buckets[key] = programBucket{Rate: rate, Burst: burst}
	}
}

// hashID maps an id of the cloud to the number that the program uses: the same after every
// restart, never 0. The lowest bit is reserved for the family in a route's scope.
func hashID(kind, id string) uint64 {
	sum := sha256.Sum256([]byte(kind + "/" + id))
	return binary.LittleEndian.Uint64(sum[:])&^1 | 2
}

// words returns struct addr: 16 bytes in network order, with IPv4 mapped into IPv6.
func words(a netip.Addr) (w [4]uint32) {
	b := a.As16()
	for i := range w {
		w[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return w
}

func mappedBits(p netip.Prefix) int {
	if p.Addr().Is4() {
		return p.Bits() + 96
	}
	return p.Bits()
}

func network(p netip.Prefix) (net, mask [4]uint32) {
	var b [16]byte
	for i := range mappedBits(p) {
		b[i/8] |= 0x80 >> (i % 8)
	}
	for i := range mask {
		mask[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return words(p.Masked().Addr()), mask
}

func routeKey(scope uint64, p netip.Prefix) programRouteKey {
	if p.Addr().Is6() {
		scope |= 1
	}
	key := programRouteKey{
		Prefixlen: uint32(64 + mappedBits(p)),
		Scope:     [2]uint32{uint32(scope), uint32(scope >> 32)},
	}
	key.Addr.W = words(p.Masked().Addr())
	return key
}
