package openapi

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/vpcsim/state"
)

// resourceActions returns the lists of ECS 2014-05-26 that tools read before they create
// something. Resources that the simulator does not have give an empty list.
func resourceActions() actions {
	return actions{
		"DescribeImages":               {dryRun: true, run: describeImages},
		"DescribeKeyPairs":             {run: describeKeyPairs},
		"DescribeDisks":                nothing("Disks", "Disk", instancePaging),
		"DescribeUserData":             {run: describeUserData},
		"DescribeAvailableResource":    {run: describeAvailableResource},
		"DescribeInstanceTypeFamilies": {run: describeTypeFamilies},
		"DescribeAccountAttributes":    {run: describeAccountAttributes},
	}
}

// usedNames returns resources that instances were created with, of which the simulator only
// knows the name.
func usedNames(c *call, name func(state.Instance) string, wanted string) ([]string, error) {
	all, err := c.api.DescribeInstances(state.DescribeInstancesRequest{})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, i := range all {
		if n := name(i); n != "" && (wanted == "" || slices.Contains(strings.Split(wanted, ","), n)) {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// describeImages lists the images of instances: RunInstances accepts any.
func describeImages(c *call) (obj, error) {
	names, err := usedNames(c, func(i state.Instance) string { return i.ImageId }, c.params.Get("ImageId"))
	if err != nil {
		return nil, err
	}
	pg, e := paginate(c, imagePaging, names, same)
	if e != nil {
		return nil, e
	}
	return pg.fields(obj{"RegionId": c.region, "Images": in("Image", func(id string) obj {
		return obj{"ImageId": id, "ImageName": id, "Status": "Available", "OSType": "linux", "Usage": "instance", "Progress": "100%"}
	}, pg.items)}), nil
}

// describeKeyPairs lists the key pairs of instances: any name is accepted.
func describeKeyPairs(c *call) (obj, error) {
	names, err := usedNames(c, func(i state.Instance) string { return i.KeyPairName }, c.params.Get("KeyPairName"))
	if err != nil {
		return nil, err
	}
	pg, e := paginate(c, statusPaging, names, same)
	if e != nil {
		return nil, e
	}
	return pg.fields(obj{"KeyPairs": in("KeyPair", func(name string) obj {
		return obj{"KeyPairName": name, "Tags": ecsTags(nil)}
	}, pg.items)}), nil
}

func describeUserData(c *call) (obj, error) {
	id, e := c.required("InstanceId")
	if e != nil {
		return nil, e
	}
	i, err := c.api.DescribeInstanceAttribute(id)
	if err != nil {
		return nil, err
	}
	return obj{"InstanceId": i.InstanceId, "RegionId": c.region, "UserData": i.UserData}, nil
}

// usableTypes returns the types that RunInstances accepts.
func usableTypes(c *call, r state.DescribeInstanceTypesRequest) ([]catalog.Type, error) {
	all, err := c.api.DescribeInstanceTypes(r)
	return slices.DeleteFunc(all, func(t catalog.Type) bool { return !t.ENIs.Known || !t.IPv4PerENI.Known }), err
}

// describeAvailableResource lists what each zone offers: every type, and no disks.
func describeAvailableResource(c *call) (obj, error) {
	var r struct {
		DestinationResource, ZoneId, InstanceType string
		Cores                                     int
		Memory                                    float64
	}
	if e := decode(c.params, &r); e != nil {
		return nil, e
	}
	var values []string
	switch r.DestinationResource {
	case "":
		return nil, missing("DestinationResource")
	case "InstanceType":
		q := state.DescribeInstanceTypesRequest{
			MinimumCpuCoreCount: r.Cores, MaximumCpuCoreCount: r.Cores, MinimumMemorySize: r.Memory, MaximumMemorySize: r.Memory,
		}
		if r.InstanceType != "" {
			q.InstanceTypes = []string{r.InstanceType}
		}
		types, err := usableTypes(c, q)
		if err != nil {
			return nil, err
		}
		for _, t := range types {
			values = append(values, t.Name)
		}
	case "Network":
		values = []string{"vpc"}
	case "IoOptimized":
		values = []string{"optimized"}
	case "Zone", "SystemDisk", "DataDisk", "ddh":
	default:
		return nil, invalid("DestinationResource", r.DestinationResource, "Zone, IoOptimized, InstanceType, Network, SystemDisk, DataDisk or ddh")
	}
	zones := []obj{}
	for _, z := range c.api.DescribeZones() {
		if r.ZoneId != "" && r.ZoneId != z.ZoneId || len(values) == 0 && r.DestinationResource != "Zone" {
			continue
		}
		resources := []obj{}
		if len(values) > 0 {
			resources = append(resources, obj{"Type": r.DestinationResource, "SupportedResources": in("SupportedResource", func(v string) obj {
				return obj{"Value": v, "Status": "Available", "StatusCategory": "WithStock"}
			}, values)})
		}
		zones = append(zones, obj{
			"RegionId": c.region, "ZoneId": z.ZoneId, "Status": "Available", "StatusCategory": "WithStock",
			"AvailableResources": in("AvailableResource", same, resources),
		})
	}
	return obj{"AvailableZones": in("AvailableZone", same, zones)}, nil
}

func describeTypeFamilies(c *call) (obj, error) {
	all, err := c.api.DescribeInstanceTypes(state.DescribeInstanceTypesRequest{})
	if err != nil {
		return nil, err
	}
	generations := map[string]string{}
	for _, t := range all {
		generations[t.Family] = "ecs-" + strconv.Itoa(t.Generation())
	}
	families := []obj{}
	for _, t := range all {
		generation, first := generations[t.Family]
		delete(generations, t.Family)
		if wanted := c.params.Get("Generation"); first && (wanted == "" || wanted == generation) {
			families = append(families, obj{"InstanceTypeFamilyId": t.Family, "Generation": generation})
		}
	}
	return obj{"InstanceTypeFamilies": in("InstanceTypeFamily", same, families)}, nil
}

// describeAccountAttributes returns the account's limits that the simulator enforces.
func describeAccountAttributes(c *call) (obj, error) {
	var r struct{ AttributeName []string }
	if e := decode(c.params, &r); e != nil {
		return nil, e
	}
	limits := c.api.Quotas()
	items := []obj{}
	for _, a := range []struct{ name, value string }{
		{"instance-network-type", "vpc"},
		{"max-elastic-network-interfaces", strconv.Itoa(limits.ENIs)},
		{"max-security-groups", strconv.Itoa(limits.SecurityGroups)},
	} {
		if len(r.AttributeName) == 0 || slices.Contains(r.AttributeName, a.name) {
			items = append(items, obj{"AttributeName": a.name, "AttributeValues": in("ValueItem", func(v string) obj { return obj{"Value": v} }, []string{a.value})})
		}
	}
	return obj{"AccountAttributeItems": in("AccountAttributeItem", same, items)}, nil
}

// describeReferences lists the groups whose rules refer to the given ones.
func describeReferences(c *call) (obj, error) {
	var r struct{ SecurityGroupId []string }
	if e := decode(c.params, &r); e != nil {
		return nil, e
	}
	switch n := len(r.SecurityGroupId); {
	case n == 0:
		return nil, missing("SecurityGroupId")
	case n > 10:
		return nil, errorf(http.StatusBadRequest, "InvalidParameter", "At most 10 SecurityGroupId.N may be given, not %d.", n)
	}
	all, err := c.api.DescribeSecurityGroups(state.DescribeSecurityGroupsRequest{})
	if err != nil {
		return nil, err
	}
	references := []obj{}
	for _, id := range r.SecurityGroupId {
		if !slices.ContainsFunc(all, func(g state.SecurityGroup) bool { return g.SecurityGroupId == id }) {
			return nil, errorf(http.StatusNotFound, "InvalidSecurityGroupId.NotFound", "The specified SecurityGroupId does not exist: %q.", id)
		}
		referring := []obj{}
		for _, g := range all {
			if slices.ContainsFunc(g.Rules, func(r state.SecurityGroupRule) bool { return r.PeerGroupId == id }) {
				referring = append(referring, obj{"SecurityGroupId": g.SecurityGroupId, "AliUid": c.identity.OwnerID})
			}
		}
		if len(referring) > 0 {
			references = append(references, obj{"SecurityGroupId": id, "ReferencingSecurityGroups": in("ReferencingSecurityGroup", same, referring)})
		}
	}
	return obj{"SecurityGroupReferences": in("SecurityGroupReference", same, references)}, nil
}
