package instancetypes

import (
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"

	"terway.dev/terway/internal/catalog"
)

// row is a type in JSON; null means unknown.
type row struct {
	Type               string        `json:"type"`
	Family             string        `json:"family"`
	Generation         int           `json:"generation"`
	VCPU               catalog.Count `json:"vcpu"`
	MemoryGiB          *float64      `json:"memoryGiB"`
	ENIs               catalog.Count `json:"enis"`
	IPv4PerENI         catalog.Count `json:"ipv4PerENI"`
	IPv6PerENI         catalog.Count `json:"ipv6PerENI"`
	PodsShared         catalog.Count `json:"podsShared"`
	PodsExclusive      catalog.Count `json:"podsExclusive"`
	PodsPrefix         catalog.Count `json:"podsPrefix"`
	PodsTrunk          catalog.Count `json:"podsTrunk"`
	BandwidthGbps      *float64      `json:"bandwidthGbps"`
	BandwidthBurstGbps *float64      `json:"bandwidthBurstGbps"`
	// BelowRecommendation lists the ways in which the type is below the recommendation for
	// nodes.
	BelowRecommendation []string `json:"belowRecommendation,omitempty"`
	Source              string   `json:"source"`
}

func known(f float64) *float64 {
	if f == 0 {
		return nil
	}
	return &f
}

// rowsOf are the types for programs.
func rowsOf(types []catalog.Type) []row {
	rows := make([]row, 0, len(types))
	for _, t := range types {
		rows = append(rows, row{Type: t.Name, Family: t.Family, Generation: t.Generation(), VCPU: t.VCPU, MemoryGiB: known(t.MemoryGiB),
			ENIs: t.ENIs, IPv4PerENI: t.IPv4PerENI, IPv6PerENI: t.IPv6PerENI,
			PodsShared: podsIn(t, modeShared), PodsExclusive: podsIn(t, modeExclusive), PodsPrefix: podsIn(t, modePrefix), PodsTrunk: podsIn(t, modeTrunk),
			BandwidthGbps: known(t.BandwidthBase), BandwidthBurstGbps: known(t.BandwidthBurst),
			BelowRecommendation: t.Below(), Source: t.Source})
	}
	return rows
}

func writeText(w io.Writer, types []catalog.Type, unknown int) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "\tTYPE\tVCPU\tGIB\tENIS\tADDR/ENI\tSHARED\tEXCLUSIVE\tPREFIX\tTRUNK\tGBIT/S\t")
	marked := 0
	for _, t := range types {
		mark := ""
		if len(t.Below()) > 0 {
			mark = "!"
			marked++
		}
		fmt.Fprintf(tw, "%s\t%s\t%v\t%s\t%v\t%v\t%v\t%v\t%v\t%v\t%s\t\n", mark, t.Name, t.VCPU, number(t.MemoryGiB), t.ENIs, t.IPv4PerENI,
			podsIn(t, modeShared), podsIn(t, modeExclusive), podsIn(t, modePrefix), podsIn(t, modeTrunk), bandwidth(t))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w, "\nSHARED, EXCLUSIVE, PREFIX, TRUNK: pods in each mode. GBIT/S: guaranteed, and in short bursts where published.")
	if marked > 0 {
		fmt.Fprintf(w, "! below the recommendation for nodes, which is %d vCPUs or more of generation %d or later (%d of %d types)\n",
			catalog.RecommendedVCPU, catalog.RecommendedGeneration, marked, len(types))
	}
	if unknown > 0 {
		fmt.Fprintf(w, "%d more types may match: the catalogue lacks a number\n", unknown)
	}
	return nil
}

func number(f float64) string {
	if f == 0 {
		return "unknown"
	}
	return strconv.FormatFloat(f, 'f', -1, 64)
}

func bandwidth(t catalog.Type) string {
	if t.BandwidthBurst == 0 {
		return number(t.BandwidthBase)
	}
	return number(t.BandwidthBase) + "–" + number(t.BandwidthBurst)
}
