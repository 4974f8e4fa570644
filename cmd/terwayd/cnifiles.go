package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/agent"
)

// cniFilesCommand hides another network's CNI configuration from the runtime, or gives it back: "terwayctl
// migrate" runs it in a pod on the node.
func cniFilesCommand(f *flags) *cobra.Command {
	var disable, enable []string
	cmd := &cobra.Command{
		Use:   "cni-files",
		Short: "Disable another network's CNI configuration on this node by another name, or enable it again",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			off, err := agent.DisableConf(f.cniConfDir, disable)
			if err != nil {
				return err
			}
			on, err := agent.EnableConf(f.cniConfDir, enable)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "disabled %q, enabled %q\n", off, on)
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&disable, "disable", nil, "`NAMES` of files; missing ones, and Terway's own, are left alone")
	cmd.Flags().StringSliceVar(&enable, "enable", nil, "`NAMES` of files that were disabled")
	cmd.MarkFlagsOneRequired("disable", "enable")
	return cmd
}
