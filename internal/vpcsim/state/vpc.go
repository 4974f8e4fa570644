package state

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
