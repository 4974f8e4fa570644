package cloud

import "net/netip"

// The states of a VPC and a vSwitch (VPC API: DescribeVpcs, DescribeVSwitches, Status).
const (
	StatusPending   = "Pending"
	StatusAvailable = "Available"
	StatusDeleting  = "Deleting"
)

// VPCFilter selects VPCs; empty fields match all.
type VPCFilter struct {
	ID   string
	Tags map[string]string
}

// CreateVPCRequest asks for a VPC. The same Token gives the same VPC.
type CreateVPCRequest struct {
	Token string
	Name  string
	CIDR  netip.Prefix
	Tags  map[string]string
}

// CreateVSwitchRequest asks for a vSwitch. The same Token gives the same vSwitch.
type CreateVSwitchRequest struct {
	Token string
	VPCID string
	Zone  string
	Name  string
	CIDR  netip.Prefix
	Tags  map[string]string
}

// The kinds of security groups (ECS API: CreateSecurityGroup, SecurityGroupType).
const (
	SecurityGroupNormal     = "normal"
	SecurityGroupEnterprise = "enterprise"
)

// SecurityGroup is a security group.
type SecurityGroup struct {
	ID    string
	Name  string
	VPCID string
	// Type is SecurityGroupNormal or SecurityGroupEnterprise.
	Type string
	Tags map[string]string
	// Free is how many more private addresses the group can hold.
	Free int
}

// CreateSecurityGroupRequest asks for a security group. The same Token gives the same group.
type CreateSecurityGroupRequest struct {
	Token string
	VPCID string
	Name  string
	Type  string
	Tags  map[string]string
}
