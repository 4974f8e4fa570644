package state

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Protocols of listeners, in Listener.ListenerProtocol.
const (
	protocolTCP  = "tcp"
	protocolUDP  = "udp"
	protocolHTTP = "http"
)

// CreateLoadBalancerTCPListener creates a TCP listener, which is stopped.
func (s *State) CreateLoadBalancerTCPListener(req ListenerSettingsRequest) error {
	return s.createListener(protocolTCP, req)
}

// CreateLoadBalancerUDPListener creates a UDP listener, which is stopped.
func (s *State) CreateLoadBalancerUDPListener(req ListenerSettingsRequest) error {
	return s.createListener(protocolUDP, req)
}

// CreateLoadBalancerHTTPListener creates an HTTP listener, which is stopped.
func (s *State) CreateLoadBalancerHTTPListener(req ListenerSettingsRequest) error {
	return s.createListener(protocolHTTP, req)
}

// SetLoadBalancerTCPListenerAttribute changes a TCP listener.
func (s *State) SetLoadBalancerTCPListenerAttribute(req ListenerSettingsRequest) error {
	return s.setListener(protocolTCP, req)
}

// SetLoadBalancerUDPListenerAttribute changes a UDP listener.
func (s *State) SetLoadBalancerUDPListenerAttribute(req ListenerSettingsRequest) error {
	return s.setListener(protocolUDP, req)
}

// SetLoadBalancerHTTPListenerAttribute changes an HTTP listener.
func (s *State) SetLoadBalancerHTTPListenerAttribute(req ListenerSettingsRequest) error {
	return s.setListener(protocolHTTP, req)
}

func (s *State) createListener(protocol string, req ListenerSettingsRequest) error {
	lb, err := s.loadBalancer(req.LoadBalancerId)
	if err != nil {
		return err
	}
	if req.ListenerPort < 1 || req.ListenerPort > 65535 {
		return invalid("ListenerPort", strconv.Itoa(req.ListenerPort), "1 to 65535")
	}
	existing := s.clbListenersOf(lb.LoadBalancerId)
	for _, l := range existing {
		// UDP has ports of its own.
		if l.ListenerPort == req.ListenerPort && (l.ListenerProtocol == protocolUDP) == (protocol == protocolUDP) {
			return badRequest("ListenerAlreadyExists", "There is already a listener on the port: %s.", l.ListenerId)
		}
	}
	if most := s.options.Limits.ListenersPerLoadBalancer; len(existing) >= most {
		return badRequest("OverQuota", "The Total is over the quota: load balancer %s has %d listeners, the most it may have.", lb.LoadBalancerId, len(existing))
	}
	if err := s.checkTags(nil, req.Tag); err != nil {
		return err
	}
	l := &Listener{
		ListenerId:     fmt.Sprintf("%s/%s/%d", lb.LoadBalancerId, protocol, req.ListenerPort),
		LoadBalancerId: lb.LoadBalancerId, ListenerProtocol: protocol, ListenerPort: req.ListenerPort,
		Status: ListenerStopped, ListenerConfig: defaultConfig(protocol), Tags: slices.Clone(req.Tag),
	}
	if l.ListenerConfig, err = s.configure(l, req); err != nil {
		return err
	}
	if l.VServerGroupId == "" {
		return badRequest("MissingParameter", "The input parameter \"VServerGroupId\" is mandatory here: the load balancers of the simulator have no default backend servers.")
	}
	s.data.Listeners[l.ListenerId] = l
	s.changed(l.ListenerId)
	return nil
}

func (s *State) setListener(protocol string, req ListenerSettingsRequest) error {
	l, err := s.listener(ListenerRequest{LoadBalancerId: req.LoadBalancerId, ListenerPort: req.ListenerPort, ListenerProtocol: protocol})
	if err != nil {
		return err
	}
	config, err := s.configure(l, req)
	if err != nil {
		return err
	}
	l.ListenerConfig = config
	checkedIn(&s.data, l).forget()
	s.changed(l.ListenerId)
	return nil
}

// listener returns the listener that a request names.
func (s *State) listener(req ListenerRequest) (*Listener, error) {
	found, err := s.listenersNamed(req)
	if err != nil {
		return nil, err
	}
	if req.ListenerPort == 0 {
		return nil, missing("ListenerPort")
	}
	switch len(found) {
	case 0:
		return nil, badRequest("InvalidParameter", "The specified resource does not exist: load balancer %s has no %s listener on port %d.", req.LoadBalancerId, req.ListenerProtocol, req.ListenerPort)
	case 1:
		return found[0], nil
	}
	return nil, badRequest("TooManyListeners", "More than 1 listener is found, please be more specified: ListenerProtocol.")
}

// listenersNamed returns the listeners of a load balancer that a request names: with a port of
// 0 or without a protocol, several.
func (s *State) listenersNamed(req ListenerRequest) ([]*Listener, error) {
	lb, err := s.loadBalancer(req.LoadBalancerId)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(s.clbListenersOf(lb.LoadBalancerId), func(l *Listener) bool {
		return req.ListenerPort != 0 && l.ListenerPort != req.ListenerPort || !is(strings.ToLower(req.ListenerProtocol), l.ListenerProtocol)
	}), nil
}

// defaultConfig is the configuration of a new listener as far as nothing else is given.
func defaultConfig(protocol string) ListenerConfig {
	c := ListenerConfig{
		Bandwidth: -1, Scheduler: SchedulerWRR, AclStatus: Off,
		HealthCheck: On, HealthCheckType: protocol, HealthCheckTimeout: 5, HealthCheckInterval: 2, HealthyThreshold: 3, UnhealthyThreshold: 3,
		HealthCheckURI: "/", HealthCheckMethod: "head", HealthCheckHttpCode: "http_2xx",
	}
	switch protocol {
	case protocolTCP:
		c.EstablishedTimeout = 900
		c.ConnectionDrain, c.ConnectionDrainTimeout = Off, 300
	case protocolUDP:
		c.ConnectionDrain, c.ConnectionDrainTimeout = Off, 300
	case protocolHTTP:
		c.HealthCheck, c.StickySession, c.Gzip = Off, Off, On
		c.IdleTimeout, c.RequestTimeout = 15, 60
		c.XForwardedFor, c.XForwardedForProto, c.XForwardedForClientSrcPort = On, Off, Off
		c.XForwardedForSLBIP, c.XForwardedForSLBID, c.XForwardedForSLBPORT = Off, Off, Off
	}
	return c
}

// serversOwnPort is a HealthCheckConnectPort in the service's own spelling: the port of each
// backend server.
const serversOwnPort = -520

// serversOwnAddress is a HealthCheckDomain that stands for the address of each backend server.
const serversOwnAddress = "$_ip"

// configure returns a listener's configuration with the settings of a request.
func (s *State) configure(l *Listener, req ListenerSettingsRequest) (ListenerConfig, error) {
	c := l.ListenerConfig
	if err := req.unsupported(); err != nil {
		return c, err
	}
	if req.VServerGroupId != nil && *req.VServerGroupId != "" {
		g, err := s.vServerGroup(*req.VServerGroupId)
		if err != nil {
			return c, err
		}
		if g.LoadBalancerId != l.LoadBalancerId {
			return c, badRequest("InvalidParameter", "The specified VServerGroupId does not exist: %q is of load balancer %s.", g.VServerGroupId, g.LoadBalancerId)
		}
		c.VServerGroupId = g.VServerGroupId
	}
	p := settings{}
	set(&c.Description, req.Description)
	p.number("Bandwidth", &c.Bandwidth, req.Bandwidth, -1, maxBandwidth)
	p.number("HealthCheckInterval", &c.HealthCheckInterval, req.HealthCheckInterval, 1, 50)
	p.number("HealthyThreshold", &c.HealthyThreshold, req.HealthyThreshold, 2, 10)
	p.number("UnhealthyThreshold", &c.UnhealthyThreshold, req.UnhealthyThreshold, 2, 10)
	set(&c.HealthCheckDomain, req.HealthCheckDomain)
	p.uri(&c.HealthCheckURI, req.HealthCheckURI)
	p.word("HealthCheckMethod", &c.HealthCheckMethod, req.HealthCheckMethod, "head", "get")
	p.codes(&c.HealthCheckHttpCode, req.HealthCheckHttpCode)
	if port := req.HealthCheckConnectPort; port != nil && *port == serversOwnPort {
		c.HealthCheckConnectPort = 0
	} else {
		p.number("HealthCheckConnectPort", &c.HealthCheckConnectPort, port, 1, 65535)
	}
	if l.ListenerProtocol == protocolHTTP {
		p.http(&c, &req)
	} else {
		p.transport(l.ListenerProtocol, &c, &req)
	}
	s.setAccess(&p, &c, &req)
	return c, p.err
}

// transport is for the settings that TCP and UDP listeners have.
func (p *settings) transport(protocol string, c *ListenerConfig, req *ListenerSettingsRequest) {
	p.word("Scheduler", &c.Scheduler, req.Scheduler, SchedulerWRR, SchedulerRR, SchedulerWLC, SchedulerSCH, SchedulerTCH)
	p.number("PersistenceTimeout", &c.PersistenceTimeout, req.PersistenceTimeout, 0, 3600)
	p.word("ConnectionDrain", &c.ConnectionDrain, req.ConnectionDrain, On, Off)
	if c.ConnectionDrain == On {
		p.number("ConnectionDrainTimeout", &c.ConnectionDrainTimeout, req.ConnectionDrainTimeout, 10, 900)
	}
	p.word("HealthCheckSwitch", &c.HealthCheck, req.HealthCheckSwitch, On, Off)
	p.number("HealthCheckConnectTimeout", &c.HealthCheckTimeout, req.HealthCheckConnectTimeout, 1, 300)
	if protocol == protocolTCP {
		p.number("EstablishedTimeout", &c.EstablishedTimeout, req.EstablishedTimeout, 10, 900)
		p.word("HealthCheckType", &c.HealthCheckType, req.HealthCheckType, CheckTCP, CheckHTTP)
		return
	}
	p.word("HealthCheckType", &c.HealthCheckType, req.HealthCheckType, CheckUDP)
	set(&c.HealthCheckReq, req.HealthCheckReq)
	set(&c.HealthCheckExp, req.HealthCheckExp)
}

// http is for the settings that HTTP listeners have.
func (p *settings) http(c *ListenerConfig, req *ListenerSettingsRequest) {
	p.word("Scheduler", &c.Scheduler, req.Scheduler, SchedulerWRR, SchedulerRR, SchedulerWLC)
	p.word("HealthCheck", &c.HealthCheck, req.HealthCheck, On, Off)
	p.word("HealthCheckType", &c.HealthCheckType, req.HealthCheckType, CheckHTTP, CheckTCP)
	p.number("HealthCheckTimeout", &c.HealthCheckTimeout, req.HealthCheckTimeout, 1, 300)
	p.number("IdleTimeout", &c.IdleTimeout, req.IdleTimeout, 1, 60)
	p.number("RequestTimeout", &c.RequestTimeout, req.RequestTimeout, 1, 180)
	p.word("Gzip", &c.Gzip, req.Gzip, On, Off)
	p.word("XForwardedFor", &c.XForwardedFor, req.XForwardedFor, On, Off)
	p.word("XForwardedFor_proto", &c.XForwardedForProto, req.XForwardedForProto, On, Off)
	p.word("XForwardedFor_SLBIP", &c.XForwardedForSLBIP, req.XForwardedForSLBIP, On, Off)
	p.word("XForwardedFor_SLBID", &c.XForwardedForSLBID, req.XForwardedForSLBID, On, Off)
	p.word("XForwardedFor_SLBPORT", &c.XForwardedForSLBPORT, req.XForwardedForSLBPORT, On, Off)
	p.word("XForwardedFor_ClientSrcPort", &c.XForwardedForClientSrcPort, req.XForwardedForClientSrcPort, On, Off)
	p.word("StickySession", &c.StickySession, req.StickySession, On, Off)
	if c.StickySession != On {
		c.StickySessionType, c.CookieTimeout, c.Cookie = "", 0, ""
		return
	}
	p.word("StickySessionType", &c.StickySessionType, req.StickySessionType, "insert", "server")
	p.number("CookieTimeout", &c.CookieTimeout, req.CookieTimeout, 1, 86400)
	set(&c.Cookie, req.Cookie)
	switch {
	case p.err != nil:
	case c.StickySessionType == "":
		p.err = missing("StickySessionType")
	case c.StickySessionType == "insert" && c.CookieTimeout == 0:
		p.err = missing("CookieTimeout")
	case c.StickySessionType == "server" && c.Cookie == "":
		p.err = missing("Cookie")
	}
}

// unsupported refuses settings that change the path of packets and that the simulator does not
// have.
func (req *ListenerSettingsRequest) unsupported() error {
	given := ""
	isTrue := func(b *bool) bool { return b != nil && *b }
	switch {
	case req.VServerGroup == Off:
		given = "VServerGroup off"
	case req.ListenerForward != nil && *req.ListenerForward == On:
		given = "ListenerForward on"
	case isTrue(req.ProxyProtocolV2Enabled):
		given = "ProxyProtocolV2Enabled true"
	case isTrue(req.FullNatEnabled):
		given = "FullNatEnabled true"
	case isTrue(req.MasterSlaveModeEnabled) || req.MasterSlaveServerGroupId != "":
		given = "A group of a master and a slave"
	case len(req.PortRange) > 0:
		given = "PortRange"
	default:
		return nil
	}
	return badRequest("UnsupportedParameter", "%s is not supported by the simulator.", given)
}

// settings validates settings; err is the first error.
type settings struct{ err error }

func (p *settings) number(name string, field, value *int, least, most int) {
	switch {
	case value == nil || p.err != nil:
	case *value < least || *value > most:
		p.err = invalid(name, strconv.Itoa(*value), fmt.Sprintf("%d to %d", least, most))
	default:
		*field = *value
	}
}

func (p *settings) word(name string, field, value *string, words ...string) {
	if value == nil || *value == "" || p.err != nil {
		return
	}
	if p.err = oneOf(name, *value, words...); p.err == nil {
		*field = *value
	}
}

func (p *settings) uri(field, value *string) {
	switch {
	case value == nil || *value == "" || p.err != nil:
	case !strings.HasPrefix(*value, "/") || len(*value) > 80 || strings.ContainsAny(*value, " \r\n"):
		p.err = invalid("HealthCheckURI", *value, "1 to 80 characters that begin with /")
	default:
		*field = *value
	}
}

func (p *settings) codes(field, value *string) {
	if value == nil || *value == "" || p.err != nil {
		return
	}
	for code := range strings.SplitSeq(*value, ",") {
		if p.err = oneOf("HealthCheckHttpCode", code, "http_2xx", "http_3xx", "http_4xx", "http_5xx"); p.err != nil {
			return
		}
	}
	*field = *value
}

// StartLoadBalancerListener starts a listener.
func (s *State) StartLoadBalancerListener(req ListenerRequest) error {
	return s.switchListener(req, opListenerStart, ListenerStarting, ListenerRunning)
}

// StopLoadBalancerListener stops a listener; it forwards nothing any more.
func (s *State) StopLoadBalancerListener(req ListenerRequest) error {
	return s.switchListener(req, opListenerStop, ListenerStopping, ListenerStopped)
}

// switchListener starts or stops a listener, unless it is so, or about to be.
func (s *State) switchListener(req ListenerRequest, k kind, during, after string) error {
	l, err := s.listener(req)
	if err != nil {
		return err
	}
	if l.Status == during || l.Status == after {
		return nil
	}
	s.cancel(l.ListenerId)
	l.Status, l.Verdicts = during, nil // its backends are checked anew when it runs
	s.start(k, l.ListenerId, s.now(), s.options.Timing.Listener)
	s.changed(l.ListenerId)
	return nil
}

// DeleteLoadBalancerListener deletes a listener, also one that runs.
func (s *State) DeleteLoadBalancerListener(req ListenerRequest) error {
	l, err := s.listener(req)
	if err != nil {
		return err
	}
	s.removeListener(l)
	s.changed()
	return nil
}

func (s *State) removeListener(l *Listener) {
	s.cancel(l.ListenerId)
	delete(s.data.Listeners, l.ListenerId)
	s.touch(l.ListenerId)
}

// DescribeLoadBalancerListeners lists listeners, by load balancer and port.
func (s *State) DescribeLoadBalancerListeners(req DescribeLoadBalancerListenersRequest) ([]Listener, error) {
	found := []Listener{}
	for _, l := range s.data.Listeners {
		if isOneOf(req.LoadBalancerId, l.LoadBalancerId) && (req.ListenerPort == 0 || req.ListenerPort == l.ListenerPort) &&
			is(strings.ToLower(req.ListenerProtocol), l.ListenerProtocol) && is(req.Description, l.Description) && hasTags(req.Tag, l.Tags) {
			found = append(found, l.clone())
		}
	}
	slices.SortFunc(found, byBalancerAndPort)
	return found, nil
}

func byBalancerAndPort(a, b Listener) int {
	return cmp.Or(strings.Compare(a.LoadBalancerId, b.LoadBalancerId), byPort(&a, &b))
}

// DescribeLoadBalancerListenerAttribute returns one listener.
func (s *State) DescribeLoadBalancerListenerAttribute(req ListenerRequest) (*Listener, error) {
	l, err := s.listener(req)
	if err != nil {
		return nil, err
	}
	c := l.clone()
	return &c, nil
}

// DescribeHealthStatus returns the health of the backends of listeners, by port.
func (s *State) DescribeHealthStatus(req DescribeHealthStatusRequest) ([]ServerHealth, error) {
	named := ListenerRequest(req)
	if req.ListenerPort != 0 {
		if _, err := s.listener(named); err != nil {
			return nil, err
		}
	}
	listeners, err := s.listenersNamed(named)
	if err != nil {
		return nil, err
	}
	found := []ServerHealth{}
	for _, l := range listeners {
		for _, b := range s.data.VServerGroups[l.VServerGroupId].BackendServers {
			found = append(found, ServerHealth{
				BackendServer: b, ListenerPort: l.ListenerPort, ListenerProtocol: l.ListenerProtocol, ServerHealthStatus: s.healthStatus(l, &b),
			})
		}
	}
	return found, nil
}

// healthStatus returns the service's word for the verdict on a backend. It is "unavailable" for
// one that is not checked.
func (s *State) healthStatus(l *Listener, b *BackendServer) string {
	if l.Status == ListenerRunning && l.HealthCheck == On {
		switch s.verdict(l.Verdicts, b.Key()).Health {
		case Healthy:
			return "normal"
		case Unhealthy:
			return "abnormal"
		}
	}
	return "unavailable"
}
