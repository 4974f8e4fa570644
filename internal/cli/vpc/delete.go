package vpc

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/cli/cloudflags"
)

func deleteCommand(f *cloudflags.Flags) *cobra.Command {
	var yes bool
	var output string
	cmd := &cobra.Command{
		Use:   "delete FILE|NAME",
		Short: "Delete what \"vpc apply\" made; refused while anything in the VPC is in use",
		Long: `Delete the vSwitches, the security group and the VPC that carry the plan's tag.

While anything else is in the VPC (ENIs of instances or of a cluster, vSwitches and
security groups that do not belong to the plan), nothing is deleted, and the command
lists it with the owners. Without --yes the command prints what it would delete.

With FILE the record of an interrupted growth (FILE.growing) is deleted too.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output, "text", "json"); err != nil {
				return err
			}
			name, region, file, err := planOrName(args[0])
			if err != nil {
				return err
			}
			p, err := connect(cmd, f, region)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if !yes {
				lines, err := p.PreviewDelete(cmd.Context(), name)
				if err != nil {
					return explained(err)
				}
				if len(lines) > 0 {
					if output == "json" {
						err = writeJSON(out, map[string][]string{"wouldDelete": lines})
					} else {
						for _, l := range lines {
							fmt.Fprintln(out, "would delete", l)
						}
					}
					return cmp.Or(err, errors.New("nothing was deleted: give --yes to delete this"))
				}
			}
			done, err := p.Delete(cmd.Context(), name)
			if err != nil {
				return explained(err)
			}
			if file != nil {
				if err := file.Forget(); err != nil {
					return err
				}
			}
			if output == "json" {
				if done == nil {
					done = []string{}
				}
				return writeJSON(out, map[string][]string{"deleted": done})
			}
			if len(done) == 0 {
				_, err = fmt.Fprintf(out, "nothing to delete: no VPC of %s is plan %q's\n", p.Region, name)
				return err
			}
			for _, l := range done {
				fmt.Fprintln(out, "deleted", l)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "really delete")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}
