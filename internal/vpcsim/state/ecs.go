package state

import "terway.dev/terway/internal/catalog"

// ECSActions are the actions on ENIs, instances and security groups.
type ECSActions interface {
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

	// Faults
	// SetStuckAttaching makes attachments stay Attaching; false lets them finish.
	SetStuckAttaching(stuck bool)
	// SetFailingAttach makes attachments end Available instead of InUse.
	SetFailingAttach(fail bool)
	// SetStrictDetach makes DetachNetworkInterface refuse an ENI that is not attached.
	SetStrictDetach(strict bool)
}
