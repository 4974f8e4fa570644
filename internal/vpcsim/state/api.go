package state

import (
	"time"

	"terway.dev/terway/internal/catalog"
)

// API has every action of a State, by product, for an OpenAPI front end.
type API interface {
	ECSActions
	VPCActions
	SLBActions
	NLBActions
	AccountActions
	Simulation
}

// Simulation has the methods that no OpenAPI action reaches.
type Simulation interface {
	// Tick completes every operation that is due at now; it reports whether anything changed.
	Tick(now time.Time) (changed bool)
	// NextDue returns when the next operation is due.
	NextDue() (time.Time, bool)
	// Revision increases with every change.
	Revision() uint64
	// View returns a copy of all that a data plane needs.
	View() *View
	// MarshalJSON saves everything; Load is its inverse.
	MarshalJSON() ([]byte, error)
	// SetTiming sets the durations of operations that start from now on.
	SetTiming(Timing)
	// ReportHealth records what a data plane found out about backends of load balancers.
	ReportHealth([]BackendHealth)
}

// Options configure a State.
type Options struct {
	// Now is the clock; required.
	Now func() time.Time
	// Seed determines ids, MACs and the order of addresses.
	Seed uint64
	// RegionId defaults to cn-hangzhou, Zones to cn-hangzhou-{g,h,i,j,k}, OwnerId (the account)
	// to a fixed number.
	RegionId string
	Zones    []string
	OwnerId  string
	Timing   Timing
	// Limits are the quotas; the defaults of zero fields are the service's.
	Limits Limits
	// Catalog has the instance types; required.
	Catalog *catalog.Catalog
	// AssumeHealthy: a backend on which there is no verdict counts as healthy, for a cloud
	// without a data plane that checks backends.
	AssumeHealthy bool
}

// Timing has the durations of asynchronous operations. Zero means: done at the next Tick.
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
	Listener      time.Duration // of a load balancer: start, stop

	// Jobs of NLB, by what they change.
	NLBLoadBalancer time.Duration
	NLBListener     time.Duration
	NLBServerGroup  time.Duration // and its servers
}

// DefaultTiming is close to what clients of the real service expect.
func DefaultTiming() Timing {
	return Timing{
		CreateENI: 500 * time.Millisecond, AttachENI: 3 * time.Second,
		DetachENI: 3 * time.Second, DeleteENI: time.Second,
		VPC: time.Second, VSwitch: time.Second,
		RouteEntry: 2 * time.Second, RouteTable: time.Second,
		InstancePend: 2 * time.Second, InstanceStart: 5 * time.Second, InstanceStop: 5 * time.Second,
		Listener:        500 * time.Millisecond,
		NLBLoadBalancer: 5 * time.Second, NLBListener: time.Second, NLBServerGroup: 1500 * time.Millisecond,
	}
}

// View is a copy of everything that a data plane needs, sorted by id.
type View struct {
	Revision       uint64
	RegionId       string
	OwnerId        string
	VPCs           []VPC
	VSwitches      []VSwitch
	RouteTables    []RouteTable // with entries; VSwitchIds lists the users
	SecurityGroups []SecurityGroup
	Instances      []InstanceView
	Balancers      []Balancer // of all products, sorted by id
	// TypeBandwidth: the data plane holds instances to the bandwidth of their type.
	TypeBandwidth bool
}

// InstanceView is an instance as a data plane sees it.
type InstanceView struct {
	Instance // NetworkInterfaces: only those InUse, by slot; the primary first
	Type     catalog.Type
}
