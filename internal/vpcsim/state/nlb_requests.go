package state

// NLBCreateLoadBalancerRequest has the parameters of CreateLoadBalancer.
type NLBCreateLoadBalancerRequest struct {
	ClientToken                  string
	DryRun                       bool
	LoadBalancerName             string
	LoadBalancerType             string // network
	AddressType                  string // Internet, Intranet
	AddressIpVersion             string // ipv4
	VpcId                        string
	ZoneMappings                 []NLBZoneMappingRequest
	SecurityGroupIds             []string
	BandwidthPackageId           string
	ResourceGroupId              string
	DeletionProtectionConfig     NLBDeletionProtection
	ModificationProtectionConfig NLBModificationProtection
	LoadBalancerBillingConfig    struct{ PayType string }
	Tag                          []Tag
}

// NLBZoneMappingRequest is a zone in the parameters of actions on load balancers.
type NLBZoneMappingRequest struct {
	ZoneId             string
	VSwitchId          string
	PrivateIPv4Address string
	AllocationId       string
	EipType            string
	Ipv6Address        string
	Ipv4LocalAddresses []string
	Ipv6LocalAddresses []string
}

// NLBDeletionProtection is a parameter of CreateLoadBalancer.
type NLBDeletionProtection struct {
	Enabled bool
	Reason  string
}

// NLBModificationProtection is a parameter of CreateLoadBalancer.
type NLBModificationProtection struct {
	Status string // NonProtection (default), ConsoleProtection
	Reason string
}

// NLBLoadBalancerRequest has the parameters of DeleteLoadBalancer and GetLoadBalancerAttribute.
type NLBLoadBalancerRequest struct {
	ClientToken    string
	DryRun         bool
	LoadBalancerId string
}

// NLBListLoadBalancersRequest selects load balancers.
type NLBListLoadBalancersRequest struct {
	LoadBalancerIds            []string
	LoadBalancerNames          []string
	LoadBalancerStatus         string
	LoadBalancerBusinessStatus string
	LoadBalancerType           string
	AddressType                string
	AddressIpVersion           string
	Ipv6AddressType            string
	DNSName                    string
	VpcIds                     []string
	ZoneId                     string
	ResourceGroupId            string
	Tag                        []Tag
}

// NLBUpdateLoadBalancerAttributeRequest has the parameters of UpdateLoadBalancerAttribute.
type NLBUpdateLoadBalancerAttributeRequest struct {
	ClientToken      string
	DryRun           bool
	LoadBalancerId   string
	LoadBalancerName *string
	CrossZoneEnabled *bool
	Cps              *int
}

// NLBUpdateLoadBalancerProtectionRequest has the parameters of UpdateLoadBalancerProtection.
type NLBUpdateLoadBalancerProtectionRequest struct {
	ClientToken                  string
	DryRun                       bool
	LoadBalancerId               string
	DeletionProtectionEnabled    *bool
	DeletionProtectionReason     string
	ModificationProtectionStatus string
	ModificationProtectionReason string
}

// NLBUpdateLoadBalancerZonesRequest has the parameters of UpdateLoadBalancerZones and, with
// AddressType, of UpdateLoadBalancerAddressTypeConfig.
type NLBUpdateLoadBalancerZonesRequest struct {
	ClientToken    string
	DryRun         bool
	LoadBalancerId string
	AddressType    string
	ZoneMappings   []NLBZoneMappingRequest
}

// NLBSecurityGroupsRequest has the parameters of LoadBalancerJoinSecurityGroup and
// LoadBalancerLeaveSecurityGroup.
type NLBSecurityGroupsRequest struct {
	ClientToken      string
	DryRun           bool
	LoadBalancerId   string
	SecurityGroupIds []string
}

// NLBListenerAttributes are the parameters that CreateListener and UpdateListenerAttribute share.
type NLBListenerAttributes struct {
	ServerGroupId         *string
	ListenerDescription   *string
	IdleTimeout           *int
	Cps                   *int
	Mss                   *int
	SecSensorEnabled      *bool
	ProxyProtocolEnabled  bool
	ProxyProtocolV2Config NLBProxyProtocolV2
	AlpnEnabled           bool
	CaEnabled             bool
	CertificateIds        []string
	CaCertificateIds      []string
}

// NLBProxyProtocolV2 is what a PROXY header carries beside addresses.
type NLBProxyProtocolV2 struct {
	Ppv2PrivateLinkEpIdEnabled  bool
	Ppv2PrivateLinkEpsIdEnabled bool
	Ppv2VpcIdEnabled            bool
}

// NLBCreateListenerRequest has the parameters of CreateListener.
type NLBCreateListenerRequest struct {
	ClientToken      string
	DryRun           bool
	LoadBalancerId   string
	ListenerProtocol string
	ListenerPort     *int
	StartPort        int
	EndPort          int
	Tag              []Tag
	NLBListenerAttributes
}

// NLBUpdateListenerAttributeRequest has the parameters of UpdateListenerAttribute.
type NLBUpdateListenerAttributeRequest struct {
	ClientToken string
	DryRun      bool
	ListenerId  string
	NLBListenerAttributes
}

// NLBListenerRequest has the parameters of DeleteListener, StartListener, StopListener and
// GetListenerAttribute.
type NLBListenerRequest struct {
	ClientToken string
	DryRun      bool
	ListenerId  string
}

// NLBListListenersRequest selects listeners.
type NLBListListenersRequest struct {
	ListenerIds      []string
	LoadBalancerIds  []string
	ListenerProtocol string
	SecSensorEnabled *bool
	Tag              []Tag
}

// NLBServerGroupAttributes are the parameters that CreateServerGroup and
// UpdateServerGroupAttribute share.
type NLBServerGroupAttributes struct {
	ServerGroupName         *string
	Scheduler               string
	ConnectionDrainEnabled  *bool
	ConnectionDrainTimeout  *int
	PreserveClientIpEnabled *bool
	HealthCheckConfig       NLBHealthCheckRequest
	PersistenceEnabled      bool
}

// NLBHealthCheckRequest is a parameter of actions on server groups. What is absent keeps its
// value, or has its default in a new group.
type NLBHealthCheckRequest struct {
	HealthCheckEnabled        *bool
	HealthCheckType           string
	HealthCheckConnectPort    *int
	HealthyThreshold          *int
	UnhealthyThreshold        *int
	HealthCheckConnectTimeout *int
	HealthCheckInterval       *int
	HealthCheckDomain         string
	HealthCheckUrl            string
	HealthCheckHttpCode       []string
	HttpCheckMethod           string
	HealthCheckHttpVersion    string
	HealthCheckReq            string
	HealthCheckExp            string
}

// NLBCreateServerGroupRequest has the parameters of CreateServerGroup.
type NLBCreateServerGroupRequest struct {
	ClientToken      string
	DryRun           bool
	VpcId            string
	ServerGroupType  string // Instance (default), Ip
	AddressIPVersion string // ipv4
	Protocol         string // TCP (default), UDP, TCP_UDP
	AnyPortEnabled   bool
	ResourceGroupId  string
	Tag              []Tag
	NLBServerGroupAttributes
}

// NLBUpdateServerGroupAttributeRequest has the parameters of UpdateServerGroupAttribute.
type NLBUpdateServerGroupAttributeRequest struct {
	ClientToken   string
	DryRun        bool
	ServerGroupId string
	NLBServerGroupAttributes
}

// NLBDeleteServerGroupRequest has the parameters of DeleteServerGroup.
type NLBDeleteServerGroupRequest struct {
	ClientToken   string
	DryRun        bool
	ServerGroupId string
}

// NLBListServerGroupsRequest selects server groups.
type NLBListServerGroupsRequest struct {
	ServerGroupIds   []string
	ServerGroupNames []string
	ServerGroupType  string
	VpcId            string
	ResourceGroupId  string
	Tag              []Tag
}

// NLBServersRequest has the parameters of AddServersToServerGroup, RemoveServersFromServerGroup
// and UpdateServerGroupServersAttribute.
type NLBServersRequest struct {
	ClientToken   string
	DryRun        bool
	ServerGroupId string
	Servers       []NLBServerRequest
}

// NLBServerRequest is a server in the parameters of actions on servers.
type NLBServerRequest struct {
	ServerId    string
	ServerType  string
	ServerIp    string
	Port        int
	Weight      *int
	Description *string
}

// NLBListServerGroupServersRequest selects servers.
type NLBListServerGroupServersRequest struct {
	ServerGroupId string // all groups if empty
	ServerIds     []string
	ServerIps     []string
}

// NLBJobsRequest has the parameters of ListAsynJobs.
type NLBJobsRequest struct{ JobIds []string }
