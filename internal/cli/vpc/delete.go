package vpc

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/cli/cloudflags"
	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/provision"
)

func deleteCommand(f *cloudflags.Flags) *cobra.Command {
	var yes, dryRun bool
	var output program.Output
	cmd := &cobra.Command{
		Use:   "delete FILE|NAME",
		Short: "Delete what \"vpc apply\" made; refused while anything in the VPC is in use",
		Long: `Delete the vSwitches, the security group and the VPC that carry the plan's tag.

While anything else is in the VPC (ENIs of instances or of a cluster, vSwitches and
security groups that do not belong to the plan), nothing is deleted, and the command
lists it with the owners.

It deletes only with --yes. Without, it prints what it would delete and is refused
(exit status 1); --dry-run prints the same, with exit status 0.`,
		Example: `  terwayctl vpc delete plan.yaml --dry-run
  terwayctl vpc delete plan.yaml --yes
  terwayctl vpc delete shop --region cn-hangzhou --yes`,
		Args: program.Args("FILE|NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if yes && dryRun {
				return program.Usagef("--yes and --dry-run: give one of them")
			}
			name, region, err := planOrName(args[0])
			if err != nil {
				return err
			}
			p, err := connect(cmd, f, region)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if yes {
				done, err := p.Delete(cmd.Context(), name)
				if err != nil {
					return explained(cmd.Context(), err)
				}
				return output.Write(out, deleted{done}, func(w io.Writer) error {
					for _, s := range done {
						fmt.Fprintln(w, "deleted", s.What())
					}
					return nothing(w, done, p.Region, name)
				})
			}
			steps, err := p.PreviewDelete(cmd.Context(), name)
			if err != nil {
				return explained(cmd.Context(), err)
			}
			if err := output.Write(out, wouldDelete{steps}, func(w io.Writer) error {
				return errors.Join(writeSteps(w, steps), nothing(w, steps, p.Region, name))
			}); err != nil || dryRun || len(steps) == 0 {
				return err
			}
			return errors.New("nothing was deleted: give --yes to delete this")
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "really delete")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be done")
	output.Add(cmd.Flags())
	return cmd
}

// deleted and wouldDelete are the result for programs.
type (
	deleted struct {
		Steps []provision.Step `json:"deleted"`
	}
	wouldDelete struct {
		Steps []provision.Step `json:"wouldDelete"`
	}
)

// nothing says that there are no steps.
func nothing(w io.Writer, steps []provision.Step, region, name string) (err error) {
	if len(steps) == 0 {
		_, err = fmt.Fprintf(w, "nothing to delete: no VPC of %s is plan %q's\n", region, name)
	}
	return err
}
