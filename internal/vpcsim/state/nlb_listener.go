package state

import (
	"fmt"
	"slices"
	"strings"
)

// listener returns a listener.
func (s *State) nlbListener(id string) (*NLBListener, error) {
	if id == "" {
		return nil, nlbMissing("ListenerId")
	}
	l, ok := s.data.NLBListeners[id]
	if !ok {
		return nil, nlbNotFound("listener", id)
	}
	return l, nil
}

// listenersOf returns a load balancer's listeners, by id.
func (s *State) listenersOf(loadBalancerID string) []*NLBListener {
	var all []*NLBListener
	for _, l := range s.data.NLBListeners {
		if l.LoadBalancerId == loadBalancerID {
			all = append(all, l)
		}
	}
	slices.SortFunc(all, func(a, b *NLBListener) int { return strings.Compare(a.ListenerId, b.ListenerId) })
	return all
}

// nlbsWith returns the load balancers with a listener that uses a server group, or will after a
// running job, by id.
func (s *State) nlbsWith(groupID string) []string {
	var ids []string
	for _, l := range s.data.NLBListeners {
		if slices.Contains(s.nlbGroupsOfListener(l), groupID) {
			ids = append(ids, l.LoadBalancerId)
		}
	}
	return distinct(ids)
}

// NLBCreateListener creates a listener, which serves when its job has succeeded.
func (s *State) NLBCreateListener(req NLBCreateListenerRequest) (*NLBCreateResult, error) {
	return nlbOnce(s, "CreateListener", req.ClientToken, req, func() (*NLBCreateResult, error) {
		b, err := s.nlb(req.LoadBalancerId)
		if err != nil {
			return nil, err
		}
		if err := nlbUsable(b); err != nil {
			return nil, err
		}
		switch req.ListenerProtocol {
		case "TCP", "UDP":
		case "TCPSSL":
			return nil, nlbUnsupported("listeners of protocol TCPSSL: there are no certificates")
		case "":
			return nil, nlbMissing("ListenerProtocol")
		default:
			return nil, nlbIllegal("ListenerProtocol", req.ListenerProtocol, "TCP or UDP")
		}
		switch {
		case req.ListenerPort == nil:
			return nil, nlbMissing("ListenerPort")
		case *req.ListenerPort == 0:
			return nil, nlbUnsupported("listeners for a range of ports (ListenerPort 0 with StartPort and EndPort)")
		case *req.ListenerPort < 0 || *req.ListenerPort > 65535:
			return nil, nlbIllegal("Port", *req.ListenerPort, "1 to 65535")
		case req.StartPort != 0 || req.EndPort != 0:
			return nil, nlbIllegal("Port", fmt.Sprint(req.StartPort, "–", req.EndPort), "no StartPort and EndPort with a ListenerPort")
		case req.ServerGroupId == nil || *req.ServerGroupId == "":
			return nil, nlbMissing("ServerGroupId")
		}
		others := s.listenersOf(b.LoadBalancerId)
		if slices.ContainsFunc(others, func(l *NLBListener) bool {
			return l.ListenerPort == *req.ListenerPort && l.ListenerProtocol == req.ListenerProtocol
		}) {
			return nil, badRequest("Conflict.Port", "The Port [%d] is conflict.", *req.ListenerPort)
		}
		if n, most := len(others), s.options.Limits.NLBListeners; n >= most {
			return nil, nlbQuota("loadbalancer_listeners_num", n, most)
		}
		if err := s.checkTags(nil, req.Tag); err != nil {
			return nil, err
		}
		l := &NLBListener{
			LoadBalancerId: b.LoadBalancerId, ListenerProtocol: req.ListenerProtocol, ListenerPort: *req.ListenerPort,
			ListenerStatus: NLBListenerRunning, Serves: true, IdleTimeout: nlbIdleTimeout(req.ListenerProtocol), CreateTime: s.now(), Tags: slices.Clone(req.Tag),
		}
		if err := s.nlbListenerAttributes(l, req.NLBListenerAttributes); err != nil {
			return nil, err
		}
		if req.DryRun {
			return nil, dryRun()
		}
		l.ListenerId = fmt.Sprintf("%s@%d", s.newID(idNLBListener), l.ListenerPort)
		now := l.clone()
		now.ListenerStatus, now.Serves = NLBListenerProvisioning, false
		s.data.NLBListeners[l.ListenerId] = now
		return &NLBCreateResult{Id: l.ListenerId, JobId: s.startListenerJob("CreateListener", l, &nlbResource{})}, nil
	})
}

// nlbIdleTimeout returns the longest time-out of idle connections, which is the default, in
// seconds.
func nlbIdleTimeout(protocol string) int {
	if protocol == "UDP" {
		return 90
	}
	return 900
}

// nlbListenerAttributes changes a listener, if the parameters are valid.
func (s *State) nlbListenerAttributes(l *NLBListener, req NLBListenerAttributes) error {
	switch {
	case req.ProxyProtocolEnabled || req.ProxyProtocolV2Config != NLBProxyProtocolV2{}:
		return nlbUnsupported("ProxyProtocolEnabled and ProxyProtocolV2Config")
	case req.AlpnEnabled || req.CaEnabled || len(req.CertificateIds)+len(req.CaCertificateIds) > 0:
		return nlbUnsupported("certificates and ALPN of listeners")
	case l.ListenerProtocol == "UDP" && req.Mss != nil && *req.Mss != 0:
		return badRequest("IllegalParam.MssConflictWithUdpAndGeneve", "The param of MssConflictWithUdpAndGeneve is illegal.")
	}
	if req.ListenerDescription != nil && *req.ListenerDescription != "" {
		if err := nlbText("ListenerDescription", *req.ListenerDescription, 256, nlbDescriptionMarks); err != nil {
			return err
		}
	}
	for _, n := range []struct {
		name  string
		value *int
		from  int
		to    int
	}{{"IdleTimeout", req.IdleTimeout, 10, nlbIdleTimeout(l.ListenerProtocol)}, {"Cps", req.Cps, 0, nlbMostCps}, {"Mss", req.Mss, 0, 1500}} {
		if err := nlbRange(n.name, n.value, n.from, n.to); err != nil {
			return err
		}
	}
	if id := req.ServerGroupId; id != nil && *id != "" && *id != l.ServerGroupId {
		g, err := s.nlbGroup(*id)
		if err != nil {
			return err
		}
		switch {
		case g.ServerGroupStatus == NLBGroupCreating || g.ServerGroupStatus == NLBGroupDeleting:
			return nlbGroupStatus(g)
		case g.VpcId != s.data.NLBLoadBalancers[l.LoadBalancerId].VpcId:
			return badRequest("Mismatch.VpcId", "The VpcId is mismatched for %s and %s.", l.LoadBalancerId, *id)
		case g.Protocol != "TCP_UDP" && g.Protocol != l.ListenerProtocol:
			return badRequest("Mismatch.Protocol", "The Protocol is mismatched for %s and %s.", l.ListenerProtocol, g.Protocol)
		}
		l.ServerGroupId = *id
		if used, most := s.nlbServers(l.LoadBalancerId, g), s.options.Limits.NLBServersPerLoadBalancer; used > most {
			return nlbQuota("loadbalancer_noeci_servers_num", used, most)
		}
	}
	set(&l.ListenerDescription, req.ListenerDescription)
	set(&l.IdleTimeout, req.IdleTimeout)
	set(&l.Cps, req.Cps)
	set(&l.Mss, req.Mss)
	set(&l.SecSensorEnabled, req.SecSensorEnabled)
	return nil
}

// nlbServers returns the number of servers of the groups that a load balancer's listeners use,
// and of one more group.
func (s *State) nlbServers(loadBalancerID string, more *NLBServerGroup) int {
	used := map[string]bool{more.ServerGroupId: true}
	n := len(more.Servers)
	for _, id := range s.nlbGroupsOf(loadBalancerID) {
		if !used[id] {
			used[id] = true
			n += len(s.data.NLBServerGroups[id].Servers)
		}
	}
	return n
}

// nlbGroupsOf returns the server groups that a load balancer's listeners use, or will use after
// a running job.
func (s *State) nlbGroupsOf(loadBalancerID string) []string {
	var ids []string
	for _, l := range s.listenersOf(loadBalancerID) {
		ids = append(ids, s.nlbGroupsOfListener(l)...)
	}
	return distinct(ids)
}

func (s *State) nlbGroupsOfListener(l *NLBListener) []string {
	ids := []string{l.ServerGroupId}
	if job := s.nlbJobOn(l.ListenerId); job != nil && job.Success.Listener != nil {
		ids = append(ids, job.Success.Listener.ServerGroupId)
	}
	return ids
}

// startListenerJob starts a job that makes next of the listener of its id.
func (s *State) startListenerJob(action string, next *NLBListener, failure *nlbResource) (jobId string) {
	return s.startNLBJob(NLBJob{Action: action, ResourceId: next.ListenerId, Success: &nlbResource{Listener: next}, Failure: failure}, s.options.Timing.NLBListener)
}

// endOfListener ends a job on a listener; with next nil, it is removed.
func (s *State) endOfListener(l, next *NLBListener) {
	s.touch(l.ListenerId)
	if next == nil {
		delete(s.data.NLBListeners, l.ListenerId)
		return
	}
	tags, verdicts := l.Tags, l.Verdicts
	*l = *next
	l.Tags, l.Verdicts = tags, verdicts
	c, _ := checkedNLB(&s.data, l.ListenerId)
	c.forget()
}

// changeListener starts a job that changes a listener, which has the given status meanwhile.
func (s *State) changeListener(action, id string, dry bool, status string, change func(next *NLBListener) error) (jobId string, err error) {
	l, err := s.nlbListener(id)
	if err != nil {
		return "", err
	}
	if err := nlbUsable(s.data.NLBLoadBalancers[l.LoadBalancerId]); err != nil {
		return "", err
	}
	if s.nlbJobOn(id) != nil {
		return "", nlbLocked(id)
	}
	next := l.clone()
	if err := change(next); err != nil {
		return "", err
	}
	if dry {
		return "", dryRun()
	}
	before := l.clone()
	l.ListenerStatus = status
	return s.startListenerJob(action, next, &nlbResource{Listener: before}), nil
}

// NLBUpdateListenerAttribute changes a listener's server group and other attributes.
func (s *State) NLBUpdateListenerAttribute(req NLBUpdateListenerAttributeRequest) (jobId string, err error) {
	const action = "UpdateListenerAttribute"
	return nlbOnce(s, action, req.ClientToken, req, func() (string, error) {
		return s.changeListener(action, req.ListenerId, req.DryRun, NLBListenerConfiguring, func(next *NLBListener) error {
			return s.nlbListenerAttributes(next, req.NLBListenerAttributes)
		})
	})
}

// NLBStartListener starts a stopped listener.
func (s *State) NLBStartListener(req NLBListenerRequest) (jobId string, err error) {
	return s.serve("StartListener", req, NLBListenerStarting, NLBListenerRunning, true)
}

// NLBStopListener stops a running listener.
func (s *State) NLBStopListener(req NLBListenerRequest) (jobId string, err error) {
	return s.serve("StopListener", req, NLBListenerStopping, NLBListenerStopped, false)
}

func (s *State) serve(action string, req NLBListenerRequest, during, after string, serves bool) (jobId string, err error) {
	return nlbOnce(s, action, req.ClientToken, req, func() (string, error) {
		return s.changeListener(action, req.ListenerId, req.DryRun, during, func(next *NLBListener) error {
			if next.ListenerStatus == after {
				return badRequest("IncorrectStatus.listener", "The status of listener [%s] is incorrect: %s.", next.ListenerId, next.ListenerStatus)
			}
			next.ListenerStatus, next.Serves = after, serves
			return nil
		})
	})
}

// NLBDeleteListener deletes a listener.
func (s *State) NLBDeleteListener(req NLBListenerRequest) (jobId string, err error) {
	const action = "DeleteListener"
	return nlbOnce(s, action, req.ClientToken, req, func() (string, error) {
		id, err := s.changeListener(action, req.ListenerId, req.DryRun, NLBListenerDeleting, func(*NLBListener) error { return nil })
		if err == nil {
			s.data.NLBJobs[id].Success = &nlbResource{}
		}
		return id, err
	})
}

// NLBGetListenerAttribute returns a listener.
func (s *State) NLBGetListenerAttribute(req NLBListenerRequest) (*NLBListener, error) {
	l, err := s.nlbListener(req.ListenerId)
	if err != nil {
		return nil, err
	}
	return l.clone(), nil
}

// NLBListListeners lists listeners, by id.
func (s *State) NLBListListeners(req NLBListListenersRequest) ([]NLBListener, error) {
	found := []NLBListener{}
	for _, id := range sortedKeys(s.data.NLBListeners) {
		l := s.data.NLBListeners[id]
		if isOneOf(req.ListenerIds, id) && isOneOf(req.LoadBalancerIds, l.LoadBalancerId) && is(strings.ToUpper(req.ListenerProtocol), l.ListenerProtocol) &&
			isBool(req.SecSensorEnabled, l.SecSensorEnabled) && hasTags(req.Tag, l.Tags) {
			found = append(found, *l.clone())
		}
	}
	return found, nil
}
