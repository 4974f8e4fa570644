package state

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// SLBActions are the actions on Classic Load Balancers (CLB).
type SLBActions interface {
	// Load balancers
	CreateLoadBalancer(CreateLoadBalancerRequest) (*LoadBalancer, error)
	DeleteLoadBalancer(LoadBalancerRequest) error
	DescribeLoadBalancers(DescribeLoadBalancersRequest) ([]LoadBalancer, error)
	DescribeLoadBalancerAttribute(LoadBalancerRequest) (*LoadBalancer, error)
	SetLoadBalancerName(SetLoadBalancerNameRequest) error
	SetLoadBalancerStatus(SetLoadBalancerStatusRequest) error
	SetLoadBalancerDeleteProtection(SetLoadBalancerDeleteProtectionRequest) error
	SetLoadBalancerModificationProtection(SetLoadBalancerModificationProtectionRequest) error
	ModifyLoadBalancerInstanceSpec(ModifyLoadBalancerInstanceSpecRequest) error
	ModifyLoadBalancerInternetSpec(ModifyLoadBalancerInternetSpecRequest) error
	ModifyLoadBalancerInstanceChargeType(ModifyLoadBalancerInstanceChargeTypeRequest) error

	// Groups of backend servers
	CreateVServerGroup(CreateVServerGroupRequest) (*VServerGroup, error)
	DeleteVServerGroup(VServerGroupRequest) error
	DescribeVServerGroups(DescribeVServerGroupsRequest) ([]VServerGroup, error)
	DescribeVServerGroupAttribute(VServerGroupRequest) (*VServerGroup, error)
	AddVServerGroupBackendServers(VServerGroupBackendServersRequest) (*VServerGroup, error)
	RemoveVServerGroupBackendServers(VServerGroupBackendServersRequest) (*VServerGroup, error)
	ModifyVServerGroupBackendServers(ModifyVServerGroupBackendServersRequest) (*VServerGroup, error)
	SetVServerGroupAttribute(SetVServerGroupAttributeRequest) (*VServerGroup, error)

	// Listeners
	CreateLoadBalancerTCPListener(ListenerSettingsRequest) error
	CreateLoadBalancerUDPListener(ListenerSettingsRequest) error
	CreateLoadBalancerHTTPListener(ListenerSettingsRequest) error
	SetLoadBalancerTCPListenerAttribute(ListenerSettingsRequest) error
	SetLoadBalancerUDPListenerAttribute(ListenerSettingsRequest) error
	SetLoadBalancerHTTPListenerAttribute(ListenerSettingsRequest) error
	StartLoadBalancerListener(ListenerRequest) error
	StopLoadBalancerListener(ListenerRequest) error
	DeleteLoadBalancerListener(ListenerRequest) error
	DescribeLoadBalancerListeners(DescribeLoadBalancerListenersRequest) ([]Listener, error)
	DescribeLoadBalancerListenerAttribute(ListenerRequest) (*Listener, error)
	DescribeHealthStatus(DescribeHealthStatusRequest) ([]ServerHealth, error)

	// Access control lists
	CreateAccessControlList(CreateAccessControlListRequest) (aclId string, err error)
	DeleteAccessControlList(AccessControlListRequest) error
	DescribeAccessControlLists(DescribeAccessControlListsRequest) ([]AccessControlList, error)
	DescribeAccessControlListAttribute(AccessControlListRequest) (*AccessControlList, error)
	AddAccessControlListEntry(AccessControlListEntryRequest) error
	RemoveAccessControlListEntry(AccessControlListEntryRequest) error
}

// slbMany are the resources of SLB, of which an account with many Services has many.
type slbMany struct {
	LoadBalancers map[string]*LoadBalancer `json:",omitempty"`
	VServerGroups map[string]*VServerGroup `json:",omitempty"`
	Listeners     map[string]*Listener     `json:",omitempty"`

	AccessControlLists map[string]*AccessControlList `json:",omitempty"`
}

// Prefixes of the ids of the service's resources.
const (
	idLoadBalancer = "lb-"
	idVServerGroup = "rsp-"
	idACL          = "acl-"
)

const (
	opListenerStart kind = "listener-start"
	opListenerStop  kind = "listener-stop"
)

var slbProduct = product{
	complete: func(d *data) {
		ensure(&d.LoadBalancers)
		ensure(&d.VServerGroups)
		ensure(&d.Listeners)
		ensure(&d.AccessControlLists)
	},
	check: checkSLB,
	operations: map[kind]completion{
		opListenerStart: {has(listenersIn), func(s *State, o operation) {
			s.data.Listeners[o.ID].Status = ListenerRunning
		}},
		opListenerStop: {has(listenersIn), func(s *State, o operation) {
			s.data.Listeners[o.ID].Status = ListenerStopped
		}},
	},
	records: []record{
		recordOf[LoadBalancer](func(m *many) *map[string]*LoadBalancer { return &m.LoadBalancers }),
		recordOf[VServerGroup](func(m *many) *map[string]*VServerGroup { return &m.VServerGroups }),
		recordOf[Listener](func(m *many) *map[string]*Listener { return &m.Listeners }),
		recordOf[AccessControlList](func(m *many) *map[string]*AccessControlList { return &m.AccessControlLists }),
	},
	holds: func(d *data, hold func(string, netip.Addr, string)) {
		for id, l := range d.LoadBalancers {
			hold(l.VSwitchId, l.Address, id)
		}
	},
	checked: func(d *data, listenerID string) (checked, bool) {
		l, ok := d.Listeners[listenerID]
		if !ok {
			return checked{}, false
		}
		return checkedIn(d, l), true
	},
	tagged: map[string]func(*data, []string) []taggable{
		"slb:instance":     tagged(loadBalancersIn, func(l *LoadBalancer) *[]Tag { return &l.Tags }),
		"slb:vservergroup": tagged(vServerGroupsIn, func(g *VServerGroup) *[]Tag { return &g.Tags }),
		"slb:acl":          tagged(aclsIn, func(l *AccessControlList) *[]Tag { return &l.Tags }),
	},
	view: viewSLB,
}

func loadBalancersIn(d *data) map[string]*LoadBalancer { return d.LoadBalancers }
func vServerGroupsIn(d *data) map[string]*VServerGroup { return d.VServerGroups }
func listenersIn(d *data) map[string]*Listener         { return d.Listeners }
func aclsIn(d *data) map[string]*AccessControlList     { return d.AccessControlLists }

// checkedIn returns a listener as ReportHealth needs it.
func checkedIn(d *data, l *Listener) checked {
	return checked{verdicts: &l.Verdicts, keys: func(yield func(string) bool) {
		for _, b := range d.VServerGroups[l.VServerGroupId].BackendServers {
			if !yield(b.Key()) {
				return
			}
		}
	}}
}

func checkSLB(d *data) error {
	for id, l := range d.LoadBalancers {
		switch {
		case l == nil || l.LoadBalancerId != id || !l.Address.Is4():
			return broken("load balancer", id, "has no address")
		case l.VSwitchId != "" && d.VSwitches[l.VSwitchId] == nil:
			return broken("load balancer", id, "is in a vSwitch that does not exist")
		}
	}
	for id, g := range d.VServerGroups {
		if g == nil || g.VServerGroupId != id || d.LoadBalancers[g.LoadBalancerId] == nil {
			return broken("server group", id, "is of no load balancer")
		}
	}
	for id, l := range d.Listeners {
		switch {
		case l == nil || l.ListenerId != id || d.LoadBalancers[l.LoadBalancerId] == nil:
			return broken("listener", id, "is of no load balancer")
		case d.VServerGroups[l.VServerGroupId] == nil:
			return broken("listener", id, "has no server group")
		case l.AclId != "" && d.AccessControlLists[l.AclId] == nil || l.AclStatus == On && l.AclId == "":
			return broken("listener", id, "has an access control list that does not exist")
		}
	}
	for id, l := range d.AccessControlLists {
		if l == nil || l.AclId != id {
			return broken("access control list", id, "is empty")
		}
	}
	return nil
}

// clbListenersOf returns a load balancer's listeners, by port and protocol.
func (s *State) clbListenersOf(loadBalancerID string) []*Listener {
	var all []*Listener
	for _, l := range s.data.Listeners {
		if l.LoadBalancerId == loadBalancerID {
			all = append(all, l)
		}
	}
	slices.SortFunc(all, byPort)
	return all
}

func byPort(a, b *Listener) int {
	return cmp.Or(cmp.Compare(a.ListenerPort, b.ListenerPort), cmp.Compare(a.ListenerProtocol, b.ListenerProtocol))
}

// serverGroupsOf returns a load balancer's server groups, by id.
func (s *State) serverGroupsOf(loadBalancerID string) []*VServerGroup {
	var all []*VServerGroup
	for _, g := range s.data.VServerGroups {
		if g.LoadBalancerId == loadBalancerID {
			all = append(all, g)
		}
	}
	slices.SortFunc(all, func(a, b *VServerGroup) int { return strings.Compare(a.VServerGroupId, b.VServerGroupId) })
	return all
}

// vpcOfBackends returns the VPC in which a load balancer's backends are: its own or, for an
// internet address, that of its backends; "" if it has none.
func (s *State) vpcOfBackends(l *LoadBalancer) string {
	if l.VpcId != "" {
		return l.VpcId
	}
	for _, g := range s.serverGroupsOf(l.LoadBalancerId) {
		if len(g.BackendServers) > 0 {
			return g.BackendServers[0].VpcId
		}
	}
	return ""
}

// viewSLB adds the active load balancers to a view.
func viewSLB(s *State, view *View) {
	running := map[string][]*Listener{}
	for _, l := range s.data.Listeners {
		if l.Status == ListenerRunning {
			running[l.LoadBalancerId] = append(running[l.LoadBalancerId], l)
		}
	}
	for id, l := range s.data.LoadBalancers {
		if l.LoadBalancerStatus != LoadBalancerActive {
			continue
		}
		b := Balancer{
			LoadBalancerId: id, Product: ProductCLB, VpcId: s.vpcOfBackends(l),
			Addresses: []BalancerAddress{{Address: l.Address, Public: l.VSwitchId == "", VSwitchId: l.VSwitchId, ZoneId: l.MasterZoneId}},
		}
		slices.SortFunc(running[id], byPort)
		for _, one := range running[id] {
			b.Listeners = append(b.Listeners, s.viewListener(one))
		}
		view.Balancers = append(view.Balancers, b)
	}
}

func (s *State) viewListener(l *Listener) BalancerListener {
	b := BalancerListener{
		ListenerId: l.ListenerId, Protocol: strings.ToUpper(l.ListenerProtocol), Port: uint16(l.ListenerPort), Scheduler: l.Scheduler,
		Persistence: seconds(l.PersistenceTimeout), EstablishedTimeout: seconds(l.EstablishedTimeout),
		PreserveClientIP: l.ListenerProtocol != protocolHTTP, AccessList: s.accessList(l),
	}
	if l.ConnectionDrain == On {
		b.ConnectionDrain = seconds(l.ConnectionDrainTimeout)
	}
	if l.HealthCheck == On {
		c := &BalancerHealthCheck{
			Type: l.HealthCheckType, Port: uint16(l.HealthCheckConnectPort),
			Interval: seconds(l.HealthCheckInterval), Timeout: seconds(l.HealthCheckTimeout),
			Healthy: l.HealthyThreshold, Unhealthy: l.UnhealthyThreshold,
		}
		switch l.HealthCheckType {
		case CheckHTTP:
			c.Method, c.Domain, c.URI = strings.ToUpper(l.HealthCheckMethod), l.HealthCheckDomain, l.HealthCheckURI
			if c.Domain == serversOwnAddress {
				c.Domain = ""
			}
			c.Codes = strings.Split(l.HealthCheckHttpCode, ",")
		case CheckUDP:
			c.Request, c.Expect = l.HealthCheckReq, l.HealthCheckExp
		}
		b.HealthCheck = c
	}
	if l.ListenerProtocol == protocolHTTP {
		h := &BalancerHTTP{
			RequestTimeout: seconds(l.RequestTimeout), IdleTimeout: seconds(l.IdleTimeout),
			ForwardedProto: l.XForwardedForProto == On, ForwardedPort: l.XForwardedForSLBPORT == On,
			ForwardedClientPort: l.XForwardedForClientSrcPort == On,
			ForwardedAddress:    l.XForwardedForSLBIP == On, ForwardedID: l.XForwardedForSLBID == On,
		}
		if l.StickySession == On {
			h.StickySession, h.Cookie, h.CookieTimeout = l.StickySessionType, l.Cookie, seconds(l.CookieTimeout)
		}
		b.HTTP = h
	}
	for _, server := range s.data.VServerGroups[l.VServerGroupId].BackendServers {
		key := server.Key()
		b.Backends = append(b.Backends, BalancerBackend{
			Key: key, ServerId: server.ServerId, Address: server.ServerIp, Port: uint16(server.Port), Weight: server.Weight,
			BackendVerdict: s.verdict(l.Verdicts, key),
		})
	}
	return b
}

func seconds(n int) time.Duration { return time.Duration(n) * time.Second }
