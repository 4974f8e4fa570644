package state

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// holdNLB calls hold with the addresses of load balancers.
func holdNLB(d *data, hold func(vSwitchID string, a netip.Addr, holder string)) {
	for id, b := range d.NLBLoadBalancers {
		for _, a := range b.addresses() {
			hold(a.vSwitchID, a.address, id)
		}
	}
}

// checkedNLB returns a listener as one whose servers are checked.
func checkedNLB(d *data, listenerID string) (checked, bool) {
	l := d.NLBListeners[listenerID]
	if l == nil {
		return checked{}, false
	}
	return checked{verdicts: &l.Verdicts, keys: func(yield func(string) bool) {
		if !l.Serves {
			return
		}
		for _, v := range d.NLBServerGroups[l.ServerGroupId].Servers {
			if v.Status != NLBServerAdding && !yield(v.key()) {
				return
			}
		}
	}}, true
}

// forgetNLBVerdicts drops the verdicts on servers that a group has not any more.
func (s *State) forgetNLBVerdicts(groupID string) {
	for _, l := range s.data.NLBListeners {
		if l.ServerGroupId == groupID && len(l.Verdicts) > 0 {
			c, _ := checkedNLB(&s.data, l.ListenerId)
			c.forget()
			s.touch(l.ListenerId)
		}
	}
}

// Values of NLBUnhealthyServer.Status.
const (
	NLBHealthInitial     = "Initial"     // no result yet
	NLBHealthUnhealthy   = "Unhealthy"   // failed
	NLBHealthUnavailable = "Unavailable" // checks are switched off
)

// NLBListenerHealth is a listener with the servers that are not known to be healthy.
type NLBListenerHealth struct {
	NLBListener
	HealthCheckEnabled bool
	Unhealthy          []NLBUnhealthyServer
}

// NLBUnhealthyServer is a server that is not known to be healthy.
type NLBUnhealthyServer struct {
	NLBServer
	Health string
	Reason string // of Unhealthy
}

// NLBGetListenerHealthStatus returns the servers of a listener that are not known to be healthy.
// One that is being added is Initial, one that is being removed is not in the list.
func (s *State) NLBGetListenerHealthStatus(req NLBListenerRequest) (*NLBListenerHealth, error) {
	l, err := s.nlbListener(req.ListenerId)
	if err != nil {
		return nil, err
	}
	g := s.data.NLBServerGroups[l.ServerGroupId]
	h := &NLBListenerHealth{NLBListener: *l.clone(), HealthCheckEnabled: g.HealthCheck.HealthCheckEnabled, Unhealthy: []NLBUnhealthyServer{}}
	for _, v := range g.Servers {
		u := NLBUnhealthyServer{NLBServer: v, Health: NLBHealthInitial}
		if v.Status != NLBServerAdding && l.Serves {
			switch verdict := s.verdict(l.Verdicts, v.key()); verdict.Health {
			case Healthy:
				u.Health = ""
			case Unhealthy:
				u.Health, u.Reason = NLBHealthUnhealthy, verdict.Reason
			}
		}
		if !g.HealthCheck.HealthCheckEnabled {
			u.Health, u.Reason = NLBHealthUnavailable, ""
		}
		if u.Health != "" && v.Status != NLBServerRemoving {
			h.Unhealthy = append(h.Unhealthy, u)
		}
	}
	return h, nil
}

// appendNLBs appends load balancers as a data plane sees them.
func (s *State) appendNLBs(list []Balancer) []Balancer {
	listeners := map[string][]*NLBListener{}
	for _, id := range sortedKeys(s.data.NLBListeners) {
		l := s.data.NLBListeners[id]
		listeners[l.LoadBalancerId] = append(listeners[l.LoadBalancerId], l)
	}
	for _, id := range sortedKeys(s.data.NLBLoadBalancers) {
		b := s.data.NLBLoadBalancers[id]
		if b.LoadBalancerStatus == NLBProvisioning {
			continue
		}
		seen := Balancer{LoadBalancerId: id, Product: ProductNLB, VpcId: b.VpcId, DNSName: b.DNSName, SecurityGroupIds: slices.Clone(b.SecurityGroupIds)}
		for _, z := range b.ZoneMappings {
			if z.Pending {
				continue
			}
			seen.Addresses = append(seen.Addresses, BalancerAddress{Address: z.PrivateIPv4Address, VSwitchId: z.VSwitchId, ZoneId: z.ZoneId})
			if b.AddressType == NLBInternet {
				seen.Addresses = append(seen.Addresses, BalancerAddress{Address: z.PublicIPv4Address, Public: true, ZoneId: z.ZoneId})
			}
		}
		for _, l := range listeners[id] {
			if l.Serves {
				seen.Listeners = append(seen.Listeners, s.nlbListenerView(l))
			}
		}
		list = append(list, seen)
	}
	return list
}

func (s *State) nlbListenerView(l *NLBListener) BalancerListener {
	g := s.data.NLBServerGroups[l.ServerGroupId]
	seen := BalancerListener{
		ListenerId: l.ListenerId, Protocol: l.ListenerProtocol, Port: uint16(l.ListenerPort), Scheduler: strings.ToLower(g.Scheduler),
		EstablishedTimeout: time.Duration(l.IdleTimeout) * time.Second, PreserveClientIP: g.PreserveClientIpEnabled,
	}
	if seen.Scheduler == "qch" {
		// Without QUIC a connection id is not known.
		seen.Scheduler = SchedulerTCH
	}
	if g.ConnectionDrainEnabled {
		// 0 means the end at once.
		seen.ConnectionDrain = max(time.Duration(g.ConnectionDrainTimeout)*time.Second, time.Millisecond)
	}
	if h := g.HealthCheck; h.HealthCheckEnabled {
		seen.HealthCheck = &BalancerHealthCheck{
			Type: strings.ToLower(h.HealthCheckType), Port: uint16(h.HealthCheckConnectPort),
			Interval: time.Duration(h.HealthCheckInterval) * time.Second, Timeout: time.Duration(h.HealthCheckConnectTimeout) * time.Second,
			Healthy: h.HealthyThreshold, Unhealthy: h.UnhealthyThreshold,
		}
		switch h.HealthCheckType {
		case "HTTP":
			seen.HealthCheck.Method, seen.HealthCheck.URI = h.HttpCheckMethod, h.HealthCheckUrl
			seen.HealthCheck.Codes = slices.Clone(h.HealthCheckHttpCode)
			if h.HealthCheckDomain != "$SERVER_IP" {
				seen.HealthCheck.Domain = h.HealthCheckDomain
			}
		case "UDP":
			seen.HealthCheck.Request, seen.HealthCheck.Expect = h.HealthCheckReq, h.HealthCheckExp
		}
	}
	for _, v := range g.Servers {
		if v.Status == NLBServerAdding || v.Status == NLBServerRemoving {
			continue
		}
		seen.Backends = append(seen.Backends, BalancerBackend{
			Key: v.key(), ServerId: v.ServerId, Address: v.ServerIp, Port: uint16(v.Port), Weight: v.Weight,
			BackendVerdict: s.verdict(l.Verdicts, v.key()),
		})
	}
	return seen
}
