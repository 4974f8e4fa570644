package openapi

import (
	"maps"

	"terway.dev/terway/internal/vpcsim/state"
)

// ecsProduct returns ECS 2014-05-26.
func ecsProduct() product {
	return product{name: "Ecs", version: "2014-05-26", actions: ecsActions(), perMinute: map[string]int{
		"AttachNetworkInterface":            500,
		"CreateNetworkInterface":            500,
		"DeleteNetworkInterface":            500,
		"DescribeNetworkInterfaces":         800,
		"DescribeNetworkInterfaceAttribute": 2000,
		"DetachNetworkInterface":            400,
		"DescribeInstanceTypes":             400,
		"AssignPrivateIpAddresses":          400,
		"UnassignPrivateIpAddresses":        400,
		"AssignIpv6Addresses":               400,
		"UnassignIpv6Addresses":             400,
	}}
}

// ecsActions returns the operations of ECS 2014-05-26. They include the VPC operations, as in
// the real API of that version, for clients older than the VPC API.
func ecsActions() actions {
	a := vpcActions()
	for name, x := range a {
		x.product = vpcName
		a[name] = x
	}
	for _, more := range []actions{instanceActions(), eniActions(), groupActions(), resourceActions()} {
		maps.Copy(a, more)
	}
	// Programs for this version replace a route without waiting or retrying.
	for _, name := range []string{"CreateRouteEntry", "DeleteRouteEntry"} {
		x := a[name]
		x.waits = true
		a[name] = x
	}
	a["DescribeRegions"] = action{run: func(c *call) (obj, error) {
		return obj{"Regions": in("Region", func(r state.Region) obj {
			return obj{"RegionId": r.RegionId, "LocalName": r.LocalName, "RegionEndpoint": c.host, "Status": "available"}
		}, c.api.DescribeRegions())}, nil
	}}
	a["DescribeZones"] = action{run: func(c *call) (obj, error) {
		return obj{"Zones": in("Zone", func(z state.Zone) obj {
			return obj{
				"ZoneId": z.ZoneId, "LocalName": z.LocalName, "ZoneType": "AvailabilityZone",
				"AvailableResourceCreation": obj{"ResourceTypes": []string{"VSwitch", "Instance"}},
			}
		}, c.api.DescribeZones())}, nil
	}}
	return a
}
