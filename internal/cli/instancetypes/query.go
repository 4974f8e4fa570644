package instancetypes

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/decode"
)

// The ways in which pods get addresses.
const (
	modeShared    = claims.ModeShared
	modeExclusive = claims.ModeExclusive
	modePrefix    = "prefix"
	modeTrunk     = "trunk"
)

// The sort orders of the table.
const (
	sortName      = "name"
	sortVCPU      = "vcpu"
	sortENIs      = "enis"
	sortPods      = "pods"
	sortBandwidth = "bandwidth"
)

// query selects types.
type query struct {
	families         []string
	generations      []int
	minVCPU, maxVCPU int
	minPods          int
	mode             string
}

// check returns all errors in the flags.
func (q *query) check(order string, all []catalog.Type) error {
	var wrong []error
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	for _, f := range q.families {
		if !slices.ContainsFunc(all, func(t catalog.Type) bool { return family(t.Family) == family(f) }) {
			bad("--family %q: the catalogue has no such family%s", f, nearest(f, all))
		}
	}
	for _, f := range []struct {
		name  string
		value int
	}{{"min-vcpu", q.minVCPU}, {"max-vcpu", q.maxVCPU}, {"min-pods", q.minPods}} {
		if f.value < 0 {
			bad("--%s %d: want 0 or more", f.name, f.value)
		}
	}
	if q.maxVCPU > 0 && q.maxVCPU < q.minVCPU {
		bad("--max-vcpu %d is below --min-vcpu %d", q.maxVCPU, q.minVCPU)
	}
	if modes := []string{modeShared, modeExclusive, modePrefix, modeTrunk}; !slices.Contains(modes, q.mode) {
		bad("--mode %q: want %s", q.mode, strings.Join(modes, ", "))
	}
	if orders := []string{sortName, sortVCPU, sortENIs, sortPods, sortBandwidth}; !slices.Contains(orders, order) {
		bad("--sort %q: want %s", order, strings.Join(orders, ", "))
	}
	return errors.Join(wrong...)
}

// family adds the prefix that users leave out, if needed.
func family(name string) string { return strings.TrimPrefix(name, "ecs.") }

// nearest names the family with the most similar name.
func nearest(name string, all []catalog.Type) string {
	var known []string
	for _, t := range all {
		known = append(known, family(t.Family))
	}
	if n := decode.Nearest(family(name), known); n != "" {
		return ", the nearest is " + n
	}
	return ""
}

// podsIn returns how many pods a type holds in a mode.
func podsIn(t catalog.Type, mode string) catalog.Count {
	var n int
	var ok bool
	switch mode {
	case modeShared:
		n, ok = t.MaxPodsShared()
	case modeExclusive:
		n, ok = t.MaxPodsExclusive()
	case modePrefix:
		n, ok = t.MaxPodsPrefix()
	case modeTrunk:
		if n, ok = t.MaxPodsTrunk(); !ok && t.TrunkKnown && !t.Trunk {
			return catalog.Of(0)
		}
	}
	if !ok {
		return catalog.Count{}
	}
	return catalog.Of(n)
}

// find returns the types that match. unknown is how many were left out only because the table
// lacks a number.
func (q *query) find(all []catalog.Type) (found []catalog.Type, unknown int) {
	for _, t := range all {
		yes, unsure := q.takes(t)
		switch {
		case yes:
			found = append(found, t)
		case unsure:
			unknown++
		}
	}
	return found, unknown
}

func (q *query) takes(t catalog.Type) (yes, unsure bool) {
	ofIt := func(f string) bool { return family(f) == family(t.Family) }
	if len(q.families) > 0 && !slices.ContainsFunc(q.families, ofIt) ||
		len(q.generations) > 0 && !slices.Contains(q.generations, t.Generation()) {
		return false, false
	}
	pods := podsIn(t, q.mode)
	if t.VCPU.Less(q.minVCPU) || q.maxVCPU > 0 && t.VCPU.Known && t.VCPU.N > q.maxVCPU || pods.Less(q.minPods) {
		return false, false
	}
	unsure = !t.VCPU.Known && (q.minVCPU > 0 || q.maxVCPU > 0) || !pods.Known && q.minPods > 0
	return !unsure, unsure
}

// sortBy sorts types: by name with small types of a family first; by a number with the largest
// first and unknown ones last.
func sortBy(types []catalog.Type, order, mode string) {
	figure := func(t catalog.Type) float64 {
		count := func(c catalog.Count) float64 {
			if !c.Known {
				return -1
			}
			return float64(c.N)
		}
		switch order {
		case sortVCPU:
			return count(t.VCPU)
		case sortENIs:
			return count(t.ENIs)
		case sortPods:
			return count(podsIn(t, mode))
		case sortBandwidth:
			return t.BandwidthBase
		}
		return 0
	}
	size := func(t catalog.Type) int {
		if !t.VCPU.Known {
			return math.MaxInt
		}
		return t.VCPU.N
	}
	slices.SortStableFunc(types, func(a, b catalog.Type) int {
		return cmp.Or(cmp.Compare(figure(b), figure(a)), cmp.Compare(a.Family, b.Family), cmp.Compare(size(a), size(b)), cmp.Compare(a.Name, b.Name))
	})
}
