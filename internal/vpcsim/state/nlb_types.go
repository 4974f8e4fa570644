package state

import (
	"net/netip"
	"slices"
	"time"
)

// Values of NLBLoadBalancer.LoadBalancerStatus; those of a zone mapping are the same.
const (
	NLBProvisioning = "Provisioning"
	NLBActive       = "Active"
	NLBConfiguring  = "Configuring"
	NLBDeleting     = "Deleting"
)

// Values of NLBLoadBalancer.AddressType.
const (
	NLBInternet = "Internet"
	NLBIntranet = "Intranet"
)

// Values of NLBLoadBalancer.ModificationProtectionStatus.
const (
	NLBNonProtection     = "NonProtection"
	NLBConsoleProtection = "ConsoleProtection"
)

// NLBLoadBalancer is a network load balancer. It has an address in one vSwitch of each of its
// zones, and, if it is an Internet one, a public address for each zone.
type NLBLoadBalancer struct {
	LoadBalancerId     string
	LoadBalancerName   string
	LoadBalancerStatus string
	AddressType        string
	VpcId              string
	DNSName            string
	CrossZoneEnabled   bool
	Cps                int `json:",omitempty"`
	// ZoneMappings are sorted by zone.
	ZoneMappings                 []NLBZoneMapping
	SecurityGroupIds             []string  `json:",omitempty"`
	DeletionProtectionEnabled    bool      `json:",omitempty"`
	DeletionProtectionReason     string    `json:",omitempty"`
	DeletionProtectionTime       time.Time `json:",omitzero"`
	ModificationProtectionStatus string
	ModificationProtectionReason string    `json:",omitempty"`
	ModificationProtectionTime   time.Time `json:",omitzero"`
	ResourceGroupId              string
	CreateTime                   time.Time
	Tags                         []Tag `json:",omitempty"`
}

// NLBZoneMapping is a load balancer's presence in a zone.
type NLBZoneMapping struct {
	ZoneId             string
	VSwitchId          string
	PrivateIPv4Address netip.Addr
	PublicIPv4Address  netip.Addr `json:",omitzero"`
	// AllocationId is the EIP of which the public address is; "" for an address of the load
	// balancer's own.
	AllocationId string `json:",omitempty"`
	// Pending: a running job adds the mapping.
	Pending bool `json:",omitempty"`
}

// Values of NLBListener.ListenerStatus.
const (
	NLBListenerProvisioning = "Provisioning"
	NLBListenerRunning      = "Running"
	NLBListenerConfiguring  = "Configuring"
	NLBListenerStarting     = "Starting"
	NLBListenerStopping     = "Stopping"
	NLBListenerStopped      = "Stopped"
	NLBListenerDeleting     = "Deleting"
)

// NLBListener is a listener of a network load balancer.
type NLBListener struct {
	ListenerId          string
	LoadBalancerId      string
	ListenerProtocol    string // TCP, UDP
	ListenerPort        int
	ListenerDescription string
	ListenerStatus      string
	// Serves: the data plane has the listener. While a job runs it has what it had before.
	Serves           bool
	ServerGroupId    string
	IdleTimeout      int  // seconds
	Cps              int  `json:",omitempty"`
	Mss              int  `json:",omitempty"`
	SecSensorEnabled bool `json:",omitempty"`
	CreateTime       time.Time
	Tags             []Tag `json:",omitempty"`
	// Verdicts are those of health checks on the servers, by key.
	Verdicts map[string]BackendVerdict `json:",omitempty"`
}

// Values of NLBServerGroup.ServerGroupStatus.
const (
	NLBGroupCreating    = "Creating"
	NLBGroupAvailable   = "Available"
	NLBGroupConfiguring = "Configuring"
	NLBGroupDeleting    = "Deleting"
)

// Values of NLBServerGroup.ServerGroupType.
const (
	NLBGroupInstance = "Instance"
	NLBGroupIP       = "Ip"
)

// NLBServerGroup is a server group of network load balancers.
type NLBServerGroup struct {
	ServerGroupId           string
	ServerGroupName         string
	ServerGroupType         string
	ServerGroupStatus       string
	VpcId                   string
	Protocol                string // TCP, UDP, TCP_UDP
	Scheduler               string // Wrr, Wlc, rr, sch, tch, qch
	ConnectionDrainEnabled  bool   `json:",omitempty"`
	ConnectionDrainTimeout  int    `json:",omitempty"` // seconds
	PreserveClientIpEnabled bool
	HealthCheck             NLBHealthCheck
	ResourceGroupId         string
	CreateTime              time.Time
	Tags                    []Tag `json:",omitempty"`
	// Servers are sorted by id, address and port.
	Servers []NLBServer `json:",omitempty"`

	// RelatedLoadBalancerIds is filled in results: the load balancers with a listener that uses
	// the group.
	RelatedLoadBalancerIds []string `json:",omitempty"`
}

// NLBHealthCheck is how the servers of a group are checked.
type NLBHealthCheck struct {
	HealthCheckEnabled        bool
	HealthCheckType           string   // TCP, HTTP, UDP
	HealthCheckConnectPort    int      // 0: each server's own
	HealthyThreshold          int      // successes in a row
	UnhealthyThreshold        int      // failures in a row
	HealthCheckConnectTimeout int      // seconds
	HealthCheckInterval       int      // seconds
	HealthCheckDomain         string   `json:",omitempty"`
	HealthCheckUrl            string   `json:",omitempty"`
	HealthCheckHttpCode       []string `json:",omitempty"` // http_2xx, …
	HttpCheckMethod           string   `json:",omitempty"`
	HealthCheckHttpVersion    string   `json:",omitempty"`
	HealthCheckReq            string   `json:",omitempty"` // UDP
	HealthCheckExp            string   `json:",omitempty"` // UDP
}

// Values of NLBServer.Status.
const (
	NLBServerAdding      = "Adding"
	NLBServerAvailable   = "Available"
	NLBServerConfiguring = "Configuring"
	NLBServerRemoving    = "Removing"
)

// Values of NLBServer.ServerType.
const (
	NLBServerEcs = "Ecs"
	NLBServerEni = "Eni"
	NLBServerEci = "Eci"
	NLBServerIP  = "Ip"
)

// NLBServer is a server of a group.
type NLBServer struct {
	ServerId    string
	ServerType  string
	ServerIp    netip.Addr
	Port        int
	Weight      int
	Description string `json:",omitempty"`
	Status      string
	ZoneId      string `json:",omitempty"`

	// ServerGroupId is filled in results.
	ServerGroupId string `json:",omitempty"`
}

// Values of NLBJob.Status.
const (
	NLBJobProcessing = "Processing"
	NLBJobSucceeded  = "Succeeded"
	NLBJobFailed     = "Failed"
)

// NLBJob is an asynchronous change of one resource: a load balancer, a listener or a server
// group. Another change of that resource is refused while it runs.
type NLBJob struct {
	JobId      string
	Action     string
	Status     string
	ResourceId string
	Ended      time.Time `json:",omitzero"`
	// Success and Failure are what the resource becomes; they are nil when the job has ended, and
	// for jobs on servers.
	Success *nlbResource `json:",omitempty"`
	Failure *nlbResource `json:",omitempty"`
	// Servers are the servers that the job adds, removes or changes, as they will be.
	Servers []NLBServer `json:",omitempty"`
}

// nlbResource is one of its fields, or nothing: then the resource is removed.
type nlbResource struct {
	LoadBalancer *NLBLoadBalancer `json:",omitempty"`
	Listener     *NLBListener     `json:",omitempty"`
	ServerGroup  *NLBServerGroup  `json:",omitempty"`
}

func (b *NLBLoadBalancer) clone() *NLBLoadBalancer {
	c := *b
	c.ZoneMappings = slices.Clone(b.ZoneMappings)
	c.SecurityGroupIds = slices.Clone(b.SecurityGroupIds)
	c.Tags = slices.Clone(b.Tags)
	return &c
}

// clone does not copy the verdicts.
func (l *NLBListener) clone() *NLBListener {
	c := *l
	c.Tags = slices.Clone(l.Tags)
	c.Verdicts = nil
	return &c
}

func (g *NLBServerGroup) clone() *NLBServerGroup {
	c := *g
	c.Servers = slices.Clone(g.Servers)
	c.Tags = slices.Clone(g.Tags)
	c.HealthCheck.HealthCheckHttpCode = slices.Clone(g.HealthCheck.HealthCheckHttpCode)
	return &c
}
