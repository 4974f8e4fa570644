package state

import "net/netip"

// CreateNetworkInterfaceRequest has the parameters of CreateNetworkInterface.
type CreateNetworkInterfaceRequest struct {
	ClientToken                    string
	VSwitchId                      string
	SecurityGroupId                string
	SecurityGroupIds               []string
	PrimaryIpAddress               string
	PrivateIpAddress               []string
	SecondaryPrivateIpAddressCount int
	Ipv4Prefix                     []string
	Ipv4PrefixCount                int
	Ipv6Address                    []string
	Ipv6AddressCount               int
	Ipv6Prefix                     []string
	Ipv6PrefixCount                int
	InstanceType                   string // Secondary (default), Trunk
	NetworkInterfaceName           string
	Description                    string
	NetworkInterfaceTrafficMode    string
	QueueNumber                    int
	SourceDestCheck                *bool
	DeleteOnRelease                *bool
	ResourceGroupId                string
	Tag                            []Tag
}

// AttachNetworkInterfaceRequest has the parameters of AttachNetworkInterface.
type AttachNetworkInterfaceRequest struct {
	NetworkInterfaceId     string
	InstanceId             string
	TrunkNetworkInstanceId string
	NetworkCardIndex       *int
}

// DetachNetworkInterfaceRequest has the parameters of DetachNetworkInterface.
type DetachNetworkInterfaceRequest struct {
	NetworkInterfaceId     string
	InstanceId             string
	TrunkNetworkInstanceId string
}

// DeleteNetworkInterfaceRequest has the parameters of DeleteNetworkInterface.
type DeleteNetworkInterfaceRequest struct {
	NetworkInterfaceId string
}

// ModifyNetworkInterfaceAttributeRequest has the parameters of ModifyNetworkInterfaceAttribute.
// A nil pointer or an empty list leaves the attribute unchanged.
type ModifyNetworkInterfaceAttributeRequest struct {
	NetworkInterfaceId   string
	NetworkInterfaceName *string
	Description          *string
	SecurityGroupId      []string
	SourceDestCheck      *bool
	DeleteOnRelease      *bool
	QueueNumber          *int
}

// AssignPrivateIpAddressesRequest has the parameters of AssignPrivateIpAddresses.
type AssignPrivateIpAddressesRequest struct {
	ClientToken                    string
	NetworkInterfaceId             string
	PrivateIpAddress               []string
	SecondaryPrivateIpAddressCount int
	Ipv4Prefix                     []string
	Ipv4PrefixCount                int
}

// AssignPrivateIpAddressesResult is what AssignPrivateIpAddresses added.
type AssignPrivateIpAddressesResult struct {
	NetworkInterfaceId string
	PrivateIpAddress   []netip.Addr
	Ipv4Prefix         []netip.Prefix
}

// UnassignPrivateIpAddressesRequest has the parameters of UnassignPrivateIpAddresses.
type UnassignPrivateIpAddressesRequest struct {
	NetworkInterfaceId string
	PrivateIpAddress   []string
	Ipv4Prefix         []string
}

// AssignIpv6AddressesRequest has the parameters of AssignIpv6Addresses.
type AssignIpv6AddressesRequest struct {
	ClientToken        string
	NetworkInterfaceId string
	Ipv6Address        []string
	Ipv6AddressCount   int
	Ipv6Prefix         []string
	Ipv6PrefixCount    int
}

// AssignIpv6AddressesResult is what AssignIpv6Addresses added.
type AssignIpv6AddressesResult struct {
	NetworkInterfaceId string
	Ipv6Address        []netip.Addr
}

// UnassignIpv6AddressesRequest has the parameters of UnassignIpv6Addresses.
type UnassignIpv6AddressesRequest struct {
	NetworkInterfaceId string
	Ipv6Address        []string
	Ipv6Prefix         []string
}

// DescribeNetworkInterfacesRequest selects ENIs; all fields that are set must match.
type DescribeNetworkInterfacesRequest struct {
	NetworkInterfaceId   []string
	NetworkInterfaceName string
	VpcId                string
	VSwitchId            string
	InstanceId           string
	Status               string
	Type                 string
	PrimaryIpAddress     string
	PrivateIpAddress     []string // any address or prefix member of the ENI
	Ipv6Address          []string
	SecurityGroupId      string
	ResourceGroupId      string
	ServiceManaged       bool
	Tag                  []Tag // an empty value matches any
}

// RunInstancesRequest has the parameters of RunInstances that the simulator uses.
type RunInstancesRequest struct {
	ClientToken             string
	Amount                  *int // 1–100, default 1
	MinAmount               *int
	InstanceType            string
	ImageId                 string
	ZoneId                  string
	VSwitchId               string
	SecurityGroupId         string
	SecurityGroupIds        []string
	PrivateIpAddress        string
	Ipv6Address             []string
	Ipv6AddressCount        int
	InstanceName            string
	HostName                string
	HostNames               []string
	UniqueSuffix            bool
	Description             string
	UserData                string
	RamRoleName             string
	KeyPairName             string
	DeletionProtection      bool
	DryRun                  bool
	HttpEndpoint            string
	HttpTokens              string
	HttpPutResponseHopLimit int
	ResourceGroupId         string
	NetworkOptions          RunInstancesNetworkOptions
	NetworkInterface        []RunInstancesNetworkInterface
	Tag                     []Tag
}

// RunInstancesNetworkOptions is NetworkOptions.* of RunInstances.
type RunInstancesNetworkOptions struct {
	EnableJumboFrame *bool
}

// RunInstancesNetworkInterface is NetworkInterface.N of RunInstances.
type RunInstancesNetworkInterface struct {
	InstanceType         string // Primary, Secondary (default)
	NetworkInterfaceId   string // an existing Available ENI; Secondary only
	VSwitchId            string
	SecurityGroupId      string
	SecurityGroupIds     []string
	PrimaryIpAddress     string
	Ipv6Address          []string
	Ipv6AddressCount     int
	NetworkInterfaceName string
	Description          string
	SourceDestCheck      *bool
	DeleteOnRelease      *bool

	NetworkInterfaceTrafficMode string
	NetworkCardIndex            *int
}

// CreateInstanceRequest has the parameters of CreateInstance: one instance, left Stopped.
type CreateInstanceRequest struct {
	ClientToken             string
	InstanceType            string
	ImageId                 string
	ZoneId                  string
	VSwitchId               string
	SecurityGroupId         string
	PrivateIpAddress        string
	InstanceName            string
	HostName                string
	Description             string
	UserData                string
	RamRoleName             string
	KeyPairName             string
	DeletionProtection      bool
	DryRun                  bool
	HttpEndpoint            string
	HttpTokens              string
	HttpPutResponseHopLimit int
	ResourceGroupId         string
	Tag                     []Tag
}

// StartInstanceRequest has the parameters of StartInstance.
type StartInstanceRequest struct {
	InstanceId string
	DryRun     bool
}

// StopInstanceRequest has the parameters of StopInstance.
type StopInstanceRequest struct {
	InstanceId string
	ForceStop  bool
	DryRun     bool
}

// RebootInstanceRequest has the parameters of RebootInstance.
type RebootInstanceRequest struct {
	InstanceId string
	ForceStop  bool
	DryRun     bool
}

// DeleteInstanceRequest has the parameters of DeleteInstance.
type DeleteInstanceRequest struct {
	InstanceId string
	Force      bool
	DryRun     bool
}

// DeleteInstancesRequest has the parameters of DeleteInstances: all or none.
type DeleteInstancesRequest struct {
	ClientToken string
	InstanceId  []string
	Force       bool
	DryRun      bool
}

// ModifyInstanceAttributeRequest has the parameters of ModifyInstanceAttribute.
type ModifyInstanceAttributeRequest struct {
	InstanceId         string
	InstanceName       *string
	HostName           *string
	Description        *string
	UserData           *string
	DeletionProtection *bool
	EnableJumboFrame   *bool
	SecurityGroupIds   []string
}

// AttachInstanceRamRoleRequest gives instances a RAM role (RAM and ECS action AttachInstanceRamRole).
type AttachInstanceRamRoleRequest struct {
	InstanceIds []string
	RamRoleName string
}

// DescribeInstancesRequest selects instances. InstanceIds and the address lists
// are JSON arrays on the wire; here they are decoded.
type DescribeInstancesRequest struct {
	InstanceIds         []string
	InstanceName        string // "*" is a wildcard
	InstanceNetworkType string // vpc, classic
	ImageId             string
	KeyPairName         string
	VpcId               string
	VSwitchId           string
	ZoneId              string
	InstanceType        string
	InstanceTypeFamily  string
	SecurityGroupId     string
	Status              string
	PrivateIpAddresses  []string
	Ipv6Address         []string
	ResourceGroupId     string
	Tag                 []Tag
}

// DescribeInstanceTypesRequest selects instance types.
type DescribeInstanceTypesRequest struct {
	InstanceTypes                      []string
	InstanceTypeFamily                 string
	InstanceTypeFamilies               []string
	MinimumCpuCoreCount                int
	MaximumCpuCoreCount                int
	MinimumMemorySize                  float64
	MaximumMemorySize                  float64
	MinimumEniQuantity                 int
	MinimumEniPrivateIpAddressQuantity int
	MinimumEniIpv6AddressQuantity      int
}

// CreateSecurityGroupRequest has the parameters of CreateSecurityGroup.
type CreateSecurityGroupRequest struct {
	ClientToken       string
	VpcId             string
	SecurityGroupName string
	SecurityGroupType string // normal (default), enterprise
	Description       string
	ResourceGroupId   string
	Tag               []Tag
}

// DeleteSecurityGroupRequest has the parameters of DeleteSecurityGroup.
type DeleteSecurityGroupRequest struct {
	SecurityGroupId string
}

// ModifySecurityGroupAttributeRequest has the parameters of ModifySecurityGroupAttribute.
type ModifySecurityGroupAttributeRequest struct {
	SecurityGroupId   string
	SecurityGroupName *string
	Description       *string
}

// ModifySecurityGroupPolicyRequest has the parameters of ModifySecurityGroupPolicy.
type ModifySecurityGroupPolicyRequest struct {
	ClientToken       string
	SecurityGroupId   string
	InnerAccessPolicy string
}

// Permission is one rule of Authorize and Revoke (Permissions.N, or the
// parameters of the old one-rule form).
type Permission struct {
	IpProtocol         string
	PortRange          string
	SourcePortRange    string
	Policy             string
	Priority           string
	NicType            string
	SourceCidrIp       string
	Ipv6SourceCidrIp   string
	SourceGroupId      string
	DestCidrIp         string
	Ipv6DestCidrIp     string
	DestGroupId        string
	SourcePrefixListId string
	DestPrefixListId   string
	Description        string
}

// AuthorizeSecurityGroupRequest has the parameters of AuthorizeSecurityGroup and
// AuthorizeSecurityGroupEgress: Permissions.N, or one embedded rule.
type AuthorizeSecurityGroupRequest struct {
	ClientToken     string
	SecurityGroupId string
	Permissions     []Permission
	Permission
}

// RevokeSecurityGroupRequest has the parameters of RevokeSecurityGroup and RevokeSecurityGroupEgress.
type RevokeSecurityGroupRequest struct {
	ClientToken         string
	SecurityGroupId     string
	SecurityGroupRuleId []string
	Permissions         []Permission
	Permission
}

// DescribeSecurityGroupsRequest selects security groups. SecurityGroupIds is a
// JSON array on the wire; here it is decoded.
type DescribeSecurityGroupsRequest struct {
	SecurityGroupId   string
	SecurityGroupIds  []string
	SecurityGroupName string
	SecurityGroupType string
	VpcId             string
	NetworkType       string // vpc, classic
	FuzzyQuery        bool   // SecurityGroupName is a part of the name
	ServiceManaged    bool
	ResourceGroupId   string
	Tag               []Tag
}

// DescribeSecurityGroupAttributeRequest has the parameters of DescribeSecurityGroupAttribute.
type DescribeSecurityGroupAttributeRequest struct {
	SecurityGroupId string
	Direction       string // ingress, egress, all (default)
}

// JoinSecurityGroupRequest has the parameters of JoinSecurityGroup and
// LeaveSecurityGroup: an instance (its primary ENI) or an ENI.
type JoinSecurityGroupRequest struct {
	SecurityGroupId    string
	InstanceId         string
	NetworkInterfaceId string
}

// ModifySecurityGroupRuleRequest has the parameters of ModifySecurityGroupRule and
// ModifySecurityGroupEgressRule. With SecurityGroupRuleId, the given fields replace those of
// the rule; without it, the other fields identify the rule and Description is changed.
type ModifySecurityGroupRuleRequest struct {
	ClientToken         string
	SecurityGroupId     string
	SecurityGroupRuleId string
	Permission
}
