package state

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// index is derived from data, so that a call about one ENI costs the same with ten ENIs and with
// fifty thousand. It is never saved. An ENI's instance, groups, addresses and tags must be
// changed inside alter.
type index struct {
	// enis are all ENIs, by id.
	enis []*NetworkInterface
	macs map[string]bool
	// pools has the addresses of each vSwitch.
	pools map[string]*pool
	// public has the resources that have a public address, except EIPs.
	public map[netip.Addr]string
	// The ENIs by instance, security group and tag.
	byInstance map[string]eniSet
	byGroup    map[string]eniSet
	byTag      map[Tag]eniSet
	// slots is the number of addresses and prefixes of the ENIs in a security group.
	slots map[string]int
}

// eniSet is a set of ENIs by id.
type eniSet map[string]*NetworkInterface

// pool is the state of a vSwitch's addresses.
type pool struct {
	// holder is the ENI or load balancer that has an address, including each address of a prefix.
	holder map[netip.Addr]string
	// held4 is the number of IPv4 addresses among them.
	held4 int
	// freed are the addresses of data.Freed.
	freed map[netip.Addr]bool
	// fresh: every nth(i) with i below it was assigned before, or cannot be.
	fresh int
}

func newPool() *pool { return &pool{holder: map[netip.Addr]string{}, freed: map[netip.Addr]bool{}} }

func newIndex(d *data) *index {
	x := &index{
		macs: map[string]bool{}, pools: make(map[string]*pool, len(d.VSwitches)), public: map[netip.Addr]string{},
		byInstance: map[string]eniSet{}, byGroup: map[string]eniSet{}, byTag: map[Tag]eniSet{}, slots: map[string]int{},
	}
	for id := range d.VSwitches {
		p := newPool()
		for _, a := range d.Freed[id] {
			p.freed[a] = true
		}
		x.pools[id] = p
	}
	for _, id := range sortedKeys(d.NetworkInterfaces) {
		eni := d.NetworkInterfaces[id]
		x.enis = append(x.enis, eni)
		x.macs[eni.MacAddress] = true
		x.note(eni)
		for _, a := range addressesOf(eni) {
			x.pools[eni.VSwitchId].hold(a, id)
		}
	}
	for _, p := range products {
		if p.holds == nil {
			continue
		}
		p.holds(d, func(vSwitchID string, a netip.Addr, holder string) {
			if vSwitchID == "" {
				x.public[a] = holder
			} else {
				x.pools[vSwitchID].hold(a, holder)
			}
		})
	}
	return x
}

func byID(a, b *NetworkInterface) int {
	return strings.Compare(a.NetworkInterfaceId, b.NetworkInterfaceId)
}

// hold records that an ENI or load balancer has an address.
func (p *pool) hold(a netip.Addr, id string) {
	p.holder[a] = id
	if a.Is4() {
		p.held4++
	}
}

// drop records that an address is unused.
func (p *pool) drop(a netip.Addr) {
	delete(p.holder, a)
	if a.Is4() {
		p.held4--
	}
}

// add and remove are for new and deleted ENIs.
func (x *index) add(eni *NetworkInterface) {
	at, _ := slices.BinarySearchFunc(x.enis, eni, byID)
	x.enis = slices.Insert(x.enis, at, eni)
	x.macs[eni.MacAddress] = true
	x.note(eni)
}

func (x *index) remove(eni *NetworkInterface) {
	if at, ok := slices.BinarySearchFunc(x.enis, eni, byID); ok {
		x.enis = slices.Delete(x.enis, at, at+1)
	}
	delete(x.macs, eni.MacAddress)
	x.forget(eni)
}

// note adds an ENI to the index; forget, before a change, removes it.
func (x *index) note(eni *NetworkInterface) {
	if eni.InstanceId != "" {
		enter(x.byInstance, eni.InstanceId, eni)
	}
	for _, id := range eni.SecurityGroupIds {
		enter(x.byGroup, id, eni)
		x.slots[id] += eni.slots4()
	}
	for _, tag := range eni.Tags {
		enter(x.byTag, tag, eni)
	}
}

func (x *index) forget(eni *NetworkInterface) {
	strike(x.byInstance, eni.InstanceId, eni)
	for _, id := range eni.SecurityGroupIds {
		strike(x.byGroup, id, eni)
		if x.slots[id] -= eni.slots4(); x.slots[id] == 0 {
			delete(x.slots, id)
		}
	}
	for _, tag := range eni.Tags {
		strike(x.byTag, tag, eni)
	}
}

func enter[K comparable](m map[K]eniSet, key K, eni *NetworkInterface) {
	if m[key] == nil {
		m[key] = eniSet{}
	}
	m[key][eni.NetworkInterfaceId] = eni
}

func strike[K comparable](m map[K]eniSet, key K, eni *NetworkInterface) {
	delete(m[key], eni.NetworkInterfaceId)
	if len(m[key]) == 0 {
		delete(m, key)
	}
}

// alter changes an ENI's instance, groups, addresses or tags.
func (s *State) alter(eni *NetworkInterface, change func()) {
	s.touch(eni.NetworkInterfaceId)
	s.index.forget(eni)
	change()
	s.index.note(eni)
}

// pool returns a vSwitch's addresses.
func (s *State) pool(vSwitchID string) *pool { return s.index.pools[vSwitchID] }

// candidates returns ENIs by id that include all that match. It uses the most selective field
// of the request.
func (s *State) candidates(req DescribeNetworkInterfacesRequest, addrs []netip.Addr) []*NetworkInterface {
	switch {
	case len(req.NetworkInterfaceId) > 0:
		return s.existing(req.NetworkInterfaceId)
	case req.InstanceId != "":
		return s.index.byInstance[req.InstanceId].sorted()
	case len(addrs) > 0:
		var ids []string
		for _, p := range s.index.pools {
			for _, a := range addrs {
				if id := p.holder[a]; id != "" {
					ids = append(ids, id)
				}
			}
		}
		return s.existing(ids)
	}
	var fewest eniSet
	narrowed := false
	narrow := func(set eniSet) {
		if !narrowed || len(set) < len(fewest) {
			fewest, narrowed = set, true
		}
	}
	for _, tag := range req.Tag {
		if tag.Value != "" {
			narrow(s.index.byTag[tag])
		}
	}
	if req.SecurityGroupId != "" {
		narrow(s.index.byGroup[req.SecurityGroupId])
	}
	// Sorting a large part of all ENIs costs more than using all, which are sorted.
	if !narrowed || len(fewest) > len(s.index.enis)/16 {
		return s.index.enis
	}
	return fewest.sorted()
}

// existing returns the ENIs with the ids, which may be unknown and may repeat.
func (s *State) existing(ids []string) []*NetworkInterface {
	var all []*NetworkInterface
	for _, id := range distinct(ids) {
		if eni, ok := s.data.NetworkInterfaces[id]; ok {
			all = append(all, eni)
		}
	}
	return all
}

func (set eniSet) sorted() []*NetworkInterface {
	return slices.SortedFunc(maps.Values(set), byID)
}

// distinct sorts ids and removes repetitions.
func distinct(ids []string) []string {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	return slices.Compact(ids)
}
