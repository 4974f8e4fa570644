package state

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

const (
	// nlbServersPerCall is the maximum number of servers in one call.
	nlbServersPerCall = 200
	// nlbSameServer is how often a group may have the same server, on different ports or
	// addresses.
	nlbSameServer = 200
)

// key identifies a server in its group.
func (v *NLBServer) key() string {
	return backendKey(v.ServerId, v.ServerIp, v.Port)
}

func nlbServerOrder(a, b NLBServer) int {
	return cmp.Or(strings.Compare(a.ServerId, b.ServerId), a.ServerIp.Compare(b.ServerIp), a.Port-b.Port)
}

// changeServers starts a job on servers of a group. servers returns those that it is about, as
// they will be; status is what they have meanwhile.
func (s *State) changeServers(action string, req NLBServersRequest, status string, servers func(*NLBServerGroup) ([]NLBServer, error)) (jobId string, err error) {
	return nlbOnce(s, action, req.ClientToken, req, func() (string, error) {
		g, err := s.nlbGroupToChange(req.ServerGroupId)
		if err != nil {
			return "", err
		}
		switch n := len(req.Servers); {
		case n == 0:
			return "", nlbMissing("Servers")
		case n > nlbServersPerCall:
			return "", nlbIllegal("Servers", strconv.Itoa(n)+" servers", "at most "+strconv.Itoa(nlbServersPerCall))
		}
		for _, r := range req.Servers {
			if err := checkNLBServer(r); err != nil {
				return "", err
			}
		}
		about, err := servers(g)
		if err != nil {
			return "", err
		}
		seen := map[string]bool{}
		for i := range about {
			if key := about[i].key(); seen[key] {
				return "", badRequest("DuplicatedParam.Server", "The param of Server is duplicated: %s.", key)
			} else {
				seen[key] = true
			}
		}
		if req.DryRun {
			return "", dryRun()
		}
		for i := range g.Servers {
			if seen[g.Servers[i].key()] {
				g.Servers[i].Status = status
			}
		}
		if status == NLBServerAdding {
			g.Servers = append(g.Servers, about...)
			slices.SortFunc(g.Servers, nlbServerOrder)
		}
		g.ServerGroupStatus = NLBGroupConfiguring
		return s.startNLBJob(NLBJob{Action: action, ResourceId: g.ServerGroupId, Servers: about}, s.options.Timing.NLBServerGroup), nil
	})
}

// endOfServers ends a job on servers.
func endOfServers(g *NLBServerGroup, job *NLBJob) {
	g.ServerGroupStatus = NLBGroupAvailable
	next := map[string]NLBServer{}
	for _, v := range job.Servers {
		next[v.key()] = v
	}
	left := g.Servers[:0]
	for _, v := range g.Servers {
		switch done := job.Status == NLBJobSucceeded; {
		case v.Status == NLBServerAdding && !done, v.Status == NLBServerRemoving && done:
			continue
		case v.Status == NLBServerConfiguring && done:
			v = next[v.key()]
		}
		v.Status = NLBServerAvailable
		left = append(left, v)
	}
	if g.Servers = left; len(left) == 0 {
		g.Servers = nil
	}
}

func checkNLBServer(r NLBServerRequest) error {
	switch {
	case r.ServerId == "":
		return nlbMissing("ServerId")
	case r.ServerType == "":
		return nlbMissing("ServerType")
	case !slices.Contains([]string{NLBServerEcs, NLBServerEni, NLBServerEci, NLBServerIP}, r.ServerType):
		return nlbIllegal("ServerType", r.ServerType, "Ecs, Eni, Eci or Ip")
	case r.Port < 1 || r.Port > 65535:
		return badRequest("IllegalParam.RSPortConflictWithServerGroup", "The param of RSPortConflictWithServerGroup is illegal: port %d, expected 1 to 65535.", r.Port)
	}
	if r.Description != nil && *r.Description != "" {
		if err := nlbText("description", *r.Description, 256, nlbDescriptionMarks); err != nil {
			return err
		}
	}
	return nlbRange("Weight", r.Weight, 0, 100)
}

// NLBAddServersToServerGroup adds servers, all or none.
func (s *State) NLBAddServersToServerGroup(req NLBServersRequest) (jobId string, err error) {
	return s.changeServers("AddServersToServerGroup", req, NLBServerAdding, func(g *NLBServerGroup) ([]NLBServer, error) {
		var added []NLBServer
		times := map[string]int{}
		for _, v := range g.Servers {
			times[v.ServerId]++
		}
		for _, r := range req.Servers {
			v, err := s.nlbServer(g, r)
			if err != nil {
				return nil, err
			}
			if slices.ContainsFunc(g.Servers, func(o NLBServer) bool { return o.key() == v.key() }) {
				return nil, badRequest("DuplicatedParam.Server", "The param of Server is duplicated: %s is in %s already.", v.key(), g.ServerGroupId)
			}
			if times[v.ServerId]++; times[v.ServerId] > nlbSameServer {
				return nil, nlbQuota("servergroup_server_added_num", times[v.ServerId], nlbSameServer)
			}
			added = append(added, v)
		}
		if n, most := len(g.Servers)+len(added), s.options.Limits.NLBServersPerGroup; n > most {
			return nil, nlbQuota("servergroup_noeci_servers_num", n, most)
		}
		for _, id := range s.nlbsWith(g.ServerGroupId) {
			if n, most := s.nlbServers(id, g)+len(added), s.options.Limits.NLBServersPerLoadBalancer; n > most {
				return nil, nlbQuota("loadbalancer_noeci_servers_num", n, most)
			}
		}
		return added, nil
	})
}

// nlbServer returns a new server of a group.
func (s *State) nlbServer(g *NLBServerGroup, r NLBServerRequest) (NLBServer, error) {
	v := NLBServer{ServerId: r.ServerId, ServerType: r.ServerType, Port: r.Port, Weight: 100, Status: NLBServerAdding}
	set(&v.Weight, r.Weight)
	set(&v.Description, r.Description)
	if (r.ServerType == NLBServerIP) != (g.ServerGroupType == NLBGroupIP) {
		return v, badRequest("Mismatch.ServerType", "The ServerType is mismatched for %s and %s.", r.ServerType, g.ServerGroupType)
	}
	named := r.ServerIp
	if r.ServerType == NLBServerIP {
		named = cmp.Or(named, r.ServerId)
	}
	if named != "" {
		a, err := netip.ParseAddr(named)
		if err != nil || !a.Is4() {
			return v, nlbIllegal("IP", named, "an IPv4 address")
		}
		v.ServerIp = a
	}
	vpc := g.VpcId
	switch r.ServerType {
	case NLBServerEci:
		return v, nlbNotFound("Eci", r.ServerId)
	case NLBServerEcs:
		i := s.data.Instances[r.ServerId]
		if i == nil {
			return v, nlbNotFound("Ecs", r.ServerId)
		}
		if v.ServerIp.IsValid() && v.ServerIp != i.PrimaryIpAddress {
			return v, nlbIllegal("IP", named, "the primary address of "+r.ServerId+", "+i.PrimaryIpAddress.String())
		}
		v.ServerIp, v.ZoneId, vpc = i.PrimaryIpAddress, i.ZoneId, i.VpcId
	case NLBServerEni:
		eni := s.data.NetworkInterfaces[r.ServerId]
		if eni == nil {
			return v, nlbNotFound("Eni", r.ServerId)
		}
		if eni.Status != ENIInUse {
			return v, badRequest("IncorrectStatus.Eni", "Eni status is invalid: %s is %s.", r.ServerId, eni.Status)
		}
		if !v.ServerIp.IsValid() {
			v.ServerIp = eni.PrimaryIpAddress
		} else if !hasAddress(eni, []netip.Addr{v.ServerIp}) {
			return v, nlbIllegal("IP", named, "an address of "+r.ServerId)
		}
		v.ZoneId, vpc = eni.ZoneId, eni.VpcId
	}
	if vpc != g.VpcId {
		return v, badRequest("Mismatch.VpcId", "The VpcId is mismatched for %s and %s.", r.ServerId, g.ServerGroupId)
	}
	return v, nil
}

// existingServers returns the servers of a group that a request names. Without an address it
// names the first one with the id and the port.
func existingServers(g *NLBServerGroup, wanted []NLBServerRequest) ([]NLBServer, error) {
	var found []NLBServer
	for _, r := range wanted {
		at := slices.IndexFunc(g.Servers, func(v NLBServer) bool {
			return v.ServerId == r.ServerId && v.Port == r.Port && v.ServerType == r.ServerType && is(r.ServerIp, v.ServerIp.String())
		})
		if at < 0 {
			return nil, nlbNotFound("BackendServer", r.ServerId+" "+r.ServerIp+":"+strconv.Itoa(r.Port))
		}
		found = append(found, g.Servers[at])
	}
	return found, nil
}

// NLBRemoveServersFromServerGroup removes servers, all or none.
func (s *State) NLBRemoveServersFromServerGroup(req NLBServersRequest) (jobId string, err error) {
	return s.changeServers("RemoveServersFromServerGroup", req, NLBServerRemoving, func(g *NLBServerGroup) ([]NLBServer, error) {
		return existingServers(g, req.Servers)
	})
}

// NLBUpdateServerGroupServersAttribute changes weights and descriptions, which have effect when
// the job has succeeded.
func (s *State) NLBUpdateServerGroupServersAttribute(req NLBServersRequest) (jobId string, err error) {
	return s.changeServers("UpdateServerGroupServersAttribute", req, NLBServerConfiguring, func(g *NLBServerGroup) ([]NLBServer, error) {
		next, err := existingServers(g, req.Servers)
		for i := range next {
			set(&next[i].Weight, req.Servers[i].Weight)
			set(&next[i].Description, req.Servers[i].Description)
		}
		return next, err
	})
}

// NLBListServerGroupServers lists servers, by group and key.
func (s *State) NLBListServerGroupServers(req NLBListServerGroupServersRequest) ([]NLBServer, error) {
	groups := []string{req.ServerGroupId}
	if req.ServerGroupId == "" {
		groups = sortedKeys(s.data.NLBServerGroups)
	}
	found := []NLBServer{}
	for _, id := range groups {
		g, err := s.nlbGroup(id)
		if err != nil {
			return nil, err
		}
		for _, v := range g.Servers {
			if isOneOf(req.ServerIds, v.ServerId) && isOneOf(req.ServerIps, v.ServerIp.String()) {
				v.ServerGroupId = id
				found = append(found, v)
			}
		}
	}
	return found, nil
}

// nlbServerGone removes a deleted instance or ENI from all groups, also from those on which a
// job runs.
func (s *State) nlbServerGone(id string) {
	for groupID, g := range s.data.NLBServerGroups {
		is := func(v NLBServer) bool { return v.ServerId == id }
		if !slices.ContainsFunc(g.Servers, is) {
			continue
		}
		if g.Servers = slices.DeleteFunc(g.Servers, is); len(g.Servers) == 0 {
			g.Servers = nil
		}
		s.touch(groupID)
		s.forgetNLBVerdicts(groupID)
	}
}
