package vpc

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/cli/cloudflags"
	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/provision"
)

func showCommand(f *cloudflags.Flags) *cobra.Command {
	var id string
	var output program.Output
	cmd := &cobra.Command{
		Use:   "show [FILE|NAME]",
		Short: "Show the existing resources of a plan's VPC, and how full its vSwitches are",
		Args:  program.Args("[FILE|NAME]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 1) == (id != "") {
				return program.Usagef("give either a plan's file or name, or --vpc-id")
			}
			name, region := "", ""
			if len(args) == 1 {
				var err error
				if name, region, err = planOrName(args[0]); err != nil {
					return err
				}
			}
			p, err := connect(cmd, f, region)
			if err != nil {
				return err
			}
			var n *provision.Network
			if id != "" {
				n, err = p.ShowVPC(cmd.Context(), id)
			} else {
				n, err = p.Show(cmd.Context(), name)
			}
			if err != nil {
				return explained(cmd.Context(), err)
			}
			return output.Write(cmd.OutOrStdout(), n, func(w io.Writer) error { return writeNetwork(w, n) })
		},
	}
	cmd.Flags().StringVar(&id, "vpc-id", "", "any VPC, by its id")
	output.Add(cmd.Flags())
	return cmd
}

func writeNetwork(w io.Writer, n *provision.Network) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	var cidrs []string
	for _, c := range n.VPC.CIDRs {
		cidrs = append(cidrs, c.String())
	}
	of := "no plan's"
	if n.Plan != "" {
		of = "plan " + n.Plan
	}
	fmt.Fprintf(tw, "VPC\t%s\t%s\t%s\t%s\n", n.VPC.ID, dash(n.VPC.Name), strings.Join(cidrs, ", "), of)
	for _, g := range n.Groups {
		fmt.Fprintf(tw, "security group\t%s\t%s\t%s\troom for %d addresses%s\n", g.ID, dash(g.Name), g.Type, g.Free, foreign(g.Own, n.Plan))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	tw = tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "VSWITCH\tNAME\tZONE\tFOR\tRANGE\tUSED\tFREE\tFULL")
	for _, v := range n.VSwitches {
		used := v.Addresses - v.Free
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%.0f %%%s\n", v.ID, dash(v.Name), v.Zone, dash(v.Role), v.CIDR, used, v.Free,
			100*float64(used)/float64(max(1, v.Addresses)), foreign(v.Own, n.Plan))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	var free []string
	for _, c := range n.Free {
		free = append(free, c.String())
	}
	if len(free) == 0 {
		free = []string{"none (\"terwayctl vpc grow\" adds a secondary range)"}
	}
	_, err := fmt.Fprintf(w, "\nranges of the VPC that no vSwitch has: %s\n", strings.Join(free, ", "))
	return err
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func foreign(own bool, plan string) string {
	if own || plan == "" {
		return ""
	}
	return "  (not the plan's)"
}
