package cloud

import (
	"context"
	"net/netip"
)

// RouteAPI has the calls for a VPC's route tables. Every method returns an *Error (see
// Classify) if the cloud refuses the call.
type RouteAPI interface {
	// DescribeRouteTables returns all route tables of a VPC, including the system table.
	DescribeRouteTables(ctx context.Context, vpcID string) ([]RouteTable, error)
	// DescribeRouteEntries returns all entries of a table, of every type and state. It reads
	// all pages.
	DescribeRouteEntries(ctx context.Context, tableID string) ([]RouteEntry, error)
	// CreateRouteEntries starts to create entries (1 to MaxRouteEntriesPerCall) in one table;
	// each succeeds or fails on its own. An equal entry that exists already is no failure.
	CreateRouteEntries(ctx context.Context, tableID string, entries []NewRouteEntry) ([]RouteFailure, error)
	// DeleteRouteEntries starts to delete entries (1 to MaxRouteEntriesPerCall) of one table,
	// as DescribeRouteEntries returned them; each succeeds or fails on its own. An entry that
	// does not exist is no failure.
	DeleteRouteEntries(ctx context.Context, tableID string, entries []RouteEntry) ([]RouteFailure, error)
}

// MaxRouteEntriesPerCall is the maximum number of entries in a call (VPC API: RouteEntries.N of
// CreateRouteEntries and DeleteRouteEntries, N ≤ 50).
const MaxRouteEntriesPerCall = 50

// RouteTable is a route table of a VPC.
type RouteTable struct {
	ID    string
	VPCID string
	// System marks the table that every VPC has.
	System bool
	// VSwitchIDs are the vSwitches that use it.
	VSwitchIDs []string
}

// RouteStatus is the cloud's state of a route entry (VPC API: DescribeRouteEntryList, Status).
type RouteStatus string

const (
	RoutePending   RouteStatus = "Pending"
	RouteCreating  RouteStatus = "Creating"
	RouteCreated   RouteStatus = "Created" // newer API documentation calls it Available
	RouteAvailable RouteStatus = "Available"
	RouteDeleting  RouteStatus = "Deleting"
)

// NextHopInstance is the next hop type of an ECS instance: packets go to the instance's primary
// ENI.
const NextHopInstance = "Instance"

// RouteEntry is an entry of a route table as the cloud describes it.
type RouteEntry struct {
	ID          string
	TableID     string
	Name        string
	Description string
	// Destination is the zero prefix if it is not a range but a prefix list.
	Destination netip.Prefix
	// Custom entries count against the table's quota; the cloud makes the others.
	Custom   bool
	Status   RouteStatus
	NextHops []NextHop
}

// NextHop is the next hop of an entry.
type NextHop struct {
	Type string // NextHopInstance and others
	ID   string
}

// NewRouteEntry describes an entry to create, with an instance as next hop.
type NewRouteEntry struct {
	Destination netip.Prefix
	InstanceID  string
	Name        string
	Description string
}

// RouteFailure is an entry of a call that was not created or deleted. Err is an *Error.
type RouteFailure struct {
	Destination netip.Prefix
	Err         error
}
