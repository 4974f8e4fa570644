// Package cloud is the product's interface to a VPC: the calls, the resources, and a table that
// maps the cloud's error codes to a class, a cause and a next step.
//
// It uses no SDK and no HTTP; package cloud/alibaba implements it.
package cloud

import (
	"context"
	"net/netip"
)

// API has the calls of the product to the cloud. Every method returns an *Error (see Classify)
// if the cloud refuses the call.
type API interface {
	// DescribeInstances returns the ECS instances that exist.
	DescribeInstances(ctx context.Context, ids []string) ([]Instance, error)
	// DescribeInstanceType returns the limits of an instance type.
	DescribeInstanceType(ctx context.Context, instanceType string) (*InstanceType, error)
	// ListVSwitches returns all vSwitches of a VPC. It reads all pages.
	ListVSwitches(ctx context.Context, vpcID string) ([]VSwitch, error)
	// DescribeVPC returns a VPC.
	DescribeVPC(ctx context.Context, id string) (*VPC, error)

	// CreateENI creates a secondary ENI. The same Token gives the same ENI.
	CreateENI(ctx context.Context, req CreateENIRequest) (*ENI, error)
	// AttachENI starts to attach an Available ENI; poll DescribeENIs for InUse.
	AttachENI(ctx context.Context, eniID, instanceID string) error
	// DetachENI starts to detach an ENI; an ENI that is not attached is no error.
	DetachENI(ctx context.Context, eniID, instanceID string) error
	// DeleteENI deletes an Available ENI; one that does not exist is no error.
	DeleteENI(ctx context.Context, eniID string) error
	// DescribeENIs lists ENIs that match all fields of the filter that are set. It reads all
	// pages.
	DescribeENIs(ctx context.Context, f ENIFilter) ([]ENI, error)

	// AssignAddresses adds n secondary IPv4 addresses (1 ≤ n ≤ MaxAddressesPerCall)
	// to an ENI and returns them. The same token gives the same addresses.
	AssignAddresses(ctx context.Context, eniID string, n int, token string) ([]netip.Addr, error)
	// UnassignAddresses removes secondary addresses (at most MaxAddressesPerCall) from an ENI.
	// Addresses that the ENI does not have are no error.
	UnassignAddresses(ctx context.Context, eniID string, addrs []netip.Addr) error
}

// MaxAddressesPerCall is the maximum number of addresses in an Assign or Unassign call (ECS
// API: PrivateIpAddress.N and SecondaryPrivateIpAddressCount, N ≤ 10).
const MaxAddressesPerCall = 10

// ENIStatus is the cloud's state of an ENI (ECS API: DescribeNetworkInterfaces, Status).
type ENIStatus string

const (
	ENICreating  ENIStatus = "Creating"
	ENIAvailable ENIStatus = "Available"
	ENIAttaching ENIStatus = "Attaching"
	ENIInUse     ENIStatus = "InUse"
	ENIDetaching ENIStatus = "Detaching"
	ENIDeleting  ENIStatus = "Deleting"
)

// ENI is an elastic network interface as the cloud describes it.
type ENI struct {
	ID         string
	MAC        string
	Status     ENIStatus
	Type       string // Primary, Secondary, Trunk, Member
	InstanceID string
	VPCID      string
	VSwitchID  string
	Zone       string
	Primary    netip.Addr
	// Addresses are all IPv4 addresses, the primary included.
	Addresses      []netip.Addr
	SecurityGroups []string
	Tags           map[string]string
}

// ENIFilter selects ENIs; empty fields match all.
type ENIFilter struct {
	IDs        []string
	InstanceID string
	VPCID      string
	Type       string
	Status     ENIStatus
	Tags       map[string]string
}

// CreateENIRequest describes a secondary ENI to create.
type CreateENIRequest struct {
	Token          string
	VSwitchID      string
	SecurityGroups []string
	// SecondaryCount is the number of secondary addresses to assign at creation (0–49).
	SecondaryCount int
	Name           string
	Description    string
	Tags           map[string]string
}

// Instance is an ECS instance.
type Instance struct {
	ID             string
	Type           string
	Zone           string
	VPCID          string
	VSwitchID      string
	SecurityGroups []string
	Status         string
	// Addresses are the private IPv4 addresses of its primary ENI, the primary address first.
	Addresses []netip.Addr
}

// InstanceType has the limits of an ECS instance type.
type InstanceType struct {
	Name string
	// ENIs includes the primary ENI.
	ENIs int
	// IPv4PerENI and IPv6PerENI include the ENI's primary address.
	IPv4PerENI int
	IPv6PerENI int
}

// TypeDescription has the network properties of an instance type. 0 means that the cloud gives
// no number.
type TypeDescription struct {
	InstanceType
	Family    string
	VCPU      int
	MemoryGiB float64
	// ENITotal includes the members of a trunk ENI.
	ENITotal int
	Trunk    bool
	// BandwidthKbit is the guaranteed bandwidth in kbit/s, the lower one of both directions.
	BandwidthKbit int
	// Queues of a secondary ENI.
	Queues int
}

// VSwitch is a subnet of a VPC in one zone.
type VSwitch struct {
	ID     string
	Name   string
	Status string
	VPCID  string
	Zone   string
	CIDR   netip.Prefix
	Tags   map[string]string
	// IPv6CIDR is zero when the vSwitch has none.
	IPv6CIDR netip.Prefix
	// Available is the number of free addresses.
	Available int
}

// VPC is a private network. DescribeVPC returns only its id and ranges.
type VPC struct {
	ID     string
	Name   string
	Status string
	Tags   map[string]string
	// CIDRs are the primary and all secondary ranges.
	CIDRs []netip.Prefix
}
