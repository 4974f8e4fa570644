package cloud

import (
	"context"
	"net/netip"
)

// RouteAPI is what the product asks of a VPC's route tables. Every method returns
// an *Error (see Classify) when the cloud said no.
type RouteAPI interface {
	// DescribeRouteTables returns all route tables of a VPC, the system table among them.
	DescribeRouteTables(ctx context.Context, vpcID string) ([]RouteTable, error)
	// DescribeRouteEntries returns all entries of a table, of every type and state. All pages are read.
	DescribeRouteEntries(ctx context.Context, tableID string) ([]RouteEntry, error)
	// CreateRouteEntries starts to create entries (1 to MaxRouteEntriesPerCall) in
	// one table; each succeeds or fails on its own. One that is there already just
	// as it is wanted is no failure.
	CreateRouteEntries(ctx context.Context, tableID string, entries []NewRouteEntry) ([]RouteFailure, error)
	// DeleteRouteEntries starts to delete entries (1 to MaxRouteEntriesPerCall) of
	// one table, as DescribeRouteEntries gave them; each succeeds or fails on its
	// own. One that is not there is no failure.
	DeleteRouteEntries(ctx context.Context, tableID string, entries []RouteEntry) ([]RouteFailure, error)
}

// MaxRouteEntriesPerCall is how many entries one call may create or delete
// (VPC API: RouteEntries.N of CreateRouteEntries and DeleteRouteEntries, N ≤ 50).
const MaxRouteEntriesPerCall = 50

// RouteTable is a route table of a VPC.
type RouteTable struct {
	ID    string
	VPCID string
	// System is the table that every VPC has.
	System bool
	// VSwitchIDs are the vSwitches that use it.
	VSwitchIDs []string
}

// RouteStatus is the cloud's state of a route entry (VPC API: DescribeRouteEntryList, Status).
type RouteStatus string

const (
	RoutePending   RouteStatus = "Pending"
	RouteCreating  RouteStatus = "Creating"
	RouteCreated   RouteStatus = "Created" // what newer pages of the API's documentation call Available
	RouteAvailable RouteStatus = "Available"
	RouteDeleting  RouteStatus = "Deleting"
)

// NextHopInstance is the type of a next hop that is an ECS instance: what goes
// there reaches the instance's primary ENI.
const NextHopInstance = "Instance"

// RouteEntry is an entry of a route table as the cloud describes it.
type RouteEntry struct {
	ID          string
	TableID     string
	Name        string
	Description string
	// Destination is the zero prefix if it is not a range (but a prefix list).
	Destination netip.Prefix
	// Custom entries count against the table's quota; the others are the cloud's own.
	Custom   bool
	Status   RouteStatus
	NextHops []NextHop
}

// NextHop is where an entry leads.
type NextHop struct {
	Type string // NextHopInstance and others
	ID   string
}

// NewRouteEntry asks for an entry that leads to an instance.
type NewRouteEntry struct {
	Destination netip.Prefix
	InstanceID  string
	Name        string
	Description string
}

// RouteFailure says why one entry of a call was not created or deleted. Err is an *Error.
type RouteFailure struct {
	Destination netip.Prefix
	Err         error
}
