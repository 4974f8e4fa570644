package state

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

func (s *State) loadBalancer(id string) (*LoadBalancer, error) {
	if id == "" {
		return nil, missing("LoadBalancerId")
	}
	l, ok := s.data.LoadBalancers[id]
	if !ok {
		return nil, notFound("InvalidLoadBalancerId.NotFound", "The specified LoadBalancerId does not exist: %q.", id)
	}
	return l, nil
}

// oneOf refuses a value that is not one of a list.
func oneOf(parameter, value string, values ...string) error {
	if !slices.Contains(values, value) {
		return invalid(parameter, value, strings.Join(values, " or "))
	}
	return nil
}

// clbSpecs are the specifications that PayBySpec has; PayByCLCU has only specCLCU.
var clbSpecs = []string{
	"slb.s1.small", "slb.s2.small", "slb.s2.medium", "slb.s3.small", "slb.s3.medium", "slb.s3.large",
}

const specCLCU = "slb.lcu.elastic"

// maxBandwidth is the highest bandwidth of a load balancer, in Mbit/s.
const maxBandwidth = 5120

// CreateLoadBalancer creates a load balancer, which is active at once. The same token with
// another vSwitch is the same request: clients try another vSwitch with it when one is full.
func (s *State) CreateLoadBalancer(req CreateLoadBalancerRequest) (*LoadBalancer, error) {
	same := req
	same.VSwitchId = ""
	return once(s, "Slb:CreateLoadBalancer", req.ClientToken, same, func() (*LoadBalancer, error) {
		l := &LoadBalancer{
			LoadBalancerStatus: LoadBalancerActive, AddressType: cmp.Or(req.AddressType, AddressInternet),
			DeleteProtection:             cmp.Or(req.DeleteProtection, Off),
			ModificationProtectionStatus: cmp.Or(req.ModificationProtectionStatus, NonProtection),
			ModificationProtectionReason: req.ModificationProtectionReason,
			ResourceGroupId:              req.ResourceGroupId, Tags: slices.Clone(req.Tag),
		}
		if n := len(s.data.LoadBalancers); n >= s.options.Limits.LoadBalancers {
			return nil, badRequest("OverQuota", "The Total is over the quota: the account has %d load balancers.", n)
		}
		if err := l.checkProtection(); err != nil {
			return nil, err
		}
		if err := oneOf("AddressType", l.AddressType, AddressInternet, AddressIntranet); err != nil {
			return nil, err
		}
		if cmp.Or(req.AddressIPVersion, "ipv4") != "ipv4" {
			return nil, badRequest("RegionOrZonesNotSupportIpv6", "The specified region or master/slave zones does not support ipv6.")
		}
		if cmp.Or(req.PayType, "PayOnDemand") != "PayOnDemand" {
			return nil, badRequest("UnsupportedParameter", "PayType %s is not supported: load balancers here are PayOnDemand.", req.PayType)
		}
		if err := l.charge(req.InstanceChargeType, req.LoadBalancerSpec); err != nil {
			return nil, err
		}
		if err := l.meter(req.InternetChargeType, req.Bandwidth); err != nil {
			return nil, err
		}
		if err := checkName("LoadBalancerName", req.LoadBalancerName); err != nil {
			return nil, err
		}
		if err := s.checkTags(nil, req.Tag); err != nil {
			return nil, err
		}
		zone, err := s.placeVIP(l, req)
		if err != nil {
			return nil, err
		}
		if l.MasterZoneId, l.SlaveZoneId, err = s.clbZones(req, zone); err != nil {
			return nil, err
		}
		l.LoadBalancerId, l.CreateTime = s.newID(idLoadBalancer), s.now()
		l.LoadBalancerName = cmp.Or(req.LoadBalancerName, l.LoadBalancerId)
		if l.VSwitchId == "" {
			s.index.public[l.Address] = l.LoadBalancerId
		} else {
			s.take(s.data.VSwitches[l.VSwitchId], l.LoadBalancerId, []netip.Addr{l.Address})
		}
		s.data.LoadBalancers[l.LoadBalancerId] = l
		s.changed(l.LoadBalancerId)
		c := l.clone()
		return &c, nil
	})
}

func (l *LoadBalancer) checkProtection() error {
	if err := oneOf("DeleteProtection", l.DeleteProtection, On, Off); err != nil {
		return err
	}
	if status := l.ModificationProtectionStatus; status != ConsoleProtection && status != NonProtection {
		return badRequest("InvalidParam.ModificationProtectionStatus", "The param ModificationProtectionStatus is invalid: %q, expected %s or %s.", status, ConsoleProtection, NonProtection)
	}
	return nil
}

func checkName(parameter, name string) error {
	if len([]rune(name)) > 80 {
		return invalid(parameter, name, "at most 80 characters")
	}
	return nil
}

// charge sets how a load balancer is charged, and its specification.
func (l *LoadBalancer) charge(chargeType, spec string) error {
	if chargeType == "" {
		chargeType = PayByCLCU
		if spec != "" && spec != specCLCU {
			chargeType = PayBySpec
		}
	}
	switch {
	case chargeType == PayByCLCU:
		spec = specCLCU
	case chargeType != PayBySpec:
		return badRequest("IllegalParam.InstanceChargeType", "The parameter InstanceChargeType is illegal: %q, expected %s or %s.", chargeType, PayBySpec, PayByCLCU)
	case spec == "":
		return badRequest("ShareSlbHaltSales", "The share instance has been discontinued: %s needs a LoadBalancerSpec.", PayBySpec)
	case !slices.Contains(clbSpecs, spec):
		return invalid("LoadBalancerSpec", spec, strings.Join(clbSpecs, " or "))
	}
	l.InstanceChargeType, l.LoadBalancerSpec = chargeType, spec
	return nil
}

// meter sets how the traffic of a load balancer is charged, and its bandwidth.
func (l *LoadBalancer) meter(chargeType string, bandwidth int) error {
	switch chargeType = cmp.Or(chargeType, PayByTraffic); {
	case chargeType == PayByTraffic:
		bandwidth = maxBandwidth
	case chargeType != PayByBandwidth:
		return badRequest("Instance.InternetChargeTypeNotAllowed", "Illegal parameter. The specified InternetChargeType not allowed: %q, expected %s or %s.", chargeType, PayByTraffic, PayByBandwidth)
	case bandwidth < 1 || bandwidth > maxBandwidth:
		return badRequest("InvalidParameter.Bandwidth", "The param Bandwidth is invalid: %d, expected 1 to %d.", bandwidth, maxBandwidth)
	}
	l.InternetChargeType, l.Bandwidth = chargeType, bandwidth
	return nil
}

// placeVIP selects the address of a new load balancer, and returns the zone of its vSwitch.
func (s *State) placeVIP(l *LoadBalancer, req CreateLoadBalancerRequest) (zone string, err error) {
	if l.AddressType == AddressInternet {
		if req.Address != "" {
			return "", badRequest("InvalidParameter", "Illegal parameter. Address %s: an internet address cannot be chosen.", req.Address)
		}
		picked, ok := s.pickPublicVIPs(1)
		if !ok {
			return "", badRequest("OperationFailed.RegionResourceLimit", "The operation failed because of resource limit of the specified region: all addresses of %s are used.", publicVIPs)
		}
		l.Address = picked[0]
		return "", nil
	}
	if req.VSwitchId == "" {
		return "", badRequest("MissingParam.VSwitchId", "The parameter VSwitchId is required.")
	}
	v, ok := s.data.VSwitches[req.VSwitchId]
	if !ok {
		return "", badRequest("VSwitchNotExist", "The specified VSwitch does not exist: %q.", req.VSwitchId)
	}
	if req.VpcId != "" && req.VpcId != v.VpcId {
		return "", badRequest("InvalidVpcId.NotExist", "The specified VPC not exist, or vSwitch %s is not in it: %q.", v.VSwitchId, req.VpcId)
	}
	if v.Status != StatusAvailable {
		return "", badRequest("IncorrectVSwitchStatus", "The status of vSwitch %s does not support this operation: %s.", v.VSwitchId, v.Status)
	}
	var named netip.Addr
	if req.Address != "" {
		if named, err = netip.ParseAddr(req.Address); err != nil || !usable(v.CidrBlock, named) {
			return "", badRequest("InvalidParameter", "Illegal parameter. The IP address is not in subnet: %q, vSwitch %s has %s.", req.Address, v.VSwitchId, v.CidrBlock)
		}
		if holder := s.pool(v.VSwitchId).holder[named]; holder != "" {
			return "", badRequest("InvalidParameter", "Illegal parameter. The IP address %s is in use: %s has it.", named, holder)
		}
	}
	a, ok := s.pickVIP(v, named)
	if !ok {
		return "", badRequest("VSwitchAvailableIpNotExist", "The specified VSwitch has no available ip: %q.", v.VSwitchId)
	}
	l.Address, l.VSwitchId, l.VpcId = a, v.VSwitchId, v.VpcId
	return v.ZoneId, nil
}

// clbZones returns the two zones of a new load balancer: the requested ones; else that of its
// vSwitch, and another one.
func (s *State) clbZones(req CreateLoadBalancerRequest, zone string) (master, slave string, err error) {
	zones := s.options.Zones
	master = cmp.Or(req.MasterZoneId, zone, zones[0])
	slave = cmp.Or(req.SlaveZoneId, zones[(slices.Index(zones, master)+1)%len(zones)])
	if err = oneOf("MasterZoneId", master, zones...); err == nil {
		err = oneOf("SlaveZoneId", slave, zones...)
	}
	return master, slave, err
}

// DeleteLoadBalancer deletes a load balancer with its listeners and groups.
func (s *State) DeleteLoadBalancer(req LoadBalancerRequest) error {
	l, err := s.loadBalancer(req.LoadBalancerId)
	if err != nil {
		return err
	}
	if l.DeleteProtection == On {
		return badRequest("OperationDenied.DeleteProtectionIsOn", "The loadbalancer can not be deleted due to DeleteProtection is enabled: %s.", l.LoadBalancerId)
	}
	for _, listener := range s.clbListenersOf(l.LoadBalancerId) {
		s.removeListener(listener)
	}
	for _, g := range s.serverGroupsOf(l.LoadBalancerId) {
		delete(s.data.VServerGroups, g.VServerGroupId)
		s.touch(g.VServerGroupId)
	}
	if l.VSwitchId == "" {
		delete(s.index.public, l.Address)
	} else {
		s.giveBack(l.VSwitchId, []netip.Addr{l.Address})
	}
	delete(s.data.LoadBalancers, l.LoadBalancerId)
	s.changed(l.LoadBalancerId)
	return nil
}

// DescribeLoadBalancers lists load balancers, by id, without their listeners.
func (s *State) DescribeLoadBalancers(req DescribeLoadBalancersRequest) ([]LoadBalancer, error) {
	ids, names := list(req.LoadBalancerId), list(req.LoadBalancerName)
	tags := slices.Clone(req.Tag)
	for _, t := range req.Tags {
		tags = append(tags, Tag{Key: t.TagKey, Value: t.TagValue})
	}
	found := []LoadBalancer{}
	for _, id := range sortedKeys(s.data.LoadBalancers) {
		l := s.data.LoadBalancers[id]
		if isOneOf(ids, id) && isOneOf(names, l.LoadBalancerName) && is(req.LoadBalancerStatus, l.LoadBalancerStatus) &&
			is(req.Address, l.Address.String()) && is(req.AddressType, l.AddressType) && is(req.AddressIPVersion, "ipv4") &&
			is(req.NetworkType, l.NetworkType()) && is(req.VpcId, l.VpcId) && is(req.VSwitchId, l.VSwitchId) &&
			is(req.MasterZoneId, l.MasterZoneId) && is(req.SlaveZoneId, l.SlaveZoneId) && is(req.InternetChargeType, l.InternetChargeType) &&
			is(req.InstanceChargeType, l.InstanceChargeType) && is(req.PayType, "PayOnDemand") && is(req.ResourceGroupId, l.ResourceGroupId) &&
			hasTags(tags, l.Tags) && s.serves(l, req.ServerId, req.ServerIntranetAddress) {
			found = append(found, l.clone())
		}
	}
	return found, nil
}

// serves reports whether a load balancer has a backend with the given id and address, of which
// both may be empty.
func (s *State) serves(l *LoadBalancer, serverID, address string) bool {
	if serverID == "" && address == "" {
		return true
	}
	return slices.ContainsFunc(s.serverGroupsOf(l.LoadBalancerId), func(g *VServerGroup) bool {
		return slices.ContainsFunc(g.BackendServers, func(b BackendServer) bool {
			return is(serverID, b.ServerId) && is(address, b.ServerIp.String())
		})
	})
}

// DescribeLoadBalancerAttribute returns one load balancer with its listeners.
func (s *State) DescribeLoadBalancerAttribute(req LoadBalancerRequest) (*LoadBalancer, error) {
	l, err := s.loadBalancer(req.LoadBalancerId)
	if err != nil {
		return nil, err
	}
	c := l.clone()
	for _, listener := range s.clbListenersOf(l.LoadBalancerId) {
		c.Listeners = append(c.Listeners, listener.clone())
	}
	return &c, nil
}

// setLoadBalancer changes a load balancer, or nothing if change fails.
func (s *State) setLoadBalancer(id string, change func(*LoadBalancer) error) error {
	l, err := s.loadBalancer(id)
	if err != nil {
		return err
	}
	c := *l
	if err := change(&c); err != nil {
		return err
	}
	*l = c
	s.changed(id)
	return nil
}

// SetLoadBalancerName sets the name.
func (s *State) SetLoadBalancerName(req SetLoadBalancerNameRequest) error {
	return s.setLoadBalancer(req.LoadBalancerId, func(l *LoadBalancer) error {
		if req.LoadBalancerName == "" {
			return missing("LoadBalancerName")
		}
		l.LoadBalancerName = req.LoadBalancerName
		return checkName("LoadBalancerName", req.LoadBalancerName)
	})
}

// SetLoadBalancerStatus makes a load balancer active or inactive: then it forwards nothing.
func (s *State) SetLoadBalancerStatus(req SetLoadBalancerStatusRequest) error {
	return s.setLoadBalancer(req.LoadBalancerId, func(l *LoadBalancer) error {
		l.LoadBalancerStatus = req.LoadBalancerStatus
		return oneOf("LoadBalancerStatus", req.LoadBalancerStatus, LoadBalancerActive, LoadBalancerInactive)
	})
}

// SetLoadBalancerDeleteProtection switches the protection from DeleteLoadBalancer.
func (s *State) SetLoadBalancerDeleteProtection(req SetLoadBalancerDeleteProtectionRequest) error {
	return s.setLoadBalancer(req.LoadBalancerId, func(l *LoadBalancer) error {
		l.DeleteProtection = req.DeleteProtection
		return l.checkProtection()
	})
}

// SetLoadBalancerModificationProtection switches the protection from changes in the console,
// which the simulator only remembers.
func (s *State) SetLoadBalancerModificationProtection(req SetLoadBalancerModificationProtectionRequest) error {
	return s.setLoadBalancer(req.LoadBalancerId, func(l *LoadBalancer) error {
		l.ModificationProtectionStatus, l.ModificationProtectionReason = req.ModificationProtectionStatus, req.ModificationProtectionReason
		return l.checkProtection()
	})
}

// ModifyLoadBalancerInstanceSpec changes the specification of a load balancer that has one.
func (s *State) ModifyLoadBalancerInstanceSpec(req ModifyLoadBalancerInstanceSpecRequest) error {
	return s.setLoadBalancer(req.LoadBalancerId, func(l *LoadBalancer) error {
		if err := l.checkPayBySpec(); err != nil {
			return err
		}
		if req.LoadBalancerSpec == "" {
			return missing("LoadBalancerSpec")
		}
		return l.charge(PayBySpec, req.LoadBalancerSpec)
	})
}

// ModifyLoadBalancerInternetSpec changes how traffic is charged.
func (s *State) ModifyLoadBalancerInternetSpec(req ModifyLoadBalancerInternetSpecRequest) error {
	return s.setLoadBalancer(req.LoadBalancerId, func(l *LoadBalancer) error {
		if err := l.checkPayBySpec(); err != nil {
			return err
		}
		return l.meter(cmp.Or(req.InternetChargeType, l.InternetChargeType), cmp.Or(req.Bandwidth, l.Bandwidth))
	})
}

func (l *LoadBalancer) checkPayBySpec() error {
	if l.InstanceChargeType != PayBySpec {
		return badRequest("OperationDenied.PayByCLCU", "The operation is not allowed because the instanceChargeType of loadbalancer is PayByCLCU: %s.", l.LoadBalancerId)
	}
	return nil
}

// ModifyLoadBalancerInstanceChargeType changes between PayBySpec and PayByCLCU.
func (s *State) ModifyLoadBalancerInstanceChargeType(req ModifyLoadBalancerInstanceChargeTypeRequest) error {
	return s.setLoadBalancer(req.LoadBalancerId, func(l *LoadBalancer) error {
		if req.InstanceChargeType == "" {
			return missing("InstanceChargeType")
		}
		if err := l.charge(req.InstanceChargeType, req.LoadBalancerSpec); err != nil {
			return err
		}
		return l.meter(cmp.Or(req.InternetChargeType, l.InternetChargeType), cmp.Or(req.Bandwidth, l.Bandwidth))
	})
}
