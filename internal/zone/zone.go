// Package zone derives regions from zone ids: the id of a zone is the id of its region with a
// suffix, as in cn-hangzhou-i and us-west-1a
// (https://www.alibabacloud.com/help/en/ecs/product-overview/regions-and-zones). Only the cloud
// knows which zones exist.
package zone

import "strings"

// In reports whether the id can be that of a zone of the region.
func In(zone, region string) bool {
	rest, ok := strings.CutPrefix(zone, region)
	if !ok || !strings.Contains(region, "-") {
		return false
	}
	if suffix, dash := strings.CutPrefix(rest, "-"); dash {
		return suffix != "" && !strings.HasPrefix(suffix, "-") && !strings.ContainsFunc(suffix, odd)
	}
	// us-west-1a is in us-west-1; us-west-11 is another region, and cn-hangzhoui a typing
	// error.
	last := region[len(region)-1]
	return last >= '0' && last <= '9' && len(rest) == 1 && rest[0] >= 'a' && rest[0] <= 'z'
}

// Region returns the most probable region of the zone, or "" if the id does not look like a
// zone's.
func Region(zone string) string {
	if len(zone) < 2 {
		return ""
	}
	region := strings.TrimSuffix(zone[:len(zone)-1], "-")
	if last := zone[len(zone)-1]; last < 'a' || last > 'z' || !In(zone, region) {
		return ""
	}
	return region
}

func odd(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-')
}
