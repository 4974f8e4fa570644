package catalog

import (
	"fmt"
	"strings"
)

// The user guide's recommendation for nodes: 8 cores or more, generation 5 or later.
const (
	RecommendedVCPU       = 8
	RecommendedGeneration = 5
)

// Below returns the ways in which a type is below the recommendation for nodes, as far as it is
// known.
func (t Type) Below() []string {
	var why []string
	if t.VCPU.Less(RecommendedVCPU) {
		why = append(why, fmt.Sprintf("%d vCPUs are fewer than %d", t.VCPU.N, RecommendedVCPU))
	}
	if g, ok := t.comparableGeneration(); ok && g < RecommendedGeneration {
		why = append(why, fmt.Sprintf("generation %d is before %d", g, RecommendedGeneration))
	}
	return why
}

// comparableGeneration returns the generation of a family that counts ECS generations. Big data
// (d), FPGA (f), local disk (i), AI chip (an) and universal (u) families have their own
// numbers: i3 is contemporary with g7.
func (t Type) comparableGeneration() (int, bool) {
	n := t.Generation()
	series := strings.TrimPrefix(strings.TrimPrefix(t.Family, "ecs."), "ebm")
	if digit := strings.IndexAny(series, "0123456789"); digit >= 0 {
		series = series[:digit]
	}
	switch series {
	case "d", "f", "i", "an", "u":
		return 0, false
	}
	return n, n > 0
}
