package state

import (
	"net/netip"
	"slices"
	"strconv"
)

func (s *State) vServerGroup(id string) (*VServerGroup, error) {
	if id == "" {
		return nil, missing("VServerGroupId")
	}
	g, ok := s.data.VServerGroups[id]
	if !ok {
		return nil, badRequest("InvalidParameter", "The specified VServerGroupId does not exist: %q.", id)
	}
	return g, nil
}

// usersOf returns the listeners that use a group, by port.
func (s *State) usersOf(g *VServerGroup) []*Listener {
	return slices.DeleteFunc(s.clbListenersOf(g.LoadBalancerId), func(l *Listener) bool { return l.VServerGroupId != g.VServerGroupId })
}

func (s *State) describeVServerGroup(g *VServerGroup) *VServerGroup {
	c := g.clone()
	for _, l := range s.usersOf(g) {
		c.Listeners = append(c.Listeners, l.clone())
	}
	return &c
}

// CreateVServerGroup creates a group, with backends if some are given.
func (s *State) CreateVServerGroup(req CreateVServerGroupRequest) (*VServerGroup, error) {
	l, err := s.loadBalancer(req.LoadBalancerId)
	if err != nil {
		return nil, err
	}
	if req.VServerGroupName == "" {
		return nil, missing("VServerGroupName")
	}
	if err := s.checkTags(nil, req.Tag); err != nil {
		return nil, err
	}
	g := &VServerGroup{VServerGroupName: req.VServerGroupName, LoadBalancerId: l.LoadBalancerId, Tags: slices.Clone(req.Tag)}
	if len(req.BackendServers) > 0 {
		if g.BackendServers, err = s.withServers(g, nil, "BackendServers", req.BackendServers); err != nil {
			return nil, err
		}
	}
	g.VServerGroupId, g.CreateTime = s.newID(idVServerGroup), s.now()
	s.data.VServerGroups[g.VServerGroupId] = g
	s.changed(g.VServerGroupId)
	return s.describeVServerGroup(g), nil
}

// DeleteVServerGroup deletes a group that no listener uses.
func (s *State) DeleteVServerGroup(req VServerGroupRequest) error {
	g, err := s.vServerGroup(req.VServerGroupId)
	if err != nil {
		return err
	}
	if users := s.usersOf(g); len(users) > 0 {
		return badRequest("RspoolVipExist", "there are vips associating with this vServer group: listener %s.", users[0].ListenerId)
	}
	delete(s.data.VServerGroups, g.VServerGroupId)
	s.changed(g.VServerGroupId)
	return nil
}

// DescribeVServerGroups lists the groups of a load balancer, by id.
func (s *State) DescribeVServerGroups(req DescribeVServerGroupsRequest) ([]VServerGroup, error) {
	l, err := s.loadBalancer(req.LoadBalancerId)
	if err != nil {
		return nil, err
	}
	found := []VServerGroup{}
	for _, g := range s.serverGroupsOf(l.LoadBalancerId) {
		if hasTags(req.Tag, g.Tags) {
			found = append(found, *s.describeVServerGroup(g))
		}
	}
	return found, nil
}

// DescribeVServerGroupAttribute returns one group.
func (s *State) DescribeVServerGroupAttribute(req VServerGroupRequest) (*VServerGroup, error) {
	g, err := s.vServerGroup(req.VServerGroupId)
	if err != nil {
		return nil, err
	}
	return s.describeVServerGroup(g), nil
}

// AddVServerGroupBackendServers adds backends, all or none. One that is a member already gets
// the new weight and description.
func (s *State) AddVServerGroupBackendServers(req VServerGroupBackendServersRequest) (*VServerGroup, error) {
	return s.changeBackends(req.VServerGroupId, func(g *VServerGroup) ([]BackendServer, error) {
		return s.withServers(g, g.BackendServers, "BackendServers", req.BackendServers)
	})
}

// RemoveVServerGroupBackendServers removes backends. One that is not a member is no error.
func (s *State) RemoveVServerGroupBackendServers(req VServerGroupBackendServersRequest) (*VServerGroup, error) {
	return s.changeBackends(req.VServerGroupId, func(g *VServerGroup) ([]BackendServer, error) {
		return s.withoutServers(g.BackendServers, "BackendServers", req.BackendServers)
	})
}

// ModifyVServerGroupBackendServers removes the old backends and adds the new ones, all or none.
func (s *State) ModifyVServerGroupBackendServers(req ModifyVServerGroupBackendServersRequest) (*VServerGroup, error) {
	return s.changeBackends(req.VServerGroupId, func(g *VServerGroup) ([]BackendServer, error) {
		rest, err := s.withoutServers(g.BackendServers, "OldBackendServers", req.OldBackendServers)
		if err != nil {
			return nil, err
		}
		return s.withServers(g, rest, "NewBackendServers", req.NewBackendServers)
	})
}

// SetVServerGroupAttribute changes the name, and the weights and descriptions of members.
func (s *State) SetVServerGroupAttribute(req SetVServerGroupAttributeRequest) (*VServerGroup, error) {
	if req.VServerGroupName == "" && len(req.BackendServers) == 0 {
		return nil, badRequest("MissingParameter", "The VServerGroupName or BackendServers is required at least one.")
	}
	return s.changeBackends(req.VServerGroupId, func(g *VServerGroup) ([]BackendServer, error) {
		servers := slices.Clone(g.BackendServers)
		if len(req.BackendServers) > 0 {
			if err := s.checkItems("BackendServers", req.BackendServers); err != nil {
				return nil, err
			}
		}
		for _, item := range req.BackendServers {
			found := false
			for i := range servers {
				if b := &servers[i]; item.means(b) {
					set(&b.Weight, item.Weight)
					set(&b.Description, item.Description)
					found = true
				}
			}
			if !found {
				return nil, badRequest("InvalidParameter", "The specified BackendServers are not valid: %s is not in server group %s.", item, g.VServerGroupId)
			}
		}
		if req.VServerGroupName != "" {
			g.VServerGroupName = req.VServerGroupName
		}
		return servers, nil
	})
}

// changeBackends changes the backends of a group to those that change returns.
func (s *State) changeBackends(id string, change func(*VServerGroup) ([]BackendServer, error)) (*VServerGroup, error) {
	g, err := s.vServerGroup(id)
	if err != nil {
		return nil, err
	}
	servers, err := change(g)
	if err != nil {
		return nil, err
	}
	s.putServers(g, servers)
	s.changed()
	return s.describeVServerGroup(g), nil
}

// putServers replaces the backends of a group. Its listeners forget the verdicts on those that
// are gone.
func (s *State) putServers(g *VServerGroup, servers []BackendServer) {
	g.BackendServers = servers
	if len(servers) == 0 {
		g.BackendServers = nil
	}
	s.touch(g.VServerGroupId)
	for _, l := range s.usersOf(g) {
		checkedIn(&s.data, l).forget()
		s.touch(l.ListenerId)
	}
}

// slbServerGone removes a deleted instance or ENI from all groups.
func (s *State) slbServerGone(id string) {
	of := func(b BackendServer) bool { return b.ServerId == id }
	for _, g := range s.data.VServerGroups {
		if slices.ContainsFunc(g.BackendServers, of) {
			s.putServers(g, slices.DeleteFunc(slices.Clone(g.BackendServers), of))
		}
	}
}

func (item BackendServerItem) String() string {
	return item.ServerId + " " + item.ServerIp + " port " + strconv.Itoa(item.Port)
}

// means reports whether an item names a member of a group.
func (item BackendServerItem) means(b *BackendServer) bool {
	return item.ServerId == b.ServerId && item.Port == b.Port && is(item.ServerIp, b.ServerIp.String())
}

// checkItems validates what every list of backends must fulfil.
func (s *State) checkItems(parameter string, items []BackendServerItem) error {
	if len(items) == 0 {
		return missing(parameter)
	}
	if most := s.options.Limits.BackendsPerCall; len(items) > most {
		return badRequest("InvalidParameter", "The specified %s are not valid: %d servers, expected at most %d in one call.", parameter, len(items), most)
	}
	type identity struct {
		id, ip string
		port   int
	}
	seen := map[identity]bool{}
	for _, item := range items {
		this := identity{item.ServerId, item.ServerIp, item.Port}
		switch {
		case item.ServerId == "":
			return missing(parameter + ".ServerId")
		case item.Port < 1 || item.Port > 65535:
			return invalid(parameter+".Port", strconv.Itoa(item.Port), "1 to 65535")
		case item.Weight != nil && (*item.Weight < 0 || *item.Weight > 100):
			return invalid(parameter+".Weight", strconv.Itoa(*item.Weight), "0 to 100")
		case item.Type != "" && item.Type != ServerECS && item.Type != ServerENI:
			return badRequest("BackendServer.InvalidType", "The specified Type is invalid: %q, expected %s or %s.", item.Type, ServerECS, ServerENI)
		case seen[this]:
			return badRequest("InvalidParameter", "The specified %s contain duplicated value of ServerID and Port: %s.", parameter, item)
		}
		seen[this] = true
	}
	return nil
}

// withoutServers returns the members that no item names.
func (s *State) withoutServers(members []BackendServer, parameter string, items []BackendServerItem) ([]BackendServer, error) {
	if err := s.checkItems(parameter, items); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(members), func(b BackendServer) bool {
		return slices.ContainsFunc(items, func(item BackendServerItem) bool { return item.means(&b) })
	}), nil
}

// withServers returns the members and the new ones of a group.
func (s *State) withServers(g *VServerGroup, members []BackendServer, parameter string, items []BackendServerItem) ([]BackendServer, error) {
	if err := s.checkItems(parameter, items); err != nil {
		return nil, err
	}
	l := s.data.LoadBalancers[g.LoadBalancerId]
	vpcID := s.vpcOfBackends(l)
	servers := slices.Clone(members)
	for _, item := range items {
		b, err := s.server(parameter, item)
		if err != nil {
			return nil, err
		}
		if vpcID == "" {
			vpcID = b.VpcId
		}
		if b.VpcId != vpcID {
			return nil, badRequest("NetworkConflict", "Backend server %s is in VPC %s, load balancer %s forwards to VPC %s.", item, b.VpcId, l.LoadBalancerId, vpcID)
		}
		if i := slices.IndexFunc(servers, func(o BackendServer) bool { return o.Key() == b.Key() }); i >= 0 {
			servers[i] = b
		} else {
			servers = append(servers, b)
		}
	}
	return servers, s.checkRoom(l, g.VServerGroupId, servers)
}

// checkRoom refuses more backends than a load balancer may have, if a group gets the given ones.
// An address counts once, however many ports and groups it is in.
func (s *State) checkRoom(l *LoadBalancer, groupID string, servers []BackendServer) error {
	type address struct {
		id string
		ip netip.Addr
	}
	held := map[address]bool{}
	for _, b := range servers {
		held[address{b.ServerId, b.ServerIp}] = true
	}
	for _, g := range s.serverGroupsOf(l.LoadBalancerId) {
		if g.VServerGroupId == groupID {
			continue
		}
		for _, b := range g.BackendServers {
			held[address{b.ServerId, b.ServerIp}] = true
		}
	}
	if most := s.options.Limits.BackendsPerLoadBalancer; len(held) > most {
		return badRequest("InstanceBackendServerNumberOverLimit", "The number of backend servers of load balancer %s would be %d, at most %d are allowed.", l.LoadBalancerId, len(held), most)
	}
	return nil
}

// server returns the backend that an item describes, which must exist.
func (s *State) server(parameter string, item BackendServerItem) (BackendServer, error) {
	b := BackendServer{ServerId: item.ServerId, Port: item.Port, Weight: 100, Type: item.Type}
	set(&b.Weight, item.Weight)
	set(&b.Description, item.Description)
	var enis []*NetworkInterface
	if b.Type == ServerENI {
		eni, ok := s.data.NetworkInterfaces[item.ServerId]
		if !ok {
			return b, notFound("ResourceNotFound.vServers", "The specified enis %s does not exist.", item.ServerId)
		}
		enis = []*NetworkInterface{eni}
	} else {
		b.Type = ServerECS
		if _, ok := s.data.Instances[item.ServerId]; !ok {
			return b, badRequest("InvalidServerId.NotExist", "The specified ServerId is not exist: %q.", item.ServerId)
		}
		enis = s.enisOf(item.ServerId)
	}
	b.VpcId, b.ServerIp = enis[0].VpcId, enis[0].PrimaryIpAddress
	if item.ServerIp == "" {
		return b, nil
	}
	a, err := netip.ParseAddr(item.ServerIp)
	if err != nil || !a.Is4() || !slices.ContainsFunc(enis, func(e *NetworkInterface) bool { return hasAddress(e, []netip.Addr{a}) }) {
		return b, invalid(parameter+".ServerIp", item.ServerIp, "an IPv4 address of "+item.ServerId)
	}
	b.ServerIp = a
	return b, nil
}
