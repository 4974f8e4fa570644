package loadbalancer

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// fixed are the parameters that only a new load balancer gets.
var fixed = map[Product][]string{
	CLB: {"Address", "AddressIPVersion", "AddressType", "MasterZoneId", "ResourceGroupId", "SlaveZoneId", "VSwitchId"},
	NLB: {"AddressIpVersion", "ResourceGroupId"},
}

// Differences returns the parameters to set where what is differs from what is wanted, with those that have to
// come along. A parameter that the cloud does not report has its default. The error names each parameter
// that cannot be changed, by its annotation, the value and the next step; set is without it.
func Differences(p Product, kind Kind, wanted, is map[string]string) (set map[string]string, err error) {
	set = map[string]string{}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		a := annotationOf(p, kind, name)
		want := wanted[name]
		have, reported := is[name]
		if have == "" && a != nil {
			have = a.effect(p).unset
		}
		if name == "HealthCheckConnectPort" && have == "0" {
			have = backendsPort // as some answers have it
		}
		if a.same(want, have) {
			continue
		}
		if kind == OfLoadBalancer && slices.Contains(fixed[p], name) {
			if reported && is[name] != "" {
				errs = append(errs, fmt.Errorf("%s: %q: the load balancer has %q, which cannot be changed: set that, or delete the Service and create it again", Prefix+a.Name, want, is[name]))
			}
			continue
		}
		set[name] = want
	}
	for name, want := range wanted {
		if comesAlong(p, kind, name, set) {
			set[name] = want
		}
	}
	return set, errors.Join(errs...)
}

// comesAlong reports whether a parameter has to be set together with those of set.
func comesAlong(p Product, kind Kind, name string, set map[string]string) bool {
	with := func(names ...string) bool {
		return slices.Contains(names, name) && slices.ContainsFunc(names, func(n string) bool { return set[n] != "" })
	}
	switch {
	case p == CLB && kind == OfListener:
		// Some of them are mandatory together, which ones depends on the protocol.
		return len(set) > 0
	case p == CLB && kind == OfLoadBalancer:
		size := name == "LoadBalancerSpec" || name == "InternetChargeType" || name == "Bandwidth"
		return size && set["InstanceChargeType"] != "" || with("InternetChargeType", "Bandwidth")
	case p == NLB && kind == OfGroup && strings.HasPrefix(name, "HealthCheckConfig."):
		for n := range set {
			if strings.HasPrefix(n, "HealthCheckConfig.") {
				return true
			}
		}
		return false
	}
	return with("ConnectionDrainEnabled", "ConnectionDrainTimeout")
}

// annotationOf returns the row of a parameter; nil if no annotation sets it.
func annotationOf(p Product, kind Kind, parameter string) *Annotation {
	for i := range Annotations {
		if e := Annotations[i].effect(p); e.kind == kind && e.parameter == parameter {
			return &Annotations[i]
		}
	}
	return nil
}

// same reports whether two values are the same: words may be spelled with other cases, and lists sorted otherwise.
func (a *Annotation) same(x, y string) bool {
	switch {
	case x == y:
		return true
	case a == nil:
		return false
	case a.values.words:
		return strings.EqualFold(x, y)
	case a.values.list:
		return slices.Equal(slices.Sorted(strings.SplitSeq(x, ",")), slices.Sorted(strings.SplitSeq(y, ",")))
	}
	return false
}
