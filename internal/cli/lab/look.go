package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/lab"
)

func statusCommand(dir *string) *cobra.Command {
	var output program.Output
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the running lab; exit status 1 if something is wrong with it",
		Args:  program.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := lab.LoadState(*dir)
			if err != nil {
				return err
			}
			st := s.Inspect(cmd.Context())
			err = output.Write(cmd.OutOrStdout(), st, st.WriteText)
			if err == nil && !st.Ready {
				err = fmt.Errorf("the lab has %d problems", len(st.Problems))
			}
			return err
		},
	}
	output.Add(cmd.Flags())
	return cmd
}

func kubeconfigCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print the path of the cluster's kubeconfig",
		Args:  program.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := lab.LoadState(*dir)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), s.Options.Kubeconfig())
			return err
		},
	}
}

func envCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "env",
		Short: "Print shell commands that point kubectl, terwayctl vpc and the cloud's SDKs at the lab",
		Long: `Print shell commands that point kubectl, "terwayctl vpc" and the cloud's SDKs at
the lab, and put the lab's terway-lab, terwayctl, kubectl and helm into PATH:
eval $(terway-lab env). $ECS_ENDPOINT is the simulated cloud's: $ECS_ENDPOINT/_admin/view
shows its state.`,
		Args: program.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := lab.LoadState(*dir)
			if err != nil {
				return err
			}
			for _, v := range s.Env() {
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "export %s=%s;\n", v[0], quote(v[1])); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func shellCommand(dir *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "shell NODE [COMMAND…]",
		Short: "Run a command, or a shell, inside a node (or \"master\", the control plane's instance)",
		Args:  program.Args("NODE", "[COMMAND…]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := lab.LoadState(*dir)
			if err != nil {
				return err
			}
			c, err := s.Shell(args[0], args[1:])
			if err != nil {
				return err
			}
			c.Stdin, c.Stdout, c.Stderr = os.Stdin, cmd.OutOrStdout(), cmd.ErrOrStderr()
			err = c.Run()
			// The exit status is that of the command.
			if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
				os.Exit(exit.ExitCode())
			}
			return err
		},
	}
	// Flags after the node's name belong to the command.
	cmd.Flags().SetInterspersed(false)
	return cmd
}
