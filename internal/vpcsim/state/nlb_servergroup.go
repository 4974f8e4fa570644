package state

import (
	"cmp"
	"slices"
	"strings"
)

// nlbGroup returns a server group.
func (s *State) nlbGroup(id string) (*NLBServerGroup, error) {
	if id == "" {
		return nil, nlbMissing("ServerGroupId")
	}
	g, ok := s.data.NLBServerGroups[id]
	if !ok {
		return nil, nlbNotFound("serverGroup", id)
	}
	return g, nil
}

func nlbGroupStatus(g *NLBServerGroup) *Error {
	return badRequest("IncorrectStatus.serverGroup", "The status of servergroup [%s] is incorrect: %s.", g.ServerGroupId, g.ServerGroupStatus)
}

// nlbGroupToChange returns a server group that can be changed: it exists, and no job runs on it.
func (s *State) nlbGroupToChange(id string) (*NLBServerGroup, error) {
	g, err := s.nlbGroup(id)
	switch {
	case err != nil:
		return nil, err
	case g.ServerGroupStatus == NLBGroupCreating || g.ServerGroupStatus == NLBGroupDeleting:
		return nil, nlbGroupStatus(g)
	case s.nlbJobOn(id) != nil:
		return nil, nlbLocked(id)
	}
	return g, nil
}

// NLBCreateServerGroup creates a server group without servers.
func (s *State) NLBCreateServerGroup(req NLBCreateServerGroupRequest) (*NLBCreateResult, error) {
	return nlbOnce(s, "CreateServerGroup", req.ClientToken, req, func() (*NLBCreateResult, error) {
		g := &NLBServerGroup{
			ServerGroupType: cmp.Or(req.ServerGroupType, NLBGroupInstance), ServerGroupStatus: NLBGroupAvailable, VpcId: req.VpcId,
			Protocol: cmp.Or(req.Protocol, "TCP"), Scheduler: "Wrr", PreserveClientIpEnabled: true,
			HealthCheck: NLBHealthCheck{
				HealthCheckEnabled: true, HealthCheckType: "TCP", HealthyThreshold: 2, UnhealthyThreshold: 2,
				HealthCheckConnectTimeout: 5, HealthCheckInterval: 5,
			},
			ResourceGroupId: req.ResourceGroupId, CreateTime: s.now(), Tags: slices.Clone(req.Tag),
		}
		switch {
		case req.AnyPortEnabled:
			return nil, nlbUnsupported("AnyPortEnabled")
		case req.AddressIPVersion != "" && !strings.EqualFold(req.AddressIPVersion, "ipv4"):
			return nil, nlbUnsupported("AddressIPVersion " + req.AddressIPVersion)
		case g.ServerGroupType != NLBGroupInstance && g.ServerGroupType != NLBGroupIP:
			return nil, nlbIllegal("ServerGroupType", g.ServerGroupType, "Instance or Ip")
		case !slices.Contains([]string{"TCP", "UDP", "TCP_UDP"}, g.Protocol):
			return nil, nlbIllegal("Protocol", g.Protocol, "TCP, UDP or TCP_UDP")
		case req.VpcId == "":
			return nil, nlbMissing("VpcId")
		case s.data.VPCs[req.VpcId] == nil:
			return nil, nlbNotFound("Vpc", req.VpcId)
		case req.ServerGroupName == nil || *req.ServerGroupName == "":
			return nil, nlbMissing("ServerGroupName")
		}
		if err := nlbGroupAttributes(g, req.NLBServerGroupAttributes); err != nil {
			return nil, err
		}
		if n, most := len(s.data.NLBServerGroups), s.options.Limits.NLBServerGroups; n >= most {
			return nil, nlbQuota("servergroups_num", n, most)
		}
		if err := s.checkTags(nil, req.Tag); err != nil {
			return nil, err
		}
		if req.DryRun {
			return nil, dryRun()
		}
		g.ServerGroupId = s.newID(idNLBGroup)
		now := g.clone()
		now.ServerGroupStatus = NLBGroupCreating
		s.data.NLBServerGroups[g.ServerGroupId] = now
		return &NLBCreateResult{Id: g.ServerGroupId, JobId: s.startGroupJob("CreateServerGroup", g, &nlbResource{})}, nil
	})
}

// nlbGroupAttributes changes a server group, if the parameters are valid.
func nlbGroupAttributes(g *NLBServerGroup, req NLBServerGroupAttributes) error {
	if req.PersistenceEnabled {
		return nlbUnsupported("PersistenceEnabled: Scheduler sch keeps a client's connections on one server")
	}
	if req.ServerGroupName != nil {
		if err := nlbName("ServerGroupName", *req.ServerGroupName); err != nil {
			return err
		}
	}
	switch req.Scheduler {
	case "", "Wrr", "Wlc", "rr", "sch", "tch":
	case "qch":
		if g.Protocol != "UDP" {
			return nlbIllegal("Scheduler", req.Scheduler, "qch only with Protocol UDP")
		}
	default:
		return nlbIllegal("Scheduler", req.Scheduler, "Wrr, Wlc, rr, sch, tch or qch")
	}
	if err := nlbRange("ConnectionDrainTimeout", req.ConnectionDrainTimeout, 0, 900); err != nil {
		return err
	}
	check, err := nlbHealthCheck(g.HealthCheck, req.HealthCheckConfig)
	if err != nil {
		return err
	}
	g.HealthCheck = check
	set(&g.ServerGroupName, req.ServerGroupName)
	g.Scheduler = cmp.Or(req.Scheduler, g.Scheduler)
	set(&g.ConnectionDrainEnabled, req.ConnectionDrainEnabled)
	set(&g.ConnectionDrainTimeout, req.ConnectionDrainTimeout)
	set(&g.PreserveClientIpEnabled, req.PreserveClientIpEnabled)
	return nil
}

// nlbHealthCheck returns a health check with the parameters that are given.
func nlbHealthCheck(h NLBHealthCheck, req NLBHealthCheckRequest) (NLBHealthCheck, error) {
	set(&h.HealthCheckEnabled, req.HealthCheckEnabled)
	h.HealthCheckType = cmp.Or(req.HealthCheckType, h.HealthCheckType)
	longest := 50
	switch h.HealthCheckType {
	case "TCP", "HTTP":
	case "UDP":
		longest = 300
	default:
		return h, nlbIllegal("HealthCheckType", h.HealthCheckType, "TCP, HTTP or UDP")
	}
	for _, n := range []struct {
		name     string
		field    *int
		value    *int
		from, to int
	}{
		{"HealthCheckConnectPort", &h.HealthCheckConnectPort, req.HealthCheckConnectPort, 0, 65535},
		{"HealthyThreshold", &h.HealthyThreshold, req.HealthyThreshold, 2, 10},
		{"UnhealthyThreshold", &h.UnhealthyThreshold, req.UnhealthyThreshold, 2, 10},
		{"HealthCheckConnectTimeout", &h.HealthCheckConnectTimeout, req.HealthCheckConnectTimeout, 1, 300},
		{"HealthCheckInterval", &h.HealthCheckInterval, req.HealthCheckInterval, 1, longest},
	} {
		set(n.field, n.value)
		if err := nlbRange(n.name, n.field, n.from, n.to); err != nil {
			return h, err
		}
	}
	h.HealthCheckReq = cmp.Or(req.HealthCheckReq, h.HealthCheckReq)
	h.HealthCheckExp = cmp.Or(req.HealthCheckExp, h.HealthCheckExp)
	if max(len(h.HealthCheckReq), len(h.HealthCheckExp)) > 512 {
		return h, nlbIllegal("HealthCheckReq", len(h.HealthCheckReq), "at most 512 characters, as HealthCheckExp")
	}
	if h.HealthCheckType != "HTTP" {
		return h, nil
	}
	h.HealthCheckDomain = cmp.Or(req.HealthCheckDomain, h.HealthCheckDomain, "$SERVER_IP")
	h.HealthCheckUrl = cmp.Or(req.HealthCheckUrl, h.HealthCheckUrl, "/")
	h.HttpCheckMethod = cmp.Or(req.HttpCheckMethod, h.HttpCheckMethod, "GET")
	h.HealthCheckHttpVersion = cmp.Or(req.HealthCheckHttpVersion, h.HealthCheckHttpVersion, "HTTP1.0")
	if len(req.HealthCheckHttpCode) > 0 {
		h.HealthCheckHttpCode = slices.Clone(req.HealthCheckHttpCode)
	} else if len(h.HealthCheckHttpCode) == 0 {
		h.HealthCheckHttpCode = []string{"http_2xx"}
	}
	known := []string{"http_2xx", "http_3xx", "http_4xx", "http_5xx"}
	switch {
	case len(h.HealthCheckDomain) > 80:
		return h, nlbIllegal("healthCheckDomain", h.HealthCheckDomain, "at most 80 characters")
	case len(h.HealthCheckUrl) > 80 || h.HealthCheckUrl[0] != '/':
		return h, badRequest("IlleagalParam.healthCheckUrl", "The parameter of healthCheckUrl in healthCheckConfig is illegal: %s, expected a path of at most 80 characters.", h.HealthCheckUrl) // sic
	case h.HttpCheckMethod != "GET" && h.HttpCheckMethod != "HEAD":
		return h, nlbIllegal("HttpCheckMethod", h.HttpCheckMethod, "GET or HEAD")
	case h.HealthCheckHttpVersion != "HTTP1.0" && h.HealthCheckHttpVersion != "HTTP1.1":
		return h, nlbIllegal("HealthCheckHttpVersion", h.HealthCheckHttpVersion, "HTTP1.0 or HTTP1.1")
	case slices.ContainsFunc(h.HealthCheckHttpCode, func(c string) bool { return !slices.Contains(known, c) }):
		return h, nlbIllegal("HealthCheckHttpCode", h.HealthCheckHttpCode, "some of http_2xx, http_3xx, http_4xx, http_5xx")
	}
	return h, nil
}

// startGroupJob starts a job that makes next of the group of its id. The servers are not its
// business.
func (s *State) startGroupJob(action string, next *NLBServerGroup, failure *nlbResource) (jobId string) {
	next.Servers = nil
	return s.startNLBJob(NLBJob{Action: action, ResourceId: next.ServerGroupId, Success: &nlbResource{ServerGroup: next}, Failure: failure}, s.options.Timing.NLBServerGroup)
}

// endOfGroup ends a job on a group's attributes; with next nil, it is removed.
func (s *State) endOfGroup(g, next *NLBServerGroup) {
	if next == nil {
		delete(s.data.NLBServerGroups, g.ServerGroupId)
		return
	}
	tags, servers := g.Tags, g.Servers
	*g = *next
	g.Tags, g.Servers = tags, servers
}

// NLBUpdateServerGroupAttribute changes a server group.
func (s *State) NLBUpdateServerGroupAttribute(req NLBUpdateServerGroupAttributeRequest) (jobId string, err error) {
	const action = "UpdateServerGroupAttribute"
	return nlbOnce(s, action, req.ClientToken, req, func() (string, error) {
		g, err := s.nlbGroupToChange(req.ServerGroupId)
		if err != nil {
			return "", err
		}
		next := g.clone()
		if err := nlbGroupAttributes(next, req.NLBServerGroupAttributes); err != nil {
			return "", err
		}
		if req.DryRun {
			return "", dryRun()
		}
		before := g.clone()
		before.Servers = nil
		g.ServerGroupStatus = NLBGroupConfiguring
		return s.startGroupJob(action, next, &nlbResource{ServerGroup: before}), nil
	})
}

// NLBDeleteServerGroup deletes a server group that no listener uses.
func (s *State) NLBDeleteServerGroup(req NLBDeleteServerGroupRequest) (jobId string, err error) {
	const action = "DeleteServerGroup"
	return nlbOnce(s, action, req.ClientToken, req, func() (string, error) {
		g, err := s.nlbGroupToChange(req.ServerGroupId)
		if err != nil {
			return "", err
		}
		if users := s.nlbsWith(g.ServerGroupId); len(users) > 0 {
			return "", badRequest("ResourceInUse.ServerGroup", "The specified resource of ServerGroup is in use: %s by listeners of %v.", g.ServerGroupId, users)
		}
		if req.DryRun {
			return "", dryRun()
		}
		before := g.clone()
		before.Servers = nil
		g.ServerGroupStatus = NLBGroupDeleting
		return s.startNLBJob(NLBJob{
			Action: action, ResourceId: g.ServerGroupId, Success: &nlbResource{}, Failure: &nlbResource{ServerGroup: before},
		}, s.options.Timing.NLBServerGroup), nil
	})
}

// NLBListServerGroups lists server groups, by id.
func (s *State) NLBListServerGroups(req NLBListServerGroupsRequest) ([]NLBServerGroup, error) {
	users := map[string][]string{}
	for _, id := range sortedKeys(s.data.NLBListeners) {
		l := s.data.NLBListeners[id]
		users[l.ServerGroupId] = append(users[l.ServerGroupId], l.LoadBalancerId)
	}
	found := []NLBServerGroup{}
	for _, id := range sortedKeys(s.data.NLBServerGroups) {
		g := s.data.NLBServerGroups[id]
		if isOneOf(req.ServerGroupIds, id) && isOneOf(req.ServerGroupNames, g.ServerGroupName) && is(req.ServerGroupType, g.ServerGroupType) &&
			is(req.VpcId, g.VpcId) && is(req.ResourceGroupId, g.ResourceGroupId) && hasTags(req.Tag, g.Tags) {
			c := g.clone()
			c.RelatedLoadBalancerIds = distinct(users[id])
			found = append(found, *c)
		}
	}
	return found, nil
}
