package state

import (
	"maps"
	"net/netip"
	"slices"
)

// VPCActions are the actions on VPCs, vSwitches, routes and public addresses.
type VPCActions interface {
	// VPCs, vSwitches
	CreateVpc(CreateVpcRequest) (*CreateVpcResult, error)
	DeleteVpc(DeleteVpcRequest) error
	ModifyVpcAttribute(ModifyVpcAttributeRequest) error
	AssociateVpcCidrBlock(AssociateVpcCidrBlockRequest) error
	UnassociateVpcCidrBlock(UnassociateVpcCidrBlockRequest) error
	DescribeVpcs(DescribeVpcsRequest) ([]VPC, error)
	DescribeVpcAttribute(vpcId string) (*VPC, error)
	CreateVSwitch(CreateVSwitchRequest) (vSwitchId string, err error)
	DeleteVSwitch(DeleteVSwitchRequest) error
	ModifyVSwitchAttribute(ModifyVSwitchAttributeRequest) error
	DescribeVSwitches(DescribeVSwitchesRequest) ([]VSwitch, error)
	DescribeVSwitchAttributes(vSwitchId string) (*VSwitch, error)
	CheckCanAllocateVpcPrivateIpAddress(CheckCanAllocateVpcPrivateIpAddressRequest) (bool, error)

	// Routes
	DescribeVRouters(DescribeVRoutersRequest) ([]VRouter, error)
	CreateRouteTable(CreateRouteTableRequest) (routeTableId string, err error)
	DeleteRouteTable(DeleteRouteTableRequest) error
	AssociateRouteTable(AssociateRouteTableRequest) error
	UnassociateRouteTable(AssociateRouteTableRequest) error
	DescribeRouteTables(DescribeRouteTablesRequest) ([]RouteTable, error)
	DescribeRouteEntryList(DescribeRouteEntryListRequest) ([]RouteEntry, error)
	CreateRouteEntry(CreateRouteEntryRequest) (routeEntryId string, err error)
	DeleteRouteEntry(DeleteRouteEntryRequest) error
	ModifyRouteEntry(ModifyRouteEntryRequest) error
	CreateRouteEntries(CreateRouteEntriesRequest) (*RouteEntriesResult, error)
	DeleteRouteEntries(DeleteRouteEntriesRequest) (*RouteEntriesResult, error)

	// Public addresses
	AllocateEipAddress(AllocateEipAddressRequest) (*EIP, error)
	ReleaseEipAddress(ReleaseEipAddressRequest) error
	AssociateEipAddress(AssociateEipAddressRequest) error
	UnassociateEipAddress(AssociateEipAddressRequest) error
	DescribeEipAddresses(DescribeEipAddressesRequest) ([]EIP, error)

	// Faults
	// SetVSwitchFull makes a vSwitch refuse every new address.
	SetVSwitchFull(vSwitchId string, full bool) error
}

// vpcFew are the resources of VPC.
type vpcFew struct {
	VPCs        map[string]*VPC
	VSwitches   map[string]*VSwitch
	RouteTables map[string]*RouteTable
	// EIPs are the public addresses of the account.
	EIPs map[string]*EIP `json:",omitempty"`
}

// vpcMany is what the journal records one by one.
type vpcMany struct {
	// Freed has, for each vSwitch, the IPv4 addresses that were used once and are free, the
	// longest free first.
	Freed map[string][]netip.Addr
}

// Prefixes of the ids of the service's resources.
const (
	idVPC        = "vpc-"
	idVSwitch    = "vsw-"
	idVRouter    = "vrt-"
	idRouteTable = "vtb-"
	idRouteEntry = "rte-"
	idEIP        = "eip-"
)

const (
	opVPC              kind = "vpc" // created or changed: becomes Available
	opVSwitchCreate    kind = "vswitch-create"
	opVSwitchDelete    kind = "vswitch-delete"
	opRouteTable       kind = "route-table"
	opRouteEntryCreate kind = "route-entry-create"
	opRouteEntryDelete kind = "route-entry-delete"
)

var vpcProduct = product{
	complete: func(d *data) {
		ensure(&d.VPCs)
		ensure(&d.VSwitches)
		ensure(&d.RouteTables)
		ensure(&d.EIPs)
		ensure(&d.Freed)
	},
	check: checkVPC,
	operations: map[kind]completion{
		opVPC: {has(vpcsIn), func(s *State, o operation) {
			s.data.VPCs[o.ID].Status = StatusAvailable
		}},
		opVSwitchCreate: {has(vSwitchesIn), func(s *State, o operation) {
			s.data.VSwitches[o.ID].Status = StatusAvailable
		}},
		opVSwitchDelete: {has(vSwitchesIn), func(s *State, o operation) {
			s.removeVSwitch(o.ID)
		}},
		opRouteTable: {has(routeTablesIn), func(s *State, o operation) {
			s.data.RouteTables[o.ID].Status = StatusAvailable
		}},
		opRouteEntryCreate: {hasRouteEntry, func(s *State, o operation) {
			table, i := s.findRouteEntry(o.ID)
			table.RouteEntries[i].Status = StatusAvailable
		}},
		opRouteEntryDelete: {hasRouteEntry, func(s *State, o operation) {
			table, i := s.findRouteEntry(o.ID)
			table.RouteEntries = slices.Delete(table.RouteEntries, i, i+1)
		}},
	},
	tagged: map[string]func(*data, []string) []taggable{
		"vpc":        tagged(vpcsIn, func(v *VPC) *[]Tag { return &v.Tags }),
		"vswitch":    tagged(vSwitchesIn, func(v *VSwitch) *[]Tag { return &v.Tags }),
		"routetable": tagged(routeTablesIn, func(t *RouteTable) *[]Tag { return &t.Tags }),
	},
	view: func(s *State, view *View) {
		view.VPCs = appendShown(view.VPCs, s.data.VPCs, s.describeVPC)
		view.VSwitches = appendShown(view.VSwitches, s.data.VSwitches, s.describeVSwitch)
		view.RouteTables = appendShown(view.RouteTables, s.data.RouteTables, s.describeTable)
	},
}

func vpcsIn(d *data) map[string]*VPC               { return d.VPCs }
func vSwitchesIn(d *data) map[string]*VSwitch      { return d.VSwitches }
func routeTablesIn(d *data) map[string]*RouteTable { return d.RouteTables }

func hasRouteEntry(d *data, id string) bool {
	for _, t := range d.RouteTables {
		if slices.ContainsFunc(t.RouteEntries, func(e RouteEntry) bool { return e.RouteEntryId == id }) {
			return true
		}
	}
	return false
}

func checkVPC(d *data) error {
	for id, vpc := range d.VPCs {
		if vpc == nil || vpc.VpcId != id || !slices.ContainsFunc(slices.Collect(maps.Values(d.RouteTables)), func(t *RouteTable) bool {
			return t != nil && t.VpcId == id && t.RouteTableType == RouteTableSystem
		}) {
			return broken("VPC", id, "has another id or no system route table")
		}
	}
	for id, t := range d.RouteTables {
		if t == nil || t.RouteTableId != id || d.VPCs[t.VpcId] == nil {
			return broken("route table", id, "has another id or is in no VPC")
		}
	}
	for id, v := range d.VSwitches {
		if v == nil || v.VSwitchId != id || d.VPCs[v.VpcId] == nil || !v.CidrBlock.IsValid() || !v.CidrBlock.Addr().Is4() {
			return broken("vSwitch", id, "has another id, is in no VPC or has no range")
		}
	}
	for id, e := range d.EIPs {
		if e == nil || e.AllocationId != id {
			return broken("EIP", id, "has another id")
		}
	}
	return nil
}

// vpcBusy returns what blocks another change of routes or vSwitches in a VPC: one such
// operation runs at a time, and the service refuses others meanwhile.
func (s *State) vpcBusy(vpcID string) *Error {
	for _, o := range s.data.Operations {
		if o.VpcId != vpcID {
			continue
		}
		switch o.Kind {
		case opVPC:
			return badRequest("IncorrectVpcStatus", "The status of VPC %s does not support this operation: %s.", vpcID, StatusPending)
		case opVSwitchCreate, opVSwitchDelete:
			return badRequest("IncorrectVSwitchStatus", "VPC %s is busy: the status of vSwitch %s does not support this operation.", vpcID, o.ID)
		default:
			return badRequest("TaskConflict", "The operation conflicts with another one that is running in VPC %s: %s of %s.", vpcID, o.Kind, o.ID)
		}
	}
	return nil
}
