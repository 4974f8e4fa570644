// Package instancetypes is the command "terwayctl instance-types".
package instancetypes

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/catalog"
)

// NewCommand makes "terwayctl instance-types".
func NewCommand() *cobra.Command {
	var maxPods, output, family string
	cmd := &cobra.Command{
		Use:   "instance-types",
		Short: "ECS instance types and how many pods each holds",
		Long: `Instance types and how many pods each holds, from the catalogue built in.

A node whose pods share ENIs holds (ENIs − 1) × addresses per ENI of them; one
whose pods have an ENI each, ENIs − 1. --max-pods prints the first figure alone,
for the kubelet's maxPods. Pods on the node's own network need no address of the
VPC but count for the kubelet: add as many as you run of them on each node.`,
		Example: `  terwayctl instance-types --family ecs.g6
  terwayctl instance-types --max-pods ecs.g6.2xlarge`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if maxPods != "" {
				return printMaxPods(cmd.OutOrStdout(), maxPods)
			}
			return list(cmd.OutOrStdout(), family, output)
		},
	}
	cmd.Flags().StringVar(&maxPods, "max-pods", "", "print only how many pods this `TYPE` holds")
	cmd.Flags().StringVar(&family, "family", "", "only this family, for example ecs.g6")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func printMaxPods(w io.Writer, name string) error {
	t, ok := catalog.Lookup(name)
	if !ok {
		return fmt.Errorf("--max-pods %s: the catalogue has no such instance type (terwayctl instance-types lists them)", name)
	}
	n, ok := t.MaxPodsShared()
	if !ok {
		return fmt.Errorf("--max-pods %s: the catalogue does not know how many ENIs or addresses this type has", name)
	}
	_, err := fmt.Fprintln(w, n)
	return err
}

type row struct {
	Type          string        `json:"type"`
	VCPU          catalog.Count `json:"vcpu"`
	MemoryGiB     float64       `json:"memoryGiB"`
	ENIs          catalog.Count `json:"enis"`
	IPv4PerENI    catalog.Count `json:"ipv4PerENI"`
	PodsShared    catalog.Count `json:"podsShared"`
	PodsExclusive catalog.Count `json:"podsExclusive"`
	BandwidthGbps float64       `json:"bandwidthGbps"`
}

func list(w io.Writer, family, output string) error {
	var rows []row
	for _, t := range catalog.All() {
		if family != "" && t.Family != family {
			continue
		}
		r := row{Type: t.Name, VCPU: t.VCPU, MemoryGiB: t.MemoryGiB, ENIs: t.ENIs, IPv4PerENI: t.IPv4PerENI, BandwidthGbps: t.BandwidthBase}
		if n, ok := t.MaxPodsShared(); ok {
			r.PodsShared = catalog.Of(n)
		}
		if n, ok := t.MaxPodsExclusive(); ok {
			r.PodsExclusive = catalog.Of(n)
		}
		rows = append(rows, r)
	}
	if len(rows) == 0 {
		return fmt.Errorf("--family %s: the catalogue has no such family", family)
	}
	switch output {
	case "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(rows)
	case "text":
		tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(tw, "TYPE\tVCPU\tGIB\tENIS\tIPV4/ENI\tPODS SHARED\tPODS EXCLUSIVE\tGBIT/S\t")
		for _, r := range rows {
			fmt.Fprintf(tw, "%s\t%v\t%g\t%v\t%v\t%v\t%v\t%g\t\n", r.Type, r.VCPU, r.MemoryGiB, r.ENIs, r.IPv4PerENI, r.PodsShared, r.PodsExclusive, r.BandwidthGbps)
		}
		return tw.Flush()
	}
	return fmt.Errorf("--output %q: want text or json", output)
}
