package state

import (
	"net/netip"
	"slices"
	"time"
)

// Status values of VPCs, vSwitches, route tables, route entries and EIPs.
const (
	StatusPending   = "Pending"
	StatusAvailable = "Available"
	StatusDeleting  = "Deleting"

	StatusInUse = "InUse" // of EIPs
)

// VPC is a private network.
type VPC struct {
	VpcId               string
	VpcName             string
	Description         string
	RegionId            string
	Status              string
	CidrBlock           netip.Prefix
	SecondaryCidrBlocks []netip.Prefix `json:",omitempty"`
	UserCidrs           []netip.Prefix `json:",omitempty"`
	Ipv6CidrBlock       netip.Prefix   `json:",omitzero"` // /56; zero without IPv6
	VRouterId           string
	RouteTableIds       []string // the system table first; filled in results
	VSwitchIds          []string // filled in results
	ResourceGroupId     string
	CreationTime        time.Time
	Tags                []Tag `json:",omitempty"`
}

// CIDRs returns the primary and the secondary ranges.
func (v *VPC) CIDRs() []netip.Prefix {
	return append([]netip.Prefix{v.CidrBlock}, v.SecondaryCidrBlocks...)
}

// VSwitch is a subnet of a VPC in one zone.
type VSwitch struct {
	VSwitchId       string
	VSwitchName     string
	Description     string
	VpcId           string
	ZoneId          string
	Status          string
	CidrBlock       netip.Prefix
	Ipv6CidrBlock   netip.Prefix `json:",omitzero"` // /64; zero without IPv6
	RouteTableId    string
	ResourceGroupId string
	CreationTime    time.Time
	Tags            []Tag `json:",omitempty"`
	// AvailableIpAddressCount is filled in results: the number of free addresses, with a prefix
	// counting as 16.
	AvailableIpAddressCount int
	// Full is the fault "no address left": every assignment fails.
	Full bool `json:",omitempty"`
}

// Gateway returns the vSwitch's IPv4 gateway: the third address from its end.
func (v *VSwitch) Gateway() netip.Addr {
	return addrAt(v.CidrBlock, sizeOf(v.CidrBlock)-3)
}

// Ipv6Gateway returns the vSwitch's IPv6 gateway; invalid without IPv6.
func (v *VSwitch) Ipv6Gateway() netip.Addr {
	if !v.Ipv6CidrBlock.IsValid() {
		return netip.Addr{}
	}
	return lastAddr6(v.Ipv6CidrBlock, 2)
}

// VRouter is a VPC's router; it exists with its VPC.
type VRouter struct {
	VRouterId     string
	VpcId         string
	RegionId      string
	RouteTableIds []string
	CreationTime  time.Time
}

// Types of route tables and entries, and next-hop types that the simulator supports.
const (
	RouteTableSystem = "System"
	RouteTableCustom = "Custom"

	RouteEntrySystem = "System"
	RouteEntryCustom = "Custom"

	NextHopInstance         = "Instance"
	NextHopNetworkInterface = "NetworkInterface"
	NextHopLocal            = "local"
	NextHopService          = "service"
)

// RouteTable is a route table of a VPC. Each vSwitch uses exactly one.
type RouteTable struct {
	RouteTableId    string
	RouteTableName  string
	Description     string
	RouteTableType  string // System, Custom
	VpcId           string
	VRouterId       string
	Status          string
	VSwitchIds      []string // filled in results: the vSwitches that use it
	RouteEntries    []RouteEntry
	ResourceGroupId string
	CreationTime    time.Time
	Tags            []Tag `json:",omitempty"`
}

// RouteEntry is an entry of a route table.
type RouteEntry struct {
	RouteEntryId         string
	RouteEntryName       string
	Description          string
	RouteTableId         string
	DestinationCidrBlock netip.Prefix
	Type                 string // System, Custom
	Status               string // Pending, Available, Deleting
	// NextHopType and NextHopId are the only hop, or the first of NextHops.
	NextHopType  string
	NextHopId    string
	NextHops     []NextHop
	CreationTime time.Time
}

// NextHop is the next hop of a route entry; several form an ECMP group.
type NextHop struct {
	NextHopType string
	NextHopId   string
	Weight      int
}

func (v *VPC) clone() VPC {
	c := *v
	c.SecondaryCidrBlocks = slices.Clone(v.SecondaryCidrBlocks)
	c.UserCidrs = slices.Clone(v.UserCidrs)
	c.RouteTableIds = slices.Clone(v.RouteTableIds)
	c.VSwitchIds = slices.Clone(v.VSwitchIds)
	c.Tags = slices.Clone(v.Tags)
	return c
}

func (v *VSwitch) clone() VSwitch {
	c := *v
	c.Tags = slices.Clone(v.Tags)
	return c
}

func (t *RouteTable) clone() RouteTable {
	c := *t
	c.VSwitchIds = slices.Clone(t.VSwitchIds)
	c.RouteEntries = make([]RouteEntry, 0, len(t.RouteEntries))
	for _, e := range t.RouteEntries {
		e.NextHops = slices.Clone(e.NextHops)
		c.RouteEntries = append(c.RouteEntries, e)
	}
	c.Tags = slices.Clone(t.Tags)
	return c
}
