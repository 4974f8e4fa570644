package state

import "cmp"

// AccountActions are the actions that each product has, and those on the account as a whole.
type AccountActions interface {
	TagResources(TagResourcesRequest) error
	UntagResources(UntagResourcesRequest) error
	ListTagResources(ListTagResourcesRequest) ([]TagResource, error)
	DescribeRegions() []Region
	DescribeZones() []Zone
	// Quotas returns the account's limits.
	Quotas() Limits
}

// Region is a region.
type Region struct {
	RegionId  string
	LocalName string
}

// Zone is a zone of the region.
type Zone struct {
	ZoneId    string
	LocalName string
}

// Limits are the quotas of the account and the service.
type Limits struct {
	VPCs                    int // per region: 10
	VSwitchesPerVPC         int // 150
	SecondaryCIDRs          int // 5
	PrivateIPsPerVPC        int // 300000
	ENIs                    int // per region: 50000
	RouteTablesPerVPC       int // system and custom: 10
	RouteEntriesPerTable    int // custom entries: 200
	SecurityGroups          int // per region: 100
	SecurityGroupsPerENI    int // 5
	RulesPerSecurityGroup   int // 200
	RulesPerENI             int // 1000
	GroupRefsPerGroup       int // normal groups: 20
	PrivateIPsPerNormal     int // addresses in a normal group: 2000
	PrivateIPsPerEnterprise int // 65536
	TagsPerResource         int // 20
	EIPs                    int // per region: 20

	LoadBalancers            int // CLB, per account: 60
	ListenersPerLoadBalancer int // CLB: 50
	// BackendsPerLoadBalancer are the addresses that a CLB has as backends, whatever the ports:
	// 200.
	BackendsPerLoadBalancer int
	// BackendsPerCall are the backends in one call of CLB: 20 as documented. The service accepts
	// more; existing programs send 40.
	BackendsPerCall             int
	AccessControlLists          int // CLB, per account: 50
	EntriesPerAccessControlList int // 300

	NLBs                      int // per region: 60
	NLBListeners              int // of a load balancer: 50
	NLBSecurityGroups         int // of a load balancer: 4
	NLBServersPerLoadBalancer int // in the groups of all of its listeners: 400
	NLBServerGroups           int // per region: 3000
	NLBServersPerGroup        int // 400
}

func (l Limits) withDefaults() Limits {
	return Limits{
		VPCs:                    cmp.Or(l.VPCs, 10),
		VSwitchesPerVPC:         cmp.Or(l.VSwitchesPerVPC, 150),
		SecondaryCIDRs:          cmp.Or(l.SecondaryCIDRs, 5),
		PrivateIPsPerVPC:        cmp.Or(l.PrivateIPsPerVPC, 300000),
		ENIs:                    cmp.Or(l.ENIs, 50000),
		RouteTablesPerVPC:       cmp.Or(l.RouteTablesPerVPC, 10),
		RouteEntriesPerTable:    cmp.Or(l.RouteEntriesPerTable, 200),
		SecurityGroups:          cmp.Or(l.SecurityGroups, 100),
		SecurityGroupsPerENI:    cmp.Or(l.SecurityGroupsPerENI, 5),
		RulesPerSecurityGroup:   cmp.Or(l.RulesPerSecurityGroup, 200),
		RulesPerENI:             cmp.Or(l.RulesPerENI, 1000),
		GroupRefsPerGroup:       cmp.Or(l.GroupRefsPerGroup, 20),
		PrivateIPsPerNormal:     cmp.Or(l.PrivateIPsPerNormal, 2000),
		PrivateIPsPerEnterprise: cmp.Or(l.PrivateIPsPerEnterprise, 65536),
		TagsPerResource:         cmp.Or(l.TagsPerResource, 20),
		EIPs:                    cmp.Or(l.EIPs, 20),

		LoadBalancers:               cmp.Or(l.LoadBalancers, 60),
		ListenersPerLoadBalancer:    cmp.Or(l.ListenersPerLoadBalancer, 50),
		BackendsPerLoadBalancer:     cmp.Or(l.BackendsPerLoadBalancer, 200),
		BackendsPerCall:             cmp.Or(l.BackendsPerCall, 20),
		AccessControlLists:          cmp.Or(l.AccessControlLists, 50),
		EntriesPerAccessControlList: cmp.Or(l.EntriesPerAccessControlList, 300),

		NLBs:                      cmp.Or(l.NLBs, 60),
		NLBListeners:              cmp.Or(l.NLBListeners, 50),
		NLBSecurityGroups:         cmp.Or(l.NLBSecurityGroups, 4),
		NLBServersPerLoadBalancer: cmp.Or(l.NLBServersPerLoadBalancer, 400),
		NLBServerGroups:           cmp.Or(l.NLBServerGroups, 3000),
		NLBServersPerGroup:        cmp.Or(l.NLBServersPerGroup, 400),
	}
}

// OwnerId returns the account's id.
func (s *State) OwnerId() string { return s.options.OwnerId }

// RegionId returns the region's id.
func (s *State) RegionId() string { return s.options.RegionId }

// Quotas returns the account's limits.
func (s *State) Quotas() Limits { return s.options.Limits }

// DescribeRegions returns the one region.
func (s *State) DescribeRegions() []Region {
	return []Region{{RegionId: s.options.RegionId, LocalName: s.options.RegionId}}
}

// DescribeZones returns the region's zones.
func (s *State) DescribeZones() []Zone {
	zones := make([]Zone, 0, len(s.options.Zones))
	for _, z := range s.options.Zones {
		zones = append(zones, Zone{ZoneId: z, LocalName: z})
	}
	return zones
}
