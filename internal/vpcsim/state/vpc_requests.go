package state

// CreateVpcRequest has the parameters of CreateVpc.
type CreateVpcRequest struct {
	ClientToken     string
	CidrBlock       string // default 172.16.0.0/12
	VpcName         string
	Description     string
	EnableIpv6      bool
	Ipv6CidrBlock   string // /56; chosen when empty and EnableIpv6
	UserCidr        string // comma-separated
	ResourceGroupId string
	DryRun          bool
	Tag             []Tag
}

// CreateVpcResult is the answer of CreateVpc.
type CreateVpcResult struct {
	VpcId           string
	VRouterId       string
	RouteTableId    string
	ResourceGroupId string
}

// DeleteVpcRequest has the parameters of DeleteVpc.
type DeleteVpcRequest struct {
	ClientToken string
	VpcId       string
	DryRun      bool
}

// ModifyVpcAttributeRequest has the parameters of ModifyVpcAttribute.
type ModifyVpcAttributeRequest struct {
	VpcId         string
	VpcName       *string
	Description   *string
	EnableIPv6    bool
	Ipv6CidrBlock string
}

// AssociateVpcCidrBlockRequest has the parameters of AssociateVpcCidrBlock.
type AssociateVpcCidrBlockRequest struct {
	VpcId              string
	IpVersion          string
	SecondaryCidrBlock string
	IPv6CidrBlock      string
}

// UnassociateVpcCidrBlockRequest has the parameters of UnassociateVpcCidrBlock.
type UnassociateVpcCidrBlockRequest struct {
	VpcId              string
	SecondaryCidrBlock string
}

// DescribeVpcsRequest selects VPCs. VpcId is a comma-separated list on the
// wire and here.
type DescribeVpcsRequest struct {
	IsDefault       *bool
	EnableIpv6      *bool
	VpcId           string
	VpcName         string
	ResourceGroupId string
	Tag             []Tag
}

// CreateVSwitchRequest has the parameters of CreateVSwitch.
type CreateVSwitchRequest struct {
	ClientToken   string
	VpcId         string
	ZoneId        string
	CidrBlock     string
	Ipv6CidrBlock *int // the last 8 bits of the vSwitch's /64 inside the VPC's /56
	VSwitchName   string
	Description   string
	Tag           []Tag
}

// DeleteVSwitchRequest has the parameters of DeleteVSwitch.
type DeleteVSwitchRequest struct {
	VSwitchId string
}

// ModifyVSwitchAttributeRequest has the parameters of ModifyVSwitchAttribute.
type ModifyVSwitchAttributeRequest struct {
	VSwitchId     string
	VSwitchName   *string
	Description   *string
	EnableIPv6    bool
	Ipv6CidrBlock *int
}

// DescribeVSwitchesRequest selects vSwitches. VSwitchId is a comma-separated
// list on the wire and here.
type DescribeVSwitchesRequest struct {
	IsDefault       *bool
	EnableIpv6      *bool
	VSwitchId       string
	VSwitchName     string
	VpcId           string
	ZoneId          string
	RouteTableId    string
	ResourceGroupId string
	Tag             []Tag
}

// DescribeVRoutersRequest selects VRouters.
type DescribeVRoutersRequest struct {
	VRouterId string
}

// CreateRouteTableRequest has the parameters of CreateRouteTable.
type CreateRouteTableRequest struct {
	ClientToken    string
	VpcId          string
	RouteTableName string
	Description    string
	AssociateType  string // VSwitch (default)
	Tag            []Tag
}

// DeleteRouteTableRequest has the parameters of DeleteRouteTable.
type DeleteRouteTableRequest struct {
	RouteTableId string
}

// AssociateRouteTableRequest has the parameters of AssociateRouteTable and UnassociateRouteTable.
type AssociateRouteTableRequest struct {
	ClientToken  string
	RouteTableId string
	VSwitchId    string
}

// DescribeRouteTablesRequest selects route tables (DescribeRouteTables and
// DescribeRouteTableList).
type DescribeRouteTablesRequest struct {
	RouteTableId    string
	RouteTableName  string
	RouteTableType  string
	RouterId        string
	VRouterId       string
	VpcId           string
	ResourceGroupId string
	Tag             []Tag
}

// DescribeRouteEntryListRequest selects route entries of one table.
type DescribeRouteEntryListRequest struct {
	RouteTableId         string
	RouteEntryId         string
	RouteEntryName       string
	RouteEntryType       string // System, Custom
	DestinationCidrBlock string
	DestCidrBlockList    []string
	NextHopId            string
	NextHopType          string
	IpVersion            string // ipv4, ipv6
}

// NextHopItem is NextHopList.N.
type NextHopItem struct {
	NextHopId   string
	NextHopType string
	Weight      *int
}

// CreateRouteEntryRequest has the parameters of CreateRouteEntry.
type CreateRouteEntryRequest struct {
	ClientToken          string
	RouteTableId         string
	DestinationCidrBlock string
	NextHopId            string
	NextHopType          string // default Instance
	NextHopList          []NextHopItem
	RouteEntryName       string
	Description          string
}

// DeleteRouteEntryRequest has the parameters of DeleteRouteEntry: the entry's
// id, or table and destination (and next hop).
type DeleteRouteEntryRequest struct {
	RouteEntryId         string
	RouteTableId         string
	DestinationCidrBlock string
	NextHopId            string
	NextHopList          []NextHopItem
}

// CreateRouteEntriesRequest has the parameters of CreateRouteEntries.
type CreateRouteEntriesRequest struct {
	RouteEntries []CreateRouteEntriesItem
}

// CreateRouteEntriesItem is RouteEntries.N of CreateRouteEntries.
type CreateRouteEntriesItem struct {
	RouteTableId string
	DstCidrBlock string
	NextHop      string
	NextHopType  string
	IpVersion    string
	Name         string
	Describption string // sic
	Description  string
}

// DeleteRouteEntriesRequest has the parameters of DeleteRouteEntries.
type DeleteRouteEntriesRequest struct {
	RouteEntries []DeleteRouteEntriesItem
}

// DeleteRouteEntriesItem is RouteEntries.N of DeleteRouteEntries.
type DeleteRouteEntriesItem struct {
	RouteTableId string
	RouteEntryId string
	DstCidrBlock string
	NextHop      string
}

// RouteEntriesResult is the answer of CreateRouteEntries and DeleteRouteEntries:
// a batch may succeed in part.
type RouteEntriesResult struct {
	SuccessCount       int
	FailedCount        int
	RouteEntryIds      []string // of Create
	FailedRouteEntries []FailedRouteEntry
}

// FailedRouteEntry says why one entry of a batch failed.
type FailedRouteEntry struct {
	RouteEntryId  string
	DstCidrBlock  string
	NextHop       string
	FailedCode    string
	FailedMessage string
}

// CheckCanAllocateVpcPrivateIpAddressRequest has the parameters of that action.
type CheckCanAllocateVpcPrivateIpAddressRequest struct {
	VSwitchId        string
	PrivateIpAddress string
	IpVersion        string
}

// AllocateEipAddressRequest has the parameters of AllocateEipAddress.
type AllocateEipAddressRequest struct {
	ClientToken        string
	IpAddress          string
	Name               string
	Description        string
	Bandwidth          string
	InternetChargeType string
	InstanceChargeType string
	ISP                string
	ResourceGroupId    string
}

// ReleaseEipAddressRequest has the parameters of ReleaseEipAddress.
type ReleaseEipAddressRequest struct {
	AllocationId string
}

// AssociateEipAddressRequest has the parameters of AssociateEipAddress and
// UnassociateEipAddress that the simulator uses.
type AssociateEipAddressRequest struct {
	AllocationId string
}

// DescribeEipAddressesRequest selects EIPs. AllocationId and EipAddress are
// comma-separated lists.
type DescribeEipAddressesRequest struct {
	AllocationId         string
	EipAddress           string
	EipName              string
	Status               string
	AssociatedInstanceId string
	ResourceGroupId      string
}

// ModifyRouteEntryRequest has the parameters of ModifyRouteEntry: the entry's id, or table and
// destination, and the changes.
type ModifyRouteEntryRequest struct {
	RouteEntryId         string
	RouteTableId         string
	DestinationCidrBlock string
	NewNextHopId         string
	NewNextHopType       string
	RouteEntryName       *string
	Description          *string
}
