package state

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// nlbMostZones is the maximum number of zones of a load balancer.
const nlbMostZones = 10

// nlb returns a load balancer.
func (s *State) nlb(id string) (*NLBLoadBalancer, error) {
	if id == "" {
		return nil, nlbMissing("LoadBalancerId")
	}
	b, ok := s.data.NLBLoadBalancers[id]
	if !ok {
		return nil, nlbNotFound("loadBalancer", id)
	}
	return b, nil
}

// nlbToChange returns a load balancer that can be changed: it exists, and no job runs on it.
func (s *State) nlbToChange(id string) (*NLBLoadBalancer, error) {
	b, err := s.nlb(id)
	switch {
	case err != nil:
		return nil, err
	case b.LoadBalancerStatus == NLBProvisioning:
		return nil, badRequest("ResourceInCreating.loadbalancer", "The specified resource of loadbalancer is creating, please try again later: %s.", id)
	case s.nlbJobOn(id) != nil:
		return nil, nlbLocked(id)
	}
	return b, nil
}

// nlbUsable refuses a load balancer on which no listener can be made or changed.
func nlbUsable(b *NLBLoadBalancer) error {
	if b.LoadBalancerStatus == NLBActive || b.LoadBalancerStatus == NLBConfiguring {
		return nil
	}
	return badRequest("IncorrectStatus.loadbalancer", "The status of loadbalancer [%s] is incorrect: %s.", b.LoadBalancerId, b.LoadBalancerStatus)
}

// NLBCreateLoadBalancer creates a load balancer, which is Provisioning at first.
func (s *State) NLBCreateLoadBalancer(req NLBCreateLoadBalancerRequest) (loadBalancerId string, err error) {
	return nlbOnce(s, "CreateLoadBalancer", req.ClientToken, req, func() (string, error) {
		switch {
		case req.BandwidthPackageId != "":
			return "", nlbUnsupported("BandwidthPackageId")
		case req.AddressIpVersion != "" && !strings.EqualFold(req.AddressIpVersion, "ipv4"):
			return "", nlbUnsupported("AddressIpVersion " + req.AddressIpVersion)
		case req.LoadBalancerType != "" && !strings.EqualFold(req.LoadBalancerType, "network"):
			return "", nlbIllegal("LoadBalancerType", req.LoadBalancerType, "network")
		case req.VpcId == "":
			return "", nlbMissing("VpcId")
		case s.data.VPCs[req.VpcId] == nil:
			return "", nlbNotFound("Vpc", req.VpcId)
		}
		if err := nlbAddressType(req.AddressType); err != nil {
			return "", err
		}
		if req.LoadBalancerName != "" {
			if err := nlbName("loadBalancerName", req.LoadBalancerName); err != nil {
				return "", err
			}
		}
		protection := cmp.Or(req.ModificationProtectionConfig.Status, NLBNonProtection)
		if err := nlbProtection(protection); err != nil {
			return "", err
		}
		if n, most := len(s.data.NLBLoadBalancers), s.options.Limits.NLBs; n >= most {
			return "", nlbQuota("loadbalancers_num", n, most)
		}
		if err := s.nlbGroups(req.VpcId, req.SecurityGroupIds); err != nil {
			return "", err
		}
		if err := s.checkTags(nil, req.Tag); err != nil {
			return "", err
		}
		zones, err := s.nlbZones(req.VpcId, req.AddressType, nil, req.ZoneMappings)
		if err != nil {
			return "", err
		}
		if req.DryRun {
			return "", dryRun()
		}
		now := s.now()
		b := &NLBLoadBalancer{
			LoadBalancerId: s.newID(idNLB), LoadBalancerName: req.LoadBalancerName, LoadBalancerStatus: NLBActive, AddressType: req.AddressType,
			VpcId: req.VpcId, CrossZoneEnabled: true, ZoneMappings: zones, SecurityGroupIds: distinct(req.SecurityGroupIds),
			ModificationProtectionStatus: protection, ResourceGroupId: req.ResourceGroupId, CreateTime: now, Tags: slices.Clone(req.Tag),
		}
		b.DNSName = b.LoadBalancerId + "." + s.options.RegionId + ".nlb.aliyuncs.com"
		b.protect(req.DeletionProtectionConfig.Enabled, req.DeletionProtectionConfig.Reason, now)
		b.protectModification(protection, req.ModificationProtectionConfig.Reason, now)
		s.startNLB("CreateLoadBalancer", b, &nlbResource{})
		return b.LoadBalancerId, nil
	})
}

// startNLB starts a job that makes next of the load balancer of its id, or of nothing. Until it
// ends, the load balancer has the addresses and the groups of both.
func (s *State) startNLB(action string, next *NLBLoadBalancer, failure *nlbResource) (jobId string) {
	now := next.clone()
	now.LoadBalancerStatus = NLBProvisioning
	if old := s.data.NLBLoadBalancers[next.LoadBalancerId]; old != nil {
		now = old.clone()
		now.LoadBalancerStatus = NLBConfiguring
		now.SecurityGroupIds = addSorted(old.SecurityGroupIds, next.SecurityGroupIds)
		for _, z := range next.ZoneMappings {
			at, found := zoneOf(now, z.ZoneId)
			if found {
				if has := &now.ZoneMappings[at]; !has.PublicIPv4Address.IsValid() {
					has.PublicIPv4Address, has.AllocationId = z.PublicIPv4Address, z.AllocationId
				}
				continue
			}
			z.Pending = true
			now.ZoneMappings = slices.Insert(now.ZoneMappings, at, z)
		}
	}
	s.putNLB(now.LoadBalancerId, now)
	return s.startNLBJob(NLBJob{Action: action, ResourceId: now.LoadBalancerId, Success: &nlbResource{LoadBalancer: next}, Failure: failure}, s.options.Timing.NLBLoadBalancer)
}

func zoneOf(b *NLBLoadBalancer, zone string) (at int, found bool) {
	return slices.BinarySearchFunc(b.ZoneMappings, zone, func(z NLBZoneMapping, zone string) int { return strings.Compare(z.ZoneId, zone) })
}

// putNLB replaces a load balancer, which may be nil before or after, and takes or gives back
// the addresses that the two do not share.
func (s *State) putNLB(id string, next *NLBLoadBalancer) {
	before, after := s.data.NLBLoadBalancers[id].addresses(), next.addresses()
	for _, a := range before {
		switch {
		case slices.Contains(after, a):
		case a.vSwitchID == "":
			delete(s.index.public, a.address)
		default:
			s.giveBack(a.vSwitchID, []netip.Addr{a.address})
		}
	}
	for _, a := range after {
		switch {
		case slices.Contains(before, a):
		case a.vSwitchID == "":
			s.index.public[a.address] = id
		default:
			s.take(s.data.VSwitches[a.vSwitchID], id, []netip.Addr{a.address})
		}
	}
	if next == nil {
		delete(s.data.NLBLoadBalancers, id)
	} else {
		s.data.NLBLoadBalancers[id] = next
	}
}

// nlbHeld is an address of a load balancer; a public one has no vSwitch.
type nlbHeld struct {
	vSwitchID string
	address   netip.Addr
}

// addresses returns all addresses of a load balancer, which may be nil.
func (b *NLBLoadBalancer) addresses() []nlbHeld {
	if b == nil {
		return nil
	}
	var all []nlbHeld
	for _, z := range b.ZoneMappings {
		all = append(all, nlbHeld{z.VSwitchId, z.PrivateIPv4Address})
		if z.PublicIPv4Address.IsValid() {
			all = append(all, nlbHeld{"", z.PublicIPv4Address})
		}
	}
	return all
}

// endOfNLB ends a job on a load balancer; with next nil, it is removed with its listeners.
func (s *State) endOfNLB(b, next *NLBLoadBalancer) {
	if next == nil {
		for _, l := range s.listenersOf(b.LoadBalancerId) {
			s.endOfListener(l, nil)
		}
	} else {
		next = next.clone()
		next.LoadBalancerStatus, next.Tags = NLBActive, b.Tags
	}
	s.putNLB(b.LoadBalancerId, next)
}

func nlbAddressType(t string) error {
	switch t {
	case NLBInternet, NLBIntranet:
		return nil
	case "":
		return nlbMissing("AddressType")
	}
	return nlbIllegal("AddressType", t, "Internet or Intranet")
}

func nlbProtection(status string) error {
	if status != NLBNonProtection && status != NLBConsoleProtection {
		return nlbIllegal("ModificationProtectionStatus", status, "NonProtection or ConsoleProtection")
	}
	return nil
}

func (b *NLBLoadBalancer) protect(on bool, reason string, now time.Time) {
	b.DeletionProtectionEnabled, b.DeletionProtectionReason, b.DeletionProtectionTime = false, "", time.Time{}
	if on {
		b.DeletionProtectionEnabled, b.DeletionProtectionReason, b.DeletionProtectionTime = true, reason, now
	}
}

func (b *NLBLoadBalancer) protectModification(status, reason string, now time.Time) {
	b.ModificationProtectionStatus, b.ModificationProtectionReason, b.ModificationProtectionTime = status, "", time.Time{}
	if status == NLBConsoleProtection {
		b.ModificationProtectionReason, b.ModificationProtectionTime = reason, now
	}
}

// nlbZones returns the zone mappings of a load balancer that has the given ones now. A zone that
// it has keeps its addresses.
func (s *State) nlbZones(vpcID, addressType string, old []NLBZoneMapping, wanted []NLBZoneMappingRequest) ([]NLBZoneMapping, error) {
	least := min(2, len(s.options.Zones))
	switch n := len(wanted); {
	case n == 0:
		return nil, nlbMissing("ZoneMappings")
	case n < least || n > nlbMostZones:
		return nil, badRequest("InvalidZones", "The current zone list is illegal: %d zones, expected %d to %d.", n, least, nlbMostZones)
	}
	zones := make([]NLBZoneMapping, 0, len(wanted))
	for _, w := range wanted {
		switch {
		case w.EipType != "" && w.EipType != "Common":
			return nil, nlbUnsupported("EipType " + w.EipType)
		case w.Ipv6Address != "" || len(w.Ipv4LocalAddresses) > 0 || len(w.Ipv6LocalAddresses) > 0:
			return nil, nlbUnsupported("IPv6 and local addresses of load balancers")
		case w.ZoneId == "":
			return nil, nlbMissing("ZoneId")
		case w.VSwitchId == "":
			return nil, nlbMissing("VSwitchId")
		case slices.ContainsFunc(zones, func(z NLBZoneMapping) bool { return z.ZoneId == w.ZoneId }):
			return nil, badRequest("OperationFailed.DuplicateZones.", "The operation failed because of Can not Specify duplicate zones: %s.", w.ZoneId)
		}
		v := s.data.VSwitches[w.VSwitchId]
		if v == nil || v.VpcId != vpcID {
			return nil, nlbNotFound("VSwitch", w.VSwitchId)
		}
		if v.ZoneId != w.ZoneId {
			return nil, badRequest("Mismatch.ZoneIdAndVswitchId", "The ZoneIdAndVswitchId is mismatched for %s and %s.", w.ZoneId, w.VSwitchId)
		}
		z := NLBZoneMapping{ZoneId: w.ZoneId, VSwitchId: w.VSwitchId}
		if at := slices.IndexFunc(old, func(z NLBZoneMapping) bool { return z.ZoneId == w.ZoneId }); at >= 0 {
			if z = old[at]; z.VSwitchId != w.VSwitchId {
				return nil, badRequest("OperationDenied.ZoneVSwitchChanged", "The operation is not allowed because of ZoneVSwitchChanged: zone %s has vSwitch %s.", z.ZoneId, z.VSwitchId)
			}
			if w.PrivateIPv4Address != "" && w.PrivateIPv4Address != z.PrivateIPv4Address.String() {
				return nil, badRequest("OperationDenied.ProtectedPrivateIPv4AddressChanged", "The operation is not allowed because of ProtectedPrivateIPv4AddressChanged: zone %s has %s.", z.ZoneId, z.PrivateIPv4Address)
			}
		} else {
			var err error
			if z.PrivateIPv4Address, err = s.nlbAddress(v, w.PrivateIPv4Address); err != nil {
				return nil, err
			}
		}
		zones = append(zones, z)
	}
	slices.SortFunc(zones, func(a, b NLBZoneMapping) int { return strings.Compare(a.ZoneId, b.ZoneId) })
	return zones, s.nlbPublic(addressType, zones, wanted)
}

// nlbPublic gives zones the public addresses that a load balancer of the type has: those of the
// EIPs that are wanted, and others of its own. A zone that has one keeps it.
func (s *State) nlbPublic(addressType string, zones []NLBZoneMapping, wanted []NLBZoneMappingRequest) error {
	eips := map[string]string{}
	for _, w := range wanted {
		if w.AllocationId == "" {
			continue
		}
		if addressType == NLBIntranet {
			return nlbIllegal("AllocationId", w.AllocationId, "none for an Intranet load balancer")
		}
		for _, other := range eips {
			if other == w.AllocationId {
				return badRequest("DuplicatedParam.AllocationId", "The param of AllocationId is duplicated: %s.", other)
			}
		}
		eips[w.ZoneId] = w.AllocationId
	}
	missing := 0
	for i := range zones {
		z := &zones[i]
		id := eips[z.ZoneId]
		switch {
		case addressType == NLBIntranet:
			z.PublicIPv4Address, z.AllocationId = netip.Addr{}, ""
		case z.PublicIPv4Address.IsValid() && id != "" && id != z.AllocationId:
			return nlbIllegal("AllocationId", id, "the EIP that zone "+z.ZoneId+" has, or none")
		case z.PublicIPv4Address.IsValid():
		case id == "":
			missing++
		default:
			e := s.data.EIPs[id]
			if e == nil {
				return nlbNotFound("AllocationId", id)
			}
			if user := s.index.public[e.IpAddress]; user != "" {
				return badRequest("ResourceAlreadyAssociated.AllocationId", "The specified resource of %s is already associated: %s has it.", id, user)
			}
			z.PublicIPv4Address, z.AllocationId = e.IpAddress, id
		}
	}
	public, ok := s.pickPublicVIPs(missing)
	if !ok {
		return nlbQuota("public addresses", sizeOf(publicVIPs), sizeOf(publicVIPs))
	}
	for i := range zones {
		if addressType == NLBInternet && !zones[i].PublicIPv4Address.IsValid() {
			zones[i].PublicIPv4Address, public = public[0], public[1:]
		}
	}
	return nil
}

// nlbAddress selects an address of a vSwitch, without taking it.
func (s *State) nlbAddress(v *VSwitch, named string) (netip.Addr, error) {
	full := badRequest("ResourceNotEnough.VSwitchIp", "The specified resource of VSwitchIp is not enough: %s.", v.VSwitchId)
	if v.Status != StatusAvailable {
		return netip.Addr{}, badRequest("ResourceInConfiguring.VswitchId", "The specified resource of VswitchId is being configured, please try again later: %s is %s.", v.VSwitchId, v.Status)
	}
	if v.Full || s.privateIPs(v.VpcId) >= s.options.Limits.PrivateIPsPerVPC {
		return netip.Addr{}, full
	}
	if named == "" {
		picked, ok := s.pick(v, 1, nil)
		if !ok {
			return netip.Addr{}, full
		}
		return picked[0], nil
	}
	a, err := netip.ParseAddr(named)
	if err != nil || !usable(v.CidrBlock, a) {
		return a, nlbIllegal("PrivateIPv4Address", named, "an address of vSwitch "+v.VSwitchId+" ("+v.CidrBlock.String()+")")
	}
	if s.pool(v.VSwitchId).holder[a] != "" {
		return a, badRequest("ResourceInUse.IP", "The specified resource of IP is in use: %s.", a)
	}
	return a, nil
}

// nlbGroups checks security groups that a load balancer is to be in.
func (s *State) nlbGroups(vpcID string, ids []string) error {
	kind := ""
	for _, id := range ids {
		g := s.data.SecurityGroups[id]
		switch {
		case g == nil:
			return nlbNotFound("SecurityGroup", id)
		case g.VpcId != vpcID:
			return badRequest("Mismatch.vpc", "The Vpc is mismatched for %s and %s.", id, vpcID)
		case kind != "" && g.SecurityGroupType != kind:
			return badRequest("Conflict.SecurityGroup", "The SecurityGroup [%s] is conflict: it is of type %s, another is not.", id, g.SecurityGroupType)
		}
		kind = g.SecurityGroupType
	}
	if n, most := len(distinct(ids)), s.options.Limits.NLBSecurityGroups; n > most {
		return nlbQuota("loadbalancer_security_groups_num", n, most)
	}
	return nil
}

// NLBDeleteLoadBalancer deletes a load balancer with its listeners.
func (s *State) NLBDeleteLoadBalancer(req NLBLoadBalancerRequest) (jobId string, err error) {
	return nlbOnce(s, "DeleteLoadBalancer", req.ClientToken, req, func() (string, error) {
		b, err := s.nlbToChange(req.LoadBalancerId)
		if err != nil {
			return "", err
		}
		if b.DeletionProtectionEnabled {
			return "", badRequest("OperationDenied.DeletionProtectionEnabled", "The operation is not allowed because of DeletionProtectionEnabled: %s.", b.LoadBalancerId)
		}
		for _, l := range s.listenersOf(b.LoadBalancerId) {
			if s.nlbJobOn(l.ListenerId) != nil {
				return "", nlbLocked(l.ListenerId)
			}
		}
		if req.DryRun {
			return "", dryRun()
		}
		before := b.clone()
		b.LoadBalancerStatus = NLBDeleting
		return s.startNLBJob(NLBJob{
			Action: "DeleteLoadBalancer", ResourceId: b.LoadBalancerId, Success: &nlbResource{}, Failure: &nlbResource{LoadBalancer: before},
		}, s.options.Timing.NLBLoadBalancer), nil
	})
}

// changeNLB starts a job that changes a load balancer.
func (s *State) changeNLB(action, id string, dry bool, change func(next *NLBLoadBalancer) error) (jobId string, err error) {
	b, err := s.nlbToChange(id)
	if err != nil {
		return "", err
	}
	next := b.clone()
	if err := change(next); err != nil {
		return "", err
	}
	if dry {
		return "", dryRun()
	}
	return s.startNLB(action, next, &nlbResource{LoadBalancer: b.clone()}), nil
}

// NLBUpdateLoadBalancerAttribute changes the name and other attributes.
func (s *State) NLBUpdateLoadBalancerAttribute(req NLBUpdateLoadBalancerAttributeRequest) (jobId string, err error) {
	const action = "UpdateLoadBalancerAttribute"
	return nlbOnce(s, action, req.ClientToken, req, func() (string, error) {
		return s.changeNLB(action, req.LoadBalancerId, req.DryRun, func(next *NLBLoadBalancer) error {
			if req.LoadBalancerName != nil {
				if err := nlbName("loadBalancerName", *req.LoadBalancerName); err != nil {
					return err
				}
			}
			if err := nlbRange("Cps", req.Cps, 0, nlbMostCps); err != nil {
				return err
			}
			set(&next.LoadBalancerName, req.LoadBalancerName)
			set(&next.CrossZoneEnabled, req.CrossZoneEnabled)
			set(&next.Cps, req.Cps)
			return nil
		})
	})
}

// nlbMostCps is the highest limit of new connections a second.
const nlbMostCps = 1000000

// NLBUpdateLoadBalancerProtection changes what protects a load balancer, without a job.
func (s *State) NLBUpdateLoadBalancerProtection(req NLBUpdateLoadBalancerProtectionRequest) error {
	_, err := nlbOnce(s, "UpdateLoadBalancerProtection", req.ClientToken, req, func() (bool, error) {
		b, err := s.nlbToChange(req.LoadBalancerId)
		if err != nil {
			return false, err
		}
		if req.ModificationProtectionStatus != "" {
			if err := nlbProtection(req.ModificationProtectionStatus); err != nil {
				return false, err
			}
		}
		if req.DryRun {
			return false, dryRun()
		}
		if req.DeletionProtectionEnabled != nil {
			b.protect(*req.DeletionProtectionEnabled, req.DeletionProtectionReason, s.now())
		}
		if req.ModificationProtectionStatus != "" {
			b.protectModification(req.ModificationProtectionStatus, req.ModificationProtectionReason, s.now())
		}
		s.changed(b.LoadBalancerId)
		return true, nil
	})
	return err
}

// NLBUpdateLoadBalancerZones replaces the zones.
func (s *State) NLBUpdateLoadBalancerZones(req NLBUpdateLoadBalancerZonesRequest) (jobId string, err error) {
	const action = "UpdateLoadBalancerZones"
	return nlbOnce(s, action, req.ClientToken, req, func() (string, error) {
		return s.changeNLB(action, req.LoadBalancerId, req.DryRun, func(next *NLBLoadBalancer) (err error) {
			next.ZoneMappings, err = s.nlbZones(next.VpcId, next.AddressType, next.ZoneMappings, req.ZoneMappings)
			return err
		})
	})
}

// NLBUpdateLoadBalancerAddressTypeConfig makes an Intranet load balancer an Internet one, or the
// other way. The zones stay.
func (s *State) NLBUpdateLoadBalancerAddressTypeConfig(req NLBUpdateLoadBalancerZonesRequest) (jobId string, err error) {
	const action = "UpdateLoadBalancerAddressTypeConfig"
	return nlbOnce(s, action, req.ClientToken, req, func() (string, error) {
		return s.changeNLB(action, req.LoadBalancerId, req.DryRun, func(next *NLBLoadBalancer) error {
			if err := nlbAddressType(req.AddressType); err != nil {
				return err
			}
			if next.AddressType == req.AddressType {
				return badRequest("OperationDenied.AddressTypeNotChanged", "The operation is not allowed because of AddressTypeNotChanged: %s is %s.", next.LoadBalancerId, next.AddressType)
			}
			for _, w := range req.ZoneMappings {
				at, ok := zoneOf(next, w.ZoneId)
				switch {
				case w.EipType != "" && w.EipType != "Common":
					return nlbUnsupported("EipType " + w.EipType)
				case !ok || next.ZoneMappings[at].VSwitchId != w.VSwitchId:
					return badRequest("Mismatch.ZoneIdAndVswitchId", "The ZoneIdAndVswitchId is mismatched for %s and %s.", w.ZoneId, w.VSwitchId)
				}
			}
			next.AddressType = req.AddressType
			return s.nlbPublic(req.AddressType, next.ZoneMappings, req.ZoneMappings)
		})
	})
}

// NLBLoadBalancerJoinSecurityGroup adds a load balancer to security groups.
func (s *State) NLBLoadBalancerJoinSecurityGroup(req NLBSecurityGroupsRequest) (jobId string, err error) {
	const action = "LoadBalancerJoinSecurityGroup"
	return nlbOnce(s, action, req.ClientToken, req, func() (string, error) {
		return s.changeNLB(action, req.LoadBalancerId, req.DryRun, func(next *NLBLoadBalancer) error {
			if len(req.SecurityGroupIds) == 0 {
				return nlbMissing("SecurityGroupIds")
			}
			for _, id := range req.SecurityGroupIds {
				if slices.Contains(next.SecurityGroupIds, id) {
					return badRequest("Conflict.SecurityGroup", "The SecurityGroup [%s] is conflict: %s is in it already.", id, next.LoadBalancerId)
				}
			}
			next.SecurityGroupIds = addSorted(next.SecurityGroupIds, req.SecurityGroupIds)
			return s.nlbGroups(next.VpcId, next.SecurityGroupIds)
		})
	})
}

// NLBLoadBalancerLeaveSecurityGroup removes a load balancer from security groups.
func (s *State) NLBLoadBalancerLeaveSecurityGroup(req NLBSecurityGroupsRequest) (jobId string, err error) {
	const action = "LoadBalancerLeaveSecurityGroup"
	return nlbOnce(s, action, req.ClientToken, req, func() (string, error) {
		return s.changeNLB(action, req.LoadBalancerId, req.DryRun, func(next *NLBLoadBalancer) error {
			if len(req.SecurityGroupIds) == 0 {
				return nlbMissing("SecurityGroupIds")
			}
			for _, id := range req.SecurityGroupIds {
				if !slices.Contains(next.SecurityGroupIds, id) {
					return nlbNotFound("SecurityGroup", id)
				}
			}
			next.SecurityGroupIds = withoutAll(next.SecurityGroupIds, req.SecurityGroupIds)
			return nil
		})
	})
}

// nlbUses returns a load balancer that is in a security group, or a server group of a VPC; "" if
// there is none.
func nlbUses(d *data, groupOrVPC string) string {
	for _, id := range sortedKeys(d.NLBLoadBalancers) {
		if slices.Contains(d.NLBLoadBalancers[id].SecurityGroupIds, groupOrVPC) {
			return id
		}
	}
	for _, id := range sortedKeys(d.NLBServerGroups) {
		if d.NLBServerGroups[id].VpcId == groupOrVPC {
			return id
		}
	}
	return ""
}

// NLBGetLoadBalancerAttribute returns a load balancer.
func (s *State) NLBGetLoadBalancerAttribute(req NLBLoadBalancerRequest) (*NLBLoadBalancer, error) {
	b, err := s.nlb(req.LoadBalancerId)
	if err != nil {
		return nil, err
	}
	return b.clone(), nil
}

// NLBListLoadBalancers lists load balancers, by id.
func (s *State) NLBListLoadBalancers(req NLBListLoadBalancersRequest) ([]NLBLoadBalancer, error) {
	found := []NLBLoadBalancer{}
	for _, id := range sortedKeys(s.data.NLBLoadBalancers) {
		b := s.data.NLBLoadBalancers[id]
		inZone := func(z NLBZoneMapping) bool { return is(req.ZoneId, z.ZoneId) }
		if isOneOf(req.LoadBalancerIds, id) && isOneOf(req.LoadBalancerNames, b.LoadBalancerName) && isOneOf(req.VpcIds, b.VpcId) &&
			is(req.LoadBalancerStatus, b.LoadBalancerStatus) && is(req.LoadBalancerBusinessStatus, "Normal") && is(strings.ToLower(req.LoadBalancerType), "network") &&
			is(req.AddressType, b.AddressType) && is(strings.ToLower(req.AddressIpVersion), "ipv4") && req.Ipv6AddressType == "" &&
			is(req.DNSName, b.DNSName) && is(req.ResourceGroupId, b.ResourceGroupId) && slices.ContainsFunc(b.ZoneMappings, inZone) && hasTags(req.Tag, b.Tags) {
			found = append(found, *b.clone())
		}
	}
	return found, nil
}
