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

// CreateVPCRequest describes a VPC to create. The same Token gives the same VPC.
type CreateVPCRequest struct {
	Token string
	Name  string
	CIDR  netip.Prefix
	Tags  map[string]string
}

// CreateVSwitchRequest describes a vSwitch to create. The same Token gives the same vSwitch.
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
	// Free is the number of private addresses that the group can still hold.
	Free int
}

// CreateSecurityGroupRequest describes a security group to create. The same Token gives the
// same group.
type CreateSecurityGroupRequest struct {
	Token string
	VPCID string
	Name  string
	Type  string
	Tags  map[string]string
}
