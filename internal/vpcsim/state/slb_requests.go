package state

// CreateLoadBalancerRequest has the parameters of CreateLoadBalancer.
type CreateLoadBalancerRequest struct {
	ClientToken                  string
	LoadBalancerName             string
	AddressType                  string // internet (default), intranet
	AddressIPVersion             string // ipv4
	Address                      string
	VpcId                        string
	VSwitchId                    string
	MasterZoneId                 string
	SlaveZoneId                  string
	InternetChargeType           string
	InstanceChargeType           string
	PayType                      string // PayOnDemand
	Bandwidth                    int
	LoadBalancerSpec             string
	DeleteProtection             string
	ModificationProtectionStatus string
	ModificationProtectionReason string
	ResourceGroupId              string
	Tag                          []Tag
}

// LoadBalancerRequest has the parameters of actions on a load balancer that have no others.
type LoadBalancerRequest struct {
	LoadBalancerId string
}

// DescribeLoadBalancersRequest has the filters of DescribeLoadBalancers.
type DescribeLoadBalancersRequest struct {
	LoadBalancerId        string // comma-separated
	LoadBalancerName      string // comma-separated
	LoadBalancerStatus    string
	Address               string
	AddressType           string
	AddressIPVersion      string
	NetworkType           string
	VpcId                 string
	VSwitchId             string
	MasterZoneId          string
	SlaveZoneId           string
	InternetChargeType    string
	InstanceChargeType    string
	PayType               string
	ResourceGroupId       string
	ServerId              string
	ServerIntranetAddress string
	Tag                   []Tag
	Tags                  []TagFilter
}

// TagFilter is a tag in the older spelling of filters.
type TagFilter struct {
	TagKey   string
	TagValue string
}

// SetLoadBalancerNameRequest has the parameters of SetLoadBalancerName.
type SetLoadBalancerNameRequest struct {
	LoadBalancerId   string
	LoadBalancerName string
}

// SetLoadBalancerStatusRequest has the parameters of SetLoadBalancerStatus.
type SetLoadBalancerStatusRequest struct {
	LoadBalancerId     string
	LoadBalancerStatus string
}

// SetLoadBalancerDeleteProtectionRequest has the parameters of SetLoadBalancerDeleteProtection.
type SetLoadBalancerDeleteProtectionRequest struct {
	LoadBalancerId   string
	DeleteProtection string
}

// SetLoadBalancerModificationProtectionRequest has the parameters of
// SetLoadBalancerModificationProtection.
type SetLoadBalancerModificationProtectionRequest struct {
	LoadBalancerId               string
	ModificationProtectionStatus string
	ModificationProtectionReason string
}

// ModifyLoadBalancerInstanceSpecRequest has the parameters of ModifyLoadBalancerInstanceSpec.
type ModifyLoadBalancerInstanceSpecRequest struct {
	LoadBalancerId   string
	LoadBalancerSpec string
}

// ModifyLoadBalancerInternetSpecRequest has the parameters of ModifyLoadBalancerInternetSpec.
type ModifyLoadBalancerInternetSpecRequest struct {
	LoadBalancerId     string
	InternetChargeType string
	Bandwidth          int
}

// ModifyLoadBalancerInstanceChargeTypeRequest has the parameters of
// ModifyLoadBalancerInstanceChargeType.
type ModifyLoadBalancerInstanceChargeTypeRequest struct {
	LoadBalancerId     string
	InstanceChargeType string
	InternetChargeType string
	Bandwidth          int
	LoadBalancerSpec   string
}

// BackendServerItem is a server in the lists of BackendServers. Without a ServerIp the server's
// primary address is meant.
type BackendServerItem struct {
	ServerId    string
	ServerIp    string
	Port        int
	Weight      *int
	Type        string // ecs (default), eni
	Description *string
}

// CreateVServerGroupRequest has the parameters of CreateVServerGroup.
type CreateVServerGroupRequest struct {
	LoadBalancerId   string
	VServerGroupName string
	BackendServers   []BackendServerItem
	Tag              []Tag
}

// VServerGroupRequest has the parameters of actions on a group that have no others.
type VServerGroupRequest struct {
	VServerGroupId string
}

// VServerGroupBackendServersRequest has the parameters of AddVServerGroupBackendServers and
// RemoveVServerGroupBackendServers.
type VServerGroupBackendServersRequest struct {
	VServerGroupId string
	BackendServers []BackendServerItem
}

// SetVServerGroupAttributeRequest has the parameters of SetVServerGroupAttribute.
type SetVServerGroupAttributeRequest struct {
	VServerGroupId   string
	VServerGroupName string
	BackendServers   []BackendServerItem
}

// ModifyVServerGroupBackendServersRequest has the parameters of
// ModifyVServerGroupBackendServers.
type ModifyVServerGroupBackendServersRequest struct {
	VServerGroupId    string
	OldBackendServers []BackendServerItem
	NewBackendServers []BackendServerItem
}

// DescribeVServerGroupsRequest has the parameters of DescribeVServerGroups.
type DescribeVServerGroupsRequest struct {
	LoadBalancerId string
	Tag            []Tag
}

// ListenerRequest has the parameters of actions on a listener that have no others.
type ListenerRequest struct {
	LoadBalancerId   string
	ListenerPort     int
	ListenerProtocol string // needed if several listeners have the port
}

// DescribeLoadBalancerListenersRequest has the filters of DescribeLoadBalancerListeners.
type DescribeLoadBalancerListenersRequest struct {
	LoadBalancerId   []string
	ListenerPort     int
	ListenerProtocol string
	Description      string
	Tag              []Tag
}

// DescribeHealthStatusRequest has the parameters of DescribeHealthStatus.
type DescribeHealthStatusRequest struct {
	LoadBalancerId   string
	ListenerPort     int // 0: all
	ListenerProtocol string
}

// ListenerSettingsRequest has the parameters of CreateLoadBalancer…Listener and
// SetLoadBalancer…ListenerAttribute for TCP, UDP and HTTP. What is nil has its default in a new
// listener and stays unchanged in an existing one. Parameters that the protocol does not have are
// ignored, as in the service.
type ListenerSettingsRequest struct {
	LoadBalancerId string
	ListenerPort   int
	VServerGroup   string // Set…: off would take the group away
	VServerGroupId *string
	Description    *string
	Bandwidth      *int
	Scheduler      *string
	AclStatus      *string
	AclType        *string
	AclId          *string

	PersistenceTimeout     *int
	EstablishedTimeout     *int
	ConnectionDrain        *string
	ConnectionDrainTimeout *int

	HealthCheckSwitch         *string // TCP, UDP
	HealthCheck               *string // HTTP
	HealthCheckType           *string
	HealthCheckConnectPort    *int
	HealthCheckConnectTimeout *int // TCP, UDP
	HealthCheckTimeout        *int // HTTP
	HealthCheckInterval       *int `param:"HealthCheckInterval,healthCheckInterval"`
	HealthyThreshold          *int
	UnhealthyThreshold        *int
	HealthCheckDomain         *string
	HealthCheckURI            *string
	HealthCheckMethod         *string
	HealthCheckHttpCode       *string
	HealthCheckReq            *string `param:"HealthCheckReq,healthCheckReq"`
	HealthCheckExp            *string `param:"HealthCheckExp,healthCheckExp"`

	StickySession     *string
	StickySessionType *string
	Cookie            *string
	CookieTimeout     *int
	IdleTimeout       *int
	RequestTimeout    *int
	Gzip              *string

	XForwardedFor              *string
	XForwardedForProto         *string `param:"XForwardedFor_proto"`
	XForwardedForSLBIP         *string `param:"XForwardedFor_SLBIP"`
	XForwardedForSLBID         *string `param:"XForwardedFor_SLBID"`
	XForwardedForSLBPORT       *string `param:"XForwardedFor_SLBPORT"`
	XForwardedForClientSrcPort *string `param:"XForwardedFor_ClientSrcPort"`

	// What would change the path of packets, and is refused.
	ListenerForward          *string
	ProxyProtocolV2Enabled   *bool
	FullNatEnabled           *bool
	MasterSlaveModeEnabled   *bool
	MasterSlaveServerGroupId string
	PortRange                []ListenerPortRange

	Tag []Tag
}

// ListenerPortRange is a range of ports of a listener.
type ListenerPortRange struct {
	StartPort int
	EndPort   int
}
