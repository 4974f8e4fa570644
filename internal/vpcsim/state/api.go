package state

import (
	"net/netip"
	"time"

	"terway.dev/terway/internal/catalog"
)

// API is every action of a State: what an OpenAPI front end may ask.
type API interface {
	// ENIs
	CreateNetworkInterface(CreateNetworkInterfaceRequest) (*NetworkInterface, error)
	AttachNetworkInterface(AttachNetworkInterfaceRequest) error
	DetachNetworkInterface(DetachNetworkInterfaceRequest) error
	DeleteNetworkInterface(DeleteNetworkInterfaceRequest) error
	ModifyNetworkInterfaceAttribute(ModifyNetworkInterfaceAttributeRequest) error
	DescribeNetworkInterfaces(DescribeNetworkInterfacesRequest) ([]NetworkInterface, error)
	// SelectNetworkInterfaces is DescribeNetworkInterfaces for callers that want to
	// look at a few of many: it returns ids alone.
	SelectNetworkInterfaces(DescribeNetworkInterfacesRequest) (networkInterfaceIds []string, err error)
	// DescribeNetworkInterfaceAttribute returns one ENI.
	DescribeNetworkInterfaceAttribute(networkInterfaceId string) (*NetworkInterface, error)
	AssignPrivateIpAddresses(AssignPrivateIpAddressesRequest) (*AssignPrivateIpAddressesResult, error)
	UnassignPrivateIpAddresses(UnassignPrivateIpAddressesRequest) error
	AssignIpv6Addresses(AssignIpv6AddressesRequest) (*AssignIpv6AddressesResult, error)
	UnassignIpv6Addresses(UnassignIpv6AddressesRequest) error

	// Instances
	RunInstances(RunInstancesRequest) (instanceIds []string, err error)
	CreateInstance(CreateInstanceRequest) (instanceId string, err error)
	StartInstance(StartInstanceRequest) error
	StopInstance(StopInstanceRequest) error
	RebootInstance(RebootInstanceRequest) error
	DeleteInstance(DeleteInstanceRequest) error
	DeleteInstances(DeleteInstancesRequest) error
	ModifyInstanceAttribute(ModifyInstanceAttributeRequest) error
	AttachInstanceRamRole(AttachInstanceRamRoleRequest) error
	DescribeInstances(DescribeInstancesRequest) ([]Instance, error)
	// SelectInstances is to DescribeInstances what SelectNetworkInterfaces is to the ENIs'.
	SelectInstances(DescribeInstancesRequest) (instanceIds []string, err error)
	DescribeInstanceAttribute(instanceId string) (*Instance, error)
	DescribeInstanceTypes(DescribeInstanceTypesRequest) ([]catalog.Type, error)

	// Security groups
	CreateSecurityGroup(CreateSecurityGroupRequest) (securityGroupId string, err error)
	DeleteSecurityGroup(DeleteSecurityGroupRequest) error
	ModifySecurityGroupAttribute(ModifySecurityGroupAttributeRequest) error
	ModifySecurityGroupPolicy(ModifySecurityGroupPolicyRequest) error
	AuthorizeSecurityGroup(AuthorizeSecurityGroupRequest) error
	AuthorizeSecurityGroupEgress(AuthorizeSecurityGroupRequest) error
	RevokeSecurityGroup(RevokeSecurityGroupRequest) error
	RevokeSecurityGroupEgress(RevokeSecurityGroupRequest) error
	ModifySecurityGroupRule(ModifySecurityGroupRuleRequest) error
	ModifySecurityGroupEgressRule(ModifySecurityGroupRuleRequest) error
	DescribeSecurityGroups(DescribeSecurityGroupsRequest) ([]SecurityGroup, error)
	DescribeSecurityGroupAttribute(DescribeSecurityGroupAttributeRequest) (*SecurityGroup, error)
	JoinSecurityGroup(JoinSecurityGroupRequest) error
	LeaveSecurityGroup(JoinSecurityGroupRequest) error

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

	// Tags, places
	TagResources(TagResourcesRequest) error
	UntagResources(UntagResourcesRequest) error
	ListTagResources(ListTagResourcesRequest) ([]TagResource, error)
	DescribeRegions() []Region
	DescribeZones() []Zone
	// Quotas are the account's limits.
	Quotas() Limits

	// The simulator's own side.

	// Tick completes every operation that is due at now; it reports whether anything changed.
	Tick(now time.Time) (changed bool)
	// NextDue says when the next operation is due.
	NextDue() (time.Time, bool)
	// Revision rises with every change.
	Revision() uint64
	// View is a copy of all that a data plane needs.
	View() *View
	// MarshalJSON saves everything; Load is its inverse.
	MarshalJSON() ([]byte, error)
	// SetStuckAttaching makes attachments stay Attaching; false lets them finish.
	SetStuckAttaching(stuck bool)
	// SetFailingAttach makes attachments end Available instead of InUse.
	SetFailingAttach(fail bool)
	// SetStrictDetach makes DetachNetworkInterface refuse an ENI that is not attached.
	SetStrictDetach(strict bool)
	// SetVSwitchFull makes a vSwitch refuse every new address.
	SetVSwitchFull(vSwitchId string, full bool) error
	// SetTiming changes how long operations take that start from now on.
	SetTiming(Timing)
}

// AssignPrivateIpAddressesResult is what AssignPrivateIpAddresses added.
type AssignPrivateIpAddressesResult struct {
	NetworkInterfaceId string
	PrivateIpAddress   []netip.Addr
	Ipv4Prefix         []netip.Prefix
}

// AssignIpv6AddressesResult is what AssignIpv6Addresses added.
type AssignIpv6AddressesResult struct {
	NetworkInterfaceId string
	Ipv6Address        []netip.Addr
}

// Options are what a State is made of besides its contents.
type Options struct {
	// Now is the clock; required.
	Now func() time.Time
	// Seed decides ids, MACs and address order.
	Seed uint64
	// RegionId defaults to cn-hangzhou, Zones to cn-hangzhou-{g,h,i,j,k},
	// OwnerId (the account) to a fixed number.
	RegionId string
	Zones    []string
	OwnerId  string
	Timing   Timing
	// Limits are the quotas; zero fields take the service's defaults.
	Limits Limits
	// Catalog is the instance types; required.
	Catalog *catalog.Catalog
}

// Timing is how long asynchronous operations take. Zero means: done at the next Tick.
type Timing struct {
	CreateENI     time.Duration
	AttachENI     time.Duration
	DetachENI     time.Duration
	DeleteENI     time.Duration
	VPC           time.Duration // create, delete, change of CIDRs
	VSwitch       time.Duration // create, delete
	RouteEntry    time.Duration // create, delete
	RouteTable    time.Duration // create, delete, associate
	InstancePend  time.Duration // Pending → Starting, or Stopped
	InstanceStart time.Duration // Starting → Running
	InstanceStop  time.Duration // Stopping → Stopped, or gone
}

// DefaultTiming is near what clients of the real service expect.
func DefaultTiming() Timing {
	return Timing{
		CreateENI: 500 * time.Millisecond, AttachENI: 3 * time.Second,
		DetachENI: 3 * time.Second, DeleteENI: time.Second,
		VPC: time.Second, VSwitch: time.Second,
		RouteEntry: 2 * time.Second, RouteTable: time.Second,
		InstancePend: 2 * time.Second, InstanceStart: 5 * time.Second, InstanceStop: 5 * time.Second,
	}
}

// Limits are the account's and the service's quotas.
type Limits struct {
	VPCs                    int // per region: 10
	VSwitchesPerVPC         int // 150
	SecondaryCIDRs          int // 5
	PrivateIPsPerVPC        int // 300000
	ENIs                    int // per region: 50000
	RouteTablesPerVPC       int // system and custom: 10
	RouteEntriesPerTable    int // custom entries: 200
	SecurityGroups          int // per region: 100
	SecurityGroupsPerENI    int // 5
	RulesPerSecurityGroup   int // 200
	RulesPerENI             int // 1000
	GroupRefsPerGroup       int // normal groups: 20
	PrivateIPsPerNormal     int // addresses in a normal group: 2000
	PrivateIPsPerEnterprise int // 65536
	TagsPerResource         int // 20
	EIPs                    int // per region: 20
}

// View is a copy of everything a data plane needs, sorted by id.
type View struct {
	Revision       uint64
	RegionId       string
	OwnerId        string
	VPCs           []VPC
	VSwitches      []VSwitch
	RouteTables    []RouteTable // with entries; VSwitchIds says who uses them
	SecurityGroups []SecurityGroup
	Instances      []InstanceView
}

// InstanceView is an instance as a data plane sees it.
type InstanceView struct {
	Instance // NetworkInterfaces: only those InUse, by slot; the primary first
	Type     catalog.Type
}
