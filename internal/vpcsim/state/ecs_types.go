package state

import (
	"net/netip"
	"slices"
	"time"
)

// NetworkInterfaceStatus is an ENI's state.
type NetworkInterfaceStatus string

const (
	ENICreating  NetworkInterfaceStatus = "Creating"
	ENIAvailable NetworkInterfaceStatus = "Available"
	ENIAttaching NetworkInterfaceStatus = "Attaching"
	ENIInUse     NetworkInterfaceStatus = "InUse"
	ENIDetaching NetworkInterfaceStatus = "Detaching"
	ENIDeleting  NetworkInterfaceStatus = "Deleting"
)

// ENI types.
const (
	ENIPrimary   = "Primary"
	ENISecondary = "Secondary"
	ENITrunk     = "Trunk"
	ENIMember    = "Member" // a Secondary ENI while it is attached to a trunk
)

// NetworkInterface is an ENI.
type NetworkInterface struct {
	NetworkInterfaceId          string
	NetworkInterfaceName        string
	Description                 string
	Type                        string
	Status                      NetworkInterfaceStatus
	MacAddress                  string
	VpcId                       string
	VSwitchId                   string
	ZoneId                      string
	PrimaryIpAddress            netip.Addr
	PrivateIpAddresses          []netip.Addr   // the primary one first
	Ipv4Prefixes                []netip.Prefix `json:",omitempty"`
	Ipv6Addresses               []netip.Addr   `json:",omitempty"`
	SecurityGroupIds            []string
	SourceDestCheck             bool
	DeleteOnRelease             bool
	NetworkInterfaceTrafficMode string
	QueueNumber                 int
	ResourceGroupId             string
	CreationTime                time.Time
	Tags                        []Tag `json:",omitempty"`

	// InstanceId is set from Attaching to Detaching.
	InstanceId string `json:",omitempty"`
	// Slot orders the ENIs of an instance: the primary ENI has 0, another the lowest slot that
	// was free when it was attached. The guest's device is eth<Slot>.
	Slot             int
	NetworkCardIndex int
	// TrunkNetworkInterfaceId and VlanId are the trunk of a member and its VLAN there, 1 to
	// 4094.
	TrunkNetworkInterfaceId string `json:",omitempty"`
	VlanId                  int    `json:",omitempty"`
	// MemberNetworkInterfaceIds are a trunk's members; filled in results.
	MemberNetworkInterfaceIds []string  `json:",omitempty"`
	AttachedTime              time.Time `json:",omitzero"`
}

// InstanceStatus is an instance's state.
type InstanceStatus string

const (
	InstancePending  InstanceStatus = "Pending"
	InstanceStarting InstanceStatus = "Starting"
	InstanceRunning  InstanceStatus = "Running"
	InstanceStopping InstanceStatus = "Stopping"
	InstanceStopped  InstanceStatus = "Stopped"
)

// Instance is an ECS instance.
type Instance struct {
	InstanceId              string
	InstanceName            string
	HostName                string
	Description             string
	SerialNumber            string
	InstanceType            string
	Status                  InstanceStatus
	RegionId                string
	ZoneId                  string
	VpcId                   string
	VSwitchId               string
	PrimaryIpAddress        netip.Addr
	SecurityGroupIds        []string // of the primary ENI; filled in results
	ImageId                 string
	UserData                string // base64, as given
	RamRoleName             string
	KeyPairName             string
	DeletionProtection      bool
	EnableJumboFrame        bool
	HttpEndpoint            string // enabled, disabled
	HttpTokens              string // optional, required
	HttpPutResponseHopLimit int
	ResourceGroupId         string
	CreationTime            time.Time
	StartTime               time.Time `json:",omitzero"`
	Tags                    []Tag     `json:",omitempty"`
	// Releasing: the instance is being deleted by force; it is Stopping until it is removed.
	Releasing bool `json:",omitempty"`
	// NetworkInterfaces is filled in results: the ENIs from Attaching to Detaching, by slot.
	NetworkInterfaces []NetworkInterface `json:",omitempty"`
}

// Powered reports whether the guest exists: Running, or Stopping and not stopped yet.
func (i *Instance) Powered() bool {
	return i.Status == InstanceRunning || i.Status == InstanceStopping
}

// Security group types, policies and directions.
const (
	SecurityGroupNormal     = "normal"
	SecurityGroupEnterprise = "enterprise"

	PolicyAccept = "Accept"
	PolicyDrop   = "Drop"

	DirectionIngress = "ingress"
	DirectionEgress  = "egress"
)

// SecurityGroup is a security group with its rules.
type SecurityGroup struct {
	SecurityGroupId   string
	SecurityGroupName string
	SecurityGroupType string // normal, enterprise
	Description       string
	VpcId             string
	// InnerAccessPolicy applies between members of the group: Accept or Drop.
	InnerAccessPolicy string
	Rules             []SecurityGroupRule `json:",omitempty"`
	ResourceGroupId   string
	CreationTime      time.Time
	Tags              []Tag `json:",omitempty"`

	// Filled in results.
	EcsCount                int // instances with an ENI in the group
	PrivateIpCount          int // addresses that count against the group's limit
	AvailableInstanceAmount int // the remaining room
}

// DefaultPolicy returns the verdict if no rule of the group decides.
func (g *SecurityGroup) DefaultPolicy(direction string) string {
	if direction == DirectionEgress && g.SecurityGroupType == SecurityGroupNormal {
		return PolicyAccept
	}
	return PolicyDrop
}

// SecurityGroupRule is one rule. The peer is either a range or a group.
type SecurityGroupRule struct {
	SecurityGroupRuleId string
	Direction           string // ingress, egress
	IpProtocol          string // TCP, UDP, ICMP, ICMPv6, GRE, ALL
	Policy              string // Accept, Drop
	Priority            int    // 1–100, lower first; on a tie Drop wins
	// PortRange is the "from/to" of the destination, SourcePortRange of the source; "-1/-1" is
	// all.
	PortRange       string
	SourcePortRange string
	// Peer is the range at the far end (source of ingress, destination of egress);
	// zero when PeerGroupId is set.
	Peer        netip.Prefix `json:",omitzero"`
	PeerGroupId string       `json:",omitempty"`
	// Local restricts the near end; zero: all addresses of the ENI.
	Local       netip.Prefix `json:",omitzero"`
	Description string
	CreateTime  time.Time
}

// Ports returns the destination port range; 0–65535 for all, or if the protocol has no ports.
func (r *SecurityGroupRule) Ports() (from, to uint16) { return portsOf(r.PortRange) }

// SourcePorts returns the source port range, like Ports.
func (r *SecurityGroupRule) SourcePorts() (from, to uint16) { return portsOf(r.SourcePortRange) }

func (e *NetworkInterface) clone() NetworkInterface {
	c := *e
	c.PrivateIpAddresses = slices.Clone(e.PrivateIpAddresses)
	c.Ipv4Prefixes = slices.Clone(e.Ipv4Prefixes)
	c.Ipv6Addresses = slices.Clone(e.Ipv6Addresses)
	c.SecurityGroupIds = slices.Clone(e.SecurityGroupIds)
	c.MemberNetworkInterfaceIds = slices.Clone(e.MemberNetworkInterfaceIds)
	c.Tags = slices.Clone(e.Tags)
	return c
}

func (i *Instance) clone() Instance {
	c := *i
	c.SecurityGroupIds = slices.Clone(i.SecurityGroupIds)
	c.Tags = slices.Clone(i.Tags)
	c.NetworkInterfaces = nil
	return c
}

func (g *SecurityGroup) clone() SecurityGroup {
	c := *g
	c.Rules = slices.Clone(g.Rules)
	c.Tags = slices.Clone(g.Tags)
	return c
}
