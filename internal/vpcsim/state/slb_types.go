package state

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Values of load balancers (CLB).
const (
	AddressInternet = "internet"
	AddressIntranet = "intranet"

	LoadBalancerActive   = "active"
	LoadBalancerInactive = "inactive"

	PayBySpec = "PayBySpec"
	PayByCLCU = "PayByCLCU"

	PayByTraffic   = "paybytraffic"
	PayByBandwidth = "paybybandwidth"

	ConsoleProtection = "ConsoleProtection"
	NonProtection     = "NonProtection"

	On  = "on"
	Off = "off"
)

// Status values of listeners. A new one is stopped.
const (
	ListenerStopped  = "stopped"
	ListenerStarting = "starting"
	ListenerRunning  = "running"
	ListenerStopping = "stopping"
)

// Types of backend servers.
const (
	ServerECS = "ecs"
	ServerENI = "eni"
)

// LoadBalancer is a Classic Load Balancer (CLB).
type LoadBalancer struct {
	LoadBalancerId     string
	LoadBalancerName   string
	LoadBalancerStatus string
	AddressType        string
	Address            netip.Addr
	// VpcId and VSwitchId are empty for an internet address.
	VpcId                        string
	VSwitchId                    string
	MasterZoneId                 string
	SlaveZoneId                  string
	Bandwidth                    int // Mbit/s
	InternetChargeType           string
	InstanceChargeType           string
	LoadBalancerSpec             string
	DeleteProtection             string
	ModificationProtectionStatus string
	ModificationProtectionReason string
	ResourceGroupId              string
	CreateTime                   time.Time
	Tags                         []Tag `json:",omitempty"`
	// Listeners is filled in results of DescribeLoadBalancerAttribute, by port.
	Listeners []Listener `json:",omitempty"`
}

// NetworkType returns "vpc" for an address in a vSwitch.
func (l *LoadBalancer) NetworkType() string {
	if l.AddressType == AddressIntranet {
		return "vpc"
	}
	return "classic"
}

// VServerGroup is a group of backend servers of a load balancer.
type VServerGroup struct {
	VServerGroupId   string
	VServerGroupName string
	LoadBalancerId   string
	BackendServers   []BackendServer
	CreateTime       time.Time
	Tags             []Tag `json:",omitempty"`
	// Listeners is filled in results: those that use the group, by port.
	Listeners []Listener `json:",omitempty"`
}

// BackendServer is a server in a group. ServerId, ServerIp and Port identify it.
type BackendServer struct {
	ServerId    string
	ServerIp    netip.Addr
	Port        int
	Weight      int
	Type        string
	Description string `json:",omitempty"`
	VpcId       string
}

// Key returns the backend's key in a BalancerListener.
func (b *BackendServer) Key() string { return backendKey(b.ServerId, b.ServerIp, b.Port) }

// Listener is a listener of a load balancer.
type Listener struct {
	// ListenerId is LOADBALANCER/PROTOCOL/PORT; the service has no id for a listener.
	ListenerId       string
	LoadBalancerId   string
	ListenerProtocol string // tcp, udp, http
	ListenerPort     int
	Status           string
	ListenerConfig
	Tags []Tag `json:",omitempty"`
	// Verdicts are those on its backends, by key.
	Verdicts map[string]BackendVerdict `json:",omitempty"`
}

// ListenerConfig has the settings of a listener. Times are in seconds. Not every protocol has
// each of them.
type ListenerConfig struct {
	VServerGroupId string
	Description    string `json:",omitempty"`
	Bandwidth      int    // Mbit/s; -1: unlimited
	Scheduler      string
	// AclType and AclId are empty while AclStatus is off.
	AclStatus string
	AclType   string `json:",omitempty"`
	AclId     string `json:",omitempty"`

	PersistenceTimeout     int    `json:",omitempty"`
	EstablishedTimeout     int    `json:",omitempty"`
	ConnectionDrain        string `json:",omitempty"`
	ConnectionDrainTimeout int    `json:",omitempty"`

	HealthCheck            string // on, off
	HealthCheckType        string
	HealthCheckConnectPort int `json:",omitempty"` // 0: the server's
	HealthCheckTimeout     int
	HealthCheckInterval    int
	HealthyThreshold       int
	UnhealthyThreshold     int
	HealthCheckDomain      string `json:",omitempty"`
	HealthCheckURI         string `json:",omitempty"`
	HealthCheckMethod      string `json:",omitempty"`
	HealthCheckHttpCode    string `json:",omitempty"`
	HealthCheckReq         string `json:",omitempty"`
	HealthCheckExp         string `json:",omitempty"`

	StickySession     string `json:",omitempty"`
	StickySessionType string `json:",omitempty"`
	Cookie            string `json:",omitempty"`
	CookieTimeout     int    `json:",omitempty"`
	IdleTimeout       int    `json:",omitempty"`
	RequestTimeout    int    `json:",omitempty"`
	Gzip              string `json:",omitempty"`

	XForwardedFor              string `json:",omitempty"`
	XForwardedForProto         string `json:",omitempty"`
	XForwardedForSLBIP         string `json:",omitempty"`
	XForwardedForSLBID         string `json:",omitempty"`
	XForwardedForSLBPORT       string `json:",omitempty"`
	XForwardedForClientSrcPort string `json:",omitempty"`
}

// ServerHealth is the health of a backend server of a listener.
type ServerHealth struct {
	BackendServer
	ListenerPort     int
	ListenerProtocol string
	// ServerHealthStatus is normal, abnormal, or unavailable: not checked (yet).
	ServerHealthStatus string
}

func (l *LoadBalancer) clone() LoadBalancer {
	c := *l
	c.Tags = slices.Clone(l.Tags)
	return c
}

func (g *VServerGroup) clone() VServerGroup {
	c := *g
	c.BackendServers = slices.Clone(g.BackendServers)
	c.Tags = slices.Clone(g.Tags)
	return c
}

func (l *Listener) clone() Listener {
	c := *l
	c.Tags = slices.Clone(l.Tags)
	c.Verdicts = maps.Clone(l.Verdicts)
	return c
}
