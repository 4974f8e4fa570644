package vpc

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/cli/cloudflags"
	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/provision"
)

func applyCommand(f *cloudflags.Flags, table *string) *cobra.Command {
	var output program.Output
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "apply FILE",
		Short: "Create the VPC, vSwitches and security group of a plan; existing ones stay",
		Long: `Create the missing parts of a plan's VPC, secondary ranges, vSwitches and security
group, and print their ids and the chart's values (eniConfig) for the cluster.

A second run changes nothing; a run after an interruption completes it. A resource
that differs from the plan is an error with both values.`,
		Example: `  terwayctl vpc apply plan.yaml --dry-run
  terwayctl vpc apply plan.yaml
  terwayctl vpc apply plan.yaml -o values > my-values.yaml
  helm install terway deploy/chart -n kube-system -f my-values.yaml`,
		Args: program.Args("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if dryRun && output.Is(formatValues) {
				return errNoValues
			}
			file, err := planFile(args[0], *table)
			if err != nil {
				return err
			}
			want, err := file.Load()
			if err != nil {
				return err
			}
			p, err := connect(cmd, f, want.Region)
			if err != nil {
				return err
			}
			if dryRun {
				steps, err := p.Preview(cmd.Context(), want)
				if err != nil {
					return explained(cmd.Context(), err)
				}
				return output.Write(cmd.OutOrStdout(), wouldDo{steps}, func(w io.Writer) error {
					if len(steps) == 0 {
						fmt.Fprintln(w, summary(0))
					}
					return writeSteps(w, steps)
				})
			}
			n, done, err := p.Apply(cmd.Context(), want)
			if err != nil {
				return explained(cmd.Context(), err)
			}
			out := cmd.OutOrStdout()
			config := n.ENIConfig(want)
			if err := doubts(cmd.ErrOrStderr(), want, config); err != nil {
				return err
			}
			if output.Is(formatValues) {
				return writeValues(out, config)
			}
			if output.Machine() {
				return output.Encode(out, struct {
					Done []provision.Step `json:"done"`
					*provision.Network
					ENIConfig provision.ENIConfig `json:"eniConfig"`
				}{done, n, config})
			}
			fmt.Fprintf(out, "%s\n\n", summary(len(done)))
			if err := writeNetwork(out, n); err != nil {
				return err
			}
			fmt.Fprint(out, "\nvalues for Terway's chart (helm -f FILE):\n\n")
			if err := writeValues(out, config); err != nil || want.Network != claims.NetworkFlannel {
				return err
			}
			// Kubernetes assigns the blocks, not Terway.
			_, err = fmt.Fprintf(out, "\nflags of kube-controller-manager: --allocate-node-cidrs --cluster-cidr=%s --node-cidr-mask-size=%d\n", want.PodCIDR, want.NodeMask)
			return err
		},
	}
	output.Add(cmd.Flags(), helpValues)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be done")
	return cmd
}

func summary(done int) string {
	switch done {
	case 0:
		return "nothing to do: the cloud agrees with the plan"
	case 1:
		return "1 change was made; the cloud agrees with the plan"
	}
	return fmt.Sprintf("%d changes were made; the cloud agrees with the plan", done)
}

// wouldDo is a preview for programs.
type wouldDo struct {
	Steps []provision.Step `json:"wouldDo"`
}

// formatValues is a format of apply and grow.
const (
	formatValues = "values"
	helpValues   = formatValues + ": the chart's values alone"
)

// errNoValues is that of --dry-run with this format.
var errNoValues = program.Usagef("--dry-run and --output values: there are no values before the vSwitches are made")
