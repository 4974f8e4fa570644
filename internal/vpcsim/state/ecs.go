package state

import (
	"net/netip"
	"slices"

	"terway.dev/terway/internal/catalog"
)

// ECSActions are the actions on ENIs, instances and security groups.
type ECSActions interface {
	// ENIs
	CreateNetworkInterface(CreateNetworkInterfaceRequest) (*NetworkInterface, error)
	AttachNetworkInterface(AttachNetworkInterfaceRequest) error
	DetachNetworkInterface(DetachNetworkInterfaceRequest) error
	DeleteNetworkInterface(DeleteNetworkInterfaceRequest) error
	ModifyNetworkInterfaceAttribute(ModifyNetworkInterfaceAttributeRequest) error
	DescribeNetworkInterfaces(DescribeNetworkInterfacesRequest) ([]NetworkInterface, error)
	// SelectNetworkInterfaces is DescribeNetworkInterfaces for callers that need only a few of
	// many ENIs: it returns only ids.
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
	// SelectInstances is to DescribeInstances what SelectNetworkInterfaces is to
	// DescribeNetworkInterfaces.
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
	// SetStuckAttaching keeps attachments in Attaching; false lets them finish.
	SetStuckAttaching(stuck bool)
	// SetFailingAttach makes attachments fail: the ENI becomes Available instead of InUse.
	SetFailingAttach(fail bool)
	// SetStrictDetach makes DetachNetworkInterface refuse an ENI that is not attached.
	SetStrictDetach(strict bool)
	// SetTypeBandwidth holds instances to the bandwidth of their type, in the data plane.
	SetTypeBandwidth(hold bool)
}

// ecsFew are the resources of ECS of which an account has few, and its faults.
type ecsFew struct {
	SecurityGroups map[string]*SecurityGroup
	StuckAttaching bool
	FailingAttach  bool
	StrictDetach   bool `json:",omitempty"`
	TypeBandwidth  bool `json:",omitempty"`
}

// ecsMany are the resources of ECS of which an account has many.
type ecsMany struct {
	NetworkInterfaces map[string]*NetworkInterface `json:",omitempty"`
	Instances         map[string]*Instance         `json:",omitempty"`
}

// Prefixes of the ids of the service's resources.
const (
	idENI           = "eni-"
	idInstance      = "i-"
	idSecurityGroup = "sg-"
	idRule          = "sgr-"
)

const (
	opENICreate         kind = "eni-create"
	opENIAttach         kind = "eni-attach"
	opENIDetach         kind = "eni-detach"
	opENIDelete         kind = "eni-delete"
	opInstancePending   kind = "instance-pending"    // then Stopped
	opInstancePendingUp kind = "instance-pending-up" // then Starting
	opInstanceStart     kind = "instance-start"
	opInstanceStop      kind = "instance-stop"
	opInstanceReboot    kind = "instance-reboot" // Stopping, then Starting
	opInstanceRelease   kind = "instance-release"
)

var ecsProduct = product{
	complete: func(d *data) {
		ensure(&d.NetworkInterfaces)
		ensure(&d.Instances)
		ensure(&d.SecurityGroups)
	},
	check: checkECS,
	operations: map[kind]completion{
		opENICreate: {has(enisIn), func(s *State, o operation) {
			s.data.NetworkInterfaces[o.ID].Status = ENIAvailable
		}},
		opENIAttach: {has(enisIn), func(s *State, o operation) {
			s.completeAttach(s.data.NetworkInterfaces[o.ID], o.Due)
		}},
		opENIDetach: {has(enisIn), func(s *State, o operation) {
			s.release(s.data.NetworkInterfaces[o.ID])
		}},
		opENIDelete: {has(enisIn), func(s *State, o operation) {
			s.removeENI(s.data.NetworkInterfaces[o.ID])
		}},
		opInstancePending: {has(instancesIn), func(s *State, o operation) {
			s.data.Instances[o.ID].Status = InstanceStopped
		}},
		opInstancePendingUp: {has(instancesIn), startInstance},
		opInstanceStart: {has(instancesIn), func(s *State, o operation) {
			instance := s.data.Instances[o.ID]
			instance.Status, instance.StartTime = InstanceRunning, o.Due
		}},
		opInstanceStop: {has(instancesIn), func(s *State, o operation) {
			s.data.Instances[o.ID].Status = InstanceStopped
		}},
		opInstanceReboot: {has(instancesIn), startInstance},
		opInstanceRelease: {has(instancesIn), func(s *State, o operation) {
			s.removeInstance(s.data.Instances[o.ID])
		}},
	},
	records: []record{
		recordOf[NetworkInterface](func(m *many) *map[string]*NetworkInterface { return &m.NetworkInterfaces }),
		recordOf[Instance](func(m *many) *map[string]*Instance { return &m.Instances }),
	},
	tagged: map[string]func(*data, []string) []taggable{
		"eni":           tagged(enisIn, func(e *NetworkInterface) *[]Tag { return &e.Tags }),
		"instance":      tagged(instancesIn, func(i *Instance) *[]Tag { return &i.Tags }),
		"securitygroup": tagged(groupsIn, func(g *SecurityGroup) *[]Tag { return &g.Tags }),
	},
	view: func(s *State, view *View) {
		view.SecurityGroups = appendShown(view.SecurityGroups, s.data.SecurityGroups, s.describeGroup)
		view.Instances = appendShown(view.Instances, s.data.Instances, s.instanceView)
	},
}

func enisIn(d *data) map[string]*NetworkInterface { return d.NetworkInterfaces }
func instancesIn(d *data) map[string]*Instance    { return d.Instances }
func groupsIn(d *data) map[string]*SecurityGroup  { return d.SecurityGroups }

// startInstance starts an instance after another operation.
func startInstance(s *State, o operation) {
	s.data.Instances[o.ID].Status = InstanceStarting
	s.start(opInstanceStart, o.ID, o.Due, s.options.Timing.InstanceStart)
}

func (s *State) instanceView(i *Instance) InstanceView {
	seen := InstanceView{Instance: s.describeInstance(i), Type: s.typeOf(i)}
	seen.NetworkInterfaces = nil
	for _, eni := range s.enisOf(i.InstanceId) {
		if eni.Status == ENIInUse {
			seen.NetworkInterfaces = append(seen.NetworkInterfaces, eni.clone())
		}
	}
	return seen
}

func checkECS(d *data) error {
	for id, g := range d.SecurityGroups {
		if g == nil || g.SecurityGroupId != id || d.VPCs[g.VpcId] == nil {
			return broken("security group", id, "has another id or is in no VPC")
		}
	}
	primary := map[string]bool{}
	for id, e := range d.NetworkInterfaces {
		switch {
		case e == nil || e.NetworkInterfaceId != id || d.VSwitches[e.VSwitchId] == nil:
			return broken("network interface", id, "is in no vSwitch")
		case e.InstanceId != "" && d.Instances[e.InstanceId] == nil:
			return broken("network interface", id, "is on an instance that does not exist")
		case slices.ContainsFunc(e.SecurityGroupIds, func(g string) bool { return d.SecurityGroups[g] == nil }):
			return broken("network interface", id, "is in a security group that does not exist")
		case slices.ContainsFunc(e.Ipv4Prefixes, func(p netip.Prefix) bool { return !p.IsValid() || !p.Addr().Is4() }):
			return broken("network interface", id, "has an IPv4 prefix that is none")
		}
		primary[e.InstanceId] = primary[e.InstanceId] || e.Type == ENIPrimary
	}
	for id, i := range d.Instances {
		if i.InstanceId != id || !primary[id] {
			return broken("instance", id, "has another id or no primary network interface")
		}
	}
	return nil
}

// SetStuckAttaching keeps running and future attachments in Attaching; false lets them finish
// at their time, or at once if it has passed.
func (s *State) SetStuckAttaching(stuck bool) {
	s.data.StuckAttaching = stuck
	for i := range s.data.Operations {
		if s.data.Operations[i].Kind == opENIAttach {
			s.data.Operations[i].Held = stuck
		}
	}
	s.changed()
}

// SetStrictDetach makes DetachNetworkInterface refuse an ENI that is not attached.
func (s *State) SetStrictDetach(strict bool) {
	s.data.StrictDetach = strict
	s.changed()
}

// SetTypeBandwidth holds instances to the bandwidth of their type, in the data plane.
func (s *State) SetTypeBandwidth(hold bool) {
	s.data.TypeBandwidth = hold
	s.changed()
}

// SetFailingAttach makes attachments fail like a failed hot-plug: the ENI becomes Available
// instead of InUse.
func (s *State) SetFailingAttach(fail bool) {
	s.data.FailingAttach = fail
	s.changed()
}
