package vpc

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/cli/cloudflags"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/provision"
)

func applyCommand(f *cloudflags.Flags, table *string) *cobra.Command {
	var output string
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
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output, "text", "json", "values"); err != nil {
				return err
			}
			if dryRun && output == "values" {
				return errors.New("--dry-run and --output values: there are no values before the vSwitches are made")
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
				lines, err := p.Preview(cmd.Context(), want)
				if err != nil {
					return explained(err)
				}
				return writePreview(cmd.OutOrStdout(), output, lines)
			}
			n, done, err := p.Apply(cmd.Context(), want)
			if err != nil {
				return explained(err)
			}
			out := cmd.OutOrStdout()
			config := n.ENIConfig(want)
			if err := doubts(cmd.ErrOrStderr(), want, config); err != nil {
				return err
			}
			switch output {
			case "json":
				if done == nil {
					done = []string{}
				}
				return writeJSON(out, struct {
					Done []string `json:"done"`
					*provision.Network
					ENIConfig provision.ENIConfig `json:"eniConfig"`
				}{done, n, config})
			case "values":
				return writeValues(out, config)
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
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text, json, or values: the chart's values alone")
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

func writePreview(w io.Writer, output string, lines []string) error {
	if output == "json" {
		if lines == nil {
			lines = []string{}
		}
		return writeJSON(w, map[string][]string{"wouldDo": lines})
	}
	if len(lines) == 0 {
		fmt.Fprintln(w, summary(0))
	}
	for _, l := range lines {
		fmt.Fprintln(w, "would", l)
	}
	return nil
}
