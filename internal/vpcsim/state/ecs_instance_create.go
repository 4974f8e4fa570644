package state

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// RunInstances creates instances and starts them: all, or none.
func (s *State) RunInstances(req RunInstancesRequest) (instanceIds []string, err error) {
	return once(s, "Ecs:RunInstances", req.ClientToken, req, func() ([]string, error) {
		amount, least := 1, 1
		set(&amount, req.Amount)
		set(&least, req.MinAmount)
		switch {
		case amount < 1 || amount > 100:
			return nil, badRequest("InvalidParameter.Amount", "The specified Amount is not valid: %d, expected 1 to 100.", amount)
		case least < 1 || least > amount:
			return nil, badRequest("InvalidParameter.MinAmount", "The specified MinAmount is not valid: %d, expected 1 to Amount.", least)
		case len(req.HostNames) > 0 && len(req.HostNames) != amount:
			return nil, badRequest("InvalidParameter", "%d HostNames were given for %d instances.", len(req.HostNames), amount)
		case amount > 1 && (req.PrivateIpAddress != "" || len(req.Ipv6Address) > 0):
			return nil, badRequest("InvalidParameter", "PrivateIpAddress and Ipv6Address name one instance's addresses; Amount is %d.", amount)
		}
		groups, err := groupList(req.SecurityGroupId, req.SecurityGroupIds)
		if err != nil {
			return nil, err
		}
		cards, err := cardsOf(req, groups)
		if err != nil {
			return nil, err
		}
		var ids []string
		err = s.atomically(vSwitchesOfCards(cards), enisOfCards(cards), func() error {
			for n := range amount {
				i := &Instance{
					InstanceType: req.InstanceType, ZoneId: req.ZoneId, ImageId: req.ImageId,
					InstanceName: req.InstanceName, HostName: req.HostName, Description: req.Description,
					UserData: req.UserData, RamRoleName: req.RamRoleName, KeyPairName: req.KeyPairName,
					DeletionProtection: req.DeletionProtection, HttpEndpoint: req.HttpEndpoint, HttpTokens: req.HttpTokens,
					HttpPutResponseHopLimit: req.HttpPutResponseHopLimit, ResourceGroupId: req.ResourceGroupId,
					Tags: slices.Clone(req.Tag),
				}
				set(&i.EnableJumboFrame, req.NetworkOptions.EnableJumboFrame)
				if len(req.HostNames) > 0 {
					i.HostName = req.HostNames[n]
				}
				if req.UniqueSuffix && amount > 1 {
					suffix := fmt.Sprintf("%03d", n+1)
					i.InstanceName += suffix
					if i.HostName != "" {
						i.HostName += suffix
					}
				}
				if err := s.makeInstance(i, cards); err != nil {
					return err
				}
				s.start(opInstancePendingUp, i.InstanceId, i.CreationTime, s.options.Timing.InstancePend)
				ids = append(ids, i.InstanceId)
			}
			if req.DryRun {
				return dryRun()
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		slices.Sort(ids)
		return ids, nil
	})
}

// CreateInstance creates one instance, which is Stopped.
func (s *State) CreateInstance(req CreateInstanceRequest) (instanceId string, err error) {
	return once(s, "Ecs:CreateInstance", req.ClientToken, req, func() (string, error) {
		i := &Instance{
			InstanceType: req.InstanceType, ZoneId: req.ZoneId, ImageId: req.ImageId,
			InstanceName: req.InstanceName, HostName: req.HostName, Description: req.Description,
			UserData: req.UserData, RamRoleName: req.RamRoleName, KeyPairName: req.KeyPairName,
			DeletionProtection: req.DeletionProtection, HttpEndpoint: req.HttpEndpoint, HttpTokens: req.HttpTokens,
			HttpPutResponseHopLimit: req.HttpPutResponseHopLimit, ResourceGroupId: req.ResourceGroupId,
			Tags: slices.Clone(req.Tag),
		}
		card := RunInstancesNetworkInterface{
			InstanceType: ENIPrimary, VSwitchId: req.VSwitchId, PrimaryIpAddress: req.PrivateIpAddress,
		}
		if req.SecurityGroupId != "" {
			card.SecurityGroupIds = []string{req.SecurityGroupId}
		}
		err := s.atomically([]string{req.VSwitchId}, nil, func() error {
			if err := s.makeInstance(i, []RunInstancesNetworkInterface{card}); err != nil {
				return err
			}
			if req.DryRun {
				return dryRun()
			}
			return nil
		})
		if err != nil {
			return "", err
		}
		s.start(opInstancePending, i.InstanceId, i.CreationTime, s.options.Timing.InstancePend)
		return i.InstanceId, nil
	})
}

// cardsOf returns the ENIs of a new instance, the primary one first. Its attributes may be
// parameters of the request or one of NetworkInterface.N.
func cardsOf(req RunInstancesRequest, groups []string) ([]RunInstancesNetworkInterface, error) {
	primary := RunInstancesNetworkInterface{
		InstanceType: ENIPrimary, VSwitchId: req.VSwitchId, SecurityGroupIds: groups,
		PrimaryIpAddress: req.PrivateIpAddress, Ipv6Address: req.Ipv6Address, Ipv6AddressCount: req.Ipv6AddressCount,
	}
	var others []RunInstancesNetworkInterface
	seen := false
	for _, card := range req.NetworkInterface {
		if err := plainCard(card.NetworkInterfaceTrafficMode, card.NetworkCardIndex); err != nil {
			return nil, err
		}
		own, err := groupList(card.SecurityGroupId, card.SecurityGroupIds)
		if err != nil {
			return nil, err
		}
		if len(own) == 0 {
			own = groups
		}
		card.SecurityGroupId, card.SecurityGroupIds = "", own
		card.VSwitchId = cmp.Or(card.VSwitchId, req.VSwitchId)
		switch card.InstanceType {
		case ENIPrimary:
			if seen {
				return nil, badRequest("InvalidParameter", "Only one NetworkInterface.N may be of InstanceType Primary.")
			}
			if req.PrivateIpAddress != "" || card.NetworkInterfaceId != "" {
				return nil, badRequest("InvalidParameter", "A NetworkInterface.N of InstanceType Primary goes neither with PrivateIpAddress nor with NetworkInterfaceId.")
			}
			primary, seen = card, true
		case "", ENISecondary:
			card.InstanceType = ENISecondary
			others = append(others, card)
		default:
			return nil, invalid("NetworkInterface.N.InstanceType", card.InstanceType, "Primary or Secondary")
		}
	}
	return append([]RunInstancesNetworkInterface{primary}, others...), nil
}

func vSwitchesOfCards(cards []RunInstancesNetworkInterface) []string {
	var ids []string
	for _, card := range cards {
		ids = append(ids, card.VSwitchId)
	}
	return distinct(ids)
}

func enisOfCards(cards []RunInstancesNetworkInterface) []string {
	var ids []string
	for _, card := range cards {
		ids = append(ids, card.NetworkInterfaceId)
	}
	return distinct(ids)
}

// makeInstance adds a Pending instance with its ENIs. It may fail after changes: it runs inside
// atomically.
func (s *State) makeInstance(i *Instance, cards []RunInstancesNetworkInterface) error {
	if i.InstanceType == "" {
		return missing("InstanceType")
	}
	t, ok := s.options.Catalog.Lookup(i.InstanceType)
	switch {
	case !ok:
		return badRequest("InvalidInstanceType.ValueNotSupported", "The specified InstanceType does not exist: %q.", i.InstanceType)
	case !t.ENIs.Known || !t.IPv4PerENI.Known:
		return badRequest("InvalidInstanceType.ValueNotSupported", "The limits of InstanceType %q are not known to the simulator.", i.InstanceType)
	case i.EnableJumboFrame && !t.JumboFrames():
		return badRequest("InvalidParameter", "InstanceType %q does not support jumbo frames (NetworkOptions.EnableJumboFrame).", i.InstanceType)
	}
	i.HttpEndpoint, i.HttpTokens = cmp.Or(i.HttpEndpoint, "enabled"), cmp.Or(i.HttpTokens, "optional")
	if i.HttpEndpoint != "enabled" && i.HttpEndpoint != "disabled" {
		return invalid("HttpEndpoint", i.HttpEndpoint, "enabled or disabled")
	}
	if i.HttpTokens != "optional" && i.HttpTokens != "required" {
		return invalid("HttpTokens", i.HttpTokens, "optional or required")
	}
	if err := s.checkTags(nil, i.Tags); err != nil {
		return err
	}
	v, err := s.vSwitch(cards[0].VSwitchId)
	if err != nil {
		return err
	}
	if i.ZoneId != "" && i.ZoneId != v.ZoneId {
		return badRequest("InvalidParameter.Mismatch", "The specified ZoneId %q is not the zone of VSwitch %q: %s.", i.ZoneId, v.VSwitchId, v.ZoneId)
	}
	i.InstanceId, i.SerialNumber = s.newID(idInstance), s.newSerial()
	if i.HostName == "" {
		i.HostName = "iZ" + strings.TrimPrefix(i.InstanceId, idInstance) + "Z"
	}
	i.InstanceName = cmp.Or(i.InstanceName, i.HostName)
	i.Status, i.RegionId, i.ZoneId = InstancePending, s.options.RegionId, v.ZoneId
	i.VpcId, i.VSwitchId, i.CreationTime = v.VpcId, v.VSwitchId, s.now()
	s.data.Instances[i.InstanceId] = i
	s.attempt.instances = append(s.attempt.instances, i)
	s.changed(i.InstanceId)
	for _, card := range cards {
		if err := s.plugIn(i, card); err != nil {
			return err
		}
	}
	return nil
}

// plugIn attaches one of its first ENIs to a new instance; it is InUse from the start.
func (s *State) plugIn(i *Instance, card RunInstancesNetworkInterface) error {
	eni, err := s.cardENI(i, card)
	if err != nil {
		return err
	}
	if err := s.canAttach(eni, i); err != nil {
		return err
	}
	s.cancel(eni.NetworkInterfaceId)
	s.attach(eni, i)
	eni.Status, eni.AttachedTime = ENIInUse, i.CreationTime
	if eni.Type == ENIPrimary {
		i.PrimaryIpAddress = eni.PrimaryIpAddress
	}
	return nil
}

// cardENI returns the ENI of a card: an existing one or a new one.
func (s *State) cardENI(i *Instance, card RunInstancesNetworkInterface) (*NetworkInterface, error) {
	if card.NetworkInterfaceId != "" {
		eni, err := s.eni(card.NetworkInterfaceId)
		if err != nil {
			return nil, err
		}
		if !eni.free() {
			return nil, invalidState(eni)
		}
		if eni.Type != ENISecondary {
			return nil, forbidden("InvalidOperation.InvalidEniType", "Network interface %q is of type %s; a new instance takes only those of type Secondary.", eni.NetworkInterfaceId, eni.Type)
		}
		return eni, s.sameZone(i, eni.VpcId, eni.ZoneId, eni.NetworkInterfaceId)
	}
	v, err := s.vSwitch(card.VSwitchId)
	if err != nil {
		return nil, err
	}
	if err := s.sameZone(i, v.VpcId, v.ZoneId, v.VSwitchId); err != nil {
		return nil, err
	}
	if err := s.checkGroups(v.VpcId, card.SecurityGroupIds); err != nil {
		return nil, err
	}
	w, err := parseWish(instanceCodes, nil, 0, nil, 0, card.Ipv6Address, card.Ipv6AddressCount)
	if err != nil {
		return nil, err
	}
	if w, err = w.withPrimary(card.PrimaryIpAddress); err != nil {
		return nil, err
	}
	eni, err := s.makeENI(v, card.SecurityGroupIds, w)
	if err != nil {
		return nil, err
	}
	eni.Type, eni.Description, eni.NetworkInterfaceName = card.InstanceType, card.Description, card.NetworkInterfaceName
	eni.DeleteOnRelease = true
	set(&eni.DeleteOnRelease, card.DeleteOnRelease)
	set(&eni.SourceDestCheck, card.SourceDestCheck)
	if eni.Type == ENIPrimary {
		eni.DeleteOnRelease = true
	}
	return eni, nil
}

func (s *State) sameZone(i *Instance, vpcID, zoneID, of string) error {
	switch {
	case vpcID != i.VpcId:
		return forbidden("InvalidOperation.VpcMismatch", "%s is in VPC %s, the instance in VPC %s.", of, vpcID, i.VpcId)
	case zoneID != i.ZoneId:
		return forbidden("InvalidOperation.AvailabilityZoneMismatch", "%s is in zone %s, the instance in zone %s.", of, zoneID, i.ZoneId)
	}
	return nil
}
