// Package instancetypes is the command "terwayctl instance-types": the ECS instance types and
// how many pods each holds. It prints and refreshes the catalogue; package catalog defines the
// numbers.
package instancetypes

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/cli/program"
)

// NewCommand returns "terwayctl instance-types".
func NewCommand() *cobra.Command {
	var maxPods, file, order string
	var output program.Output
	var q query
	cmd := &cobra.Command{
		Use:   "instance-types",
		Short: "ECS instance types and how many pods each holds",
		Long: `Instance types and how many pods each holds, from the built-in catalogue or a table
that "instance-types refresh" wrote.

  shared     pods share the secondary ENIs: (ENIs − 1) × addresses per ENI
  exclusive  a pod has an ENI: ENIs − 1
  prefix     shared ENIs that carry /28 prefixes: (ENIs − 1) × (addresses per ENI − 1) × 16
  trunk      member ENIs on a trunk ENI, if the number is known

A number without a source is "unknown", and a filter on it leaves the type out.
--max-pods prints only one type's number for the --mode, for the kubelet's maxPods. Pods in the
host network need no address of the VPC but count for the kubelet: add their number
on each node.`,
		Example: `  terwayctl instance-types --family g6,g7 --min-vcpu 8
  terwayctl instance-types --min-pods 100 --mode prefix --generation 7 --sort pods
  terwayctl instance-types --max-pods ecs.g6.2xlarge`,
		Args: program.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			types, err := catalog.Open(file)
			if err != nil {
				return program.Usagef("--catalogue: %w", err)
			}
			if err := q.check(order, types.All()); err != nil {
				return program.Usage(err)
			}
			if maxPods != "" {
				n, err := podsOf(types, maxPods, q.mode)
				if err != nil {
					return err
				}
				return output.Write(cmd.OutOrStdout(), map[string]any{"type": maxPods, "mode": q.mode, "maxPods": n}, func(w io.Writer) error {
					_, err := fmt.Fprintln(w, n)
					return err
				})
			}
			found, unknown := q.find(types.All())
			switch {
			case len(found) == 0 && unknown > 0:
				return fmt.Errorf("no instance type of the catalogue is known to match; %d may match, but the catalogue lacks a number", unknown)
			case len(found) == 0:
				return errors.New("no instance type of the catalogue matches")
			}
			sortBy(found, order, q.mode)
			return output.Write(cmd.OutOrStdout(), rowsOf(found), func(w io.Writer) error { return writeText(w, found, unknown) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&maxPods, "max-pods", "", "print only how many pods this `TYPE` holds")
	f.StringSliceVar(&q.families, "family", nil, "only these families, for example g6,ecs.c7")
	f.IntSliceVar(&q.generations, "generation", nil, "only these generations, for example 6,7")
	f.IntVar(&q.minVCPU, "min-vcpu", 0, "at least so many vCPUs")
	f.IntVar(&q.maxVCPU, "max-vcpu", 0, "at most so many vCPUs (0: any)")
	f.IntVar(&q.minPods, "min-pods", 0, "room for at least so many pods in the --mode")
	f.StringVar(&q.mode, "mode", modeShared, "what --min-pods, --max-pods and --sort pods count: shared, exclusive, prefix or trunk")
	f.StringVar(&order, "sort", sortName, "name, vcpu, enis, pods or bandwidth")
	output.Add(f)
	cmd.PersistentFlags().StringVar(&file, "catalogue", "", "read this table (`FILE`) instead of the catalogue built in")
	cmd.AddCommand(refreshCommand(&file))
	return cmd
}

// podsOf returns how many pods a type holds in a mode.
func podsOf(types *catalog.Catalog, name, mode string) (catalog.Count, error) {
	t, ok := types.Lookup(name)
	if !ok {
		return catalog.Count{}, fmt.Errorf("--max-pods %s: the catalogue has no such instance type (terwayctl instance-types lists them)", name)
	}
	n := podsIn(t, mode)
	if !n.Known {
		return catalog.Count{}, fmt.Errorf("--max-pods %s: the catalogue lacks numbers of this type that mode %s needs", name, mode)
	}
	return n, nil
}
