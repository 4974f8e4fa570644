//go:build bench

package scale

import (
	"maps"
	"slices"
	"testing"
	"time"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/cloud/alibaba"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/ipam"
)

// least returns the minimum number of calls, by action, with which any controller could bring
// addresses to so many pods on nodes that have none. A node gets no pods before its first ENI
// is attached, and the number of its pods is not known before: so the first ENI has the pool's
// minimum. All later ENIs can be created with the maximum number of addresses.
func least(nodes, pods, perENI int) map[string]int {
	const minimum = config.DefaultMinPool
	enis := ceil(pods+minimum, perENI)
	late := max(0, pods-(enis-1)*min(perENI, ipam.CreateMax))
	return map[string]int{
		"CreateNetworkInterface":    nodes * enis,
		"AttachNetworkInterface":    nodes * enis,
		"AssignPrivateIpAddresses":  nodes * ceil(late, ipam.BatchSize),
		"DescribeNetworkInterfaces": ceil(nodes*enis, 100), // each must be seen as attached once
		"DescribeInstances":         ceil(nodes, 100),
		"DescribeInstanceTypes":     1,
		"DescribeVSwitches":         ceil(len(zoneIDs)*vswitchesPerZone, 50),
		"DescribeVpcAttribute":      1,
	}
}

func ceil(n, of int) int { return (n + of - 1) / of }

// bound returns the minimum time that the rate limits allow: that of the action that takes
// longest.
func bound(calls map[string]int, factor float64) (longest time.Duration, by string) {
	for _, action := range slices.Sorted(maps.Keys(calls)) {
		n := calls[action]
		perMinute := float64(alibaba.DefaultLimits()[action]) * factor
		if d := time.Duration(float64(n) / perMinute * float64(time.Minute)); d > longest {
			longest, by = d, action
		}
	}
	return longest, by
}

func perENI(t testing.TB, instanceType string) int {
	t.Helper()
	it, ok := catalog.Lookup(instanceType)
	if !ok || !it.IPv4PerENI.Known {
		t.Fatalf("TYPE=%s: the catalogue has no such instance type", instanceType)
	}
	return it.IPv4PerENI.N
}

func TestLeast(t *testing.T) {
	// 33 addresses on ENIs with 15: the first with 3, two with 15.
	got := least(10, 30, 15)
	if got["CreateNetworkInterface"] != 30 || got["AssignPrivateIpAddresses"] != 0 {
		t.Errorf("30 pods on ENIs of 15: %v", got)
	}
	// 33 on ENIs with 20: 3, then 20; ten more for the first.
	got = least(10, 30, 20)
	if got["CreateNetworkInterface"] != 20 || got["AssignPrivateIpAddresses"] != 10 {
		t.Errorf("30 pods on ENIs of 20: %v", got)
	}
	if d, by := bound(got, 2); by != "AttachNetworkInterface" || d != 20*time.Minute/1000 {
		t.Errorf("bound %s by %s", d, by)
	}
}
