// Package config is the command "terwayctl config": it validates a configuration, and converts
// the configuration of the existing Terway. The rules are in internal/config.
package config

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/config"
)

// NewCommand returns "terwayctl config".
func NewCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check a configuration, or convert that of the existing Terway",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(checkCommand(), convertCommand())
	return cmd
}

func checkCommand() *cobra.Command {
	var running string
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Check a configuration and list every problem",
		Long: `Checks a configuration like the controller, and lists every problem.

FILE is the configuration alone, chart values (eniConfig: …) or the ConfigMap
eni-config as kubectl prints it; - is standard input.`,
		Example: `  terwayctl config check values.yaml
  kubectl -n kube-system get configmap eni-config -o yaml > running.yaml
  terwayctl config check values.yaml --running running.yaml`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			next, err := load(cmd, args[0])
			if err != nil {
				return err
			}
			if running == "" {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is right\n", args[0])
				return err
			}
			now, err := load(cmd, running)
			if err != nil {
				return err
			}
			if err := now.CanBecome(next); err != nil {
				return fmt.Errorf("%s:\n%w", args[0], err)
			}
			changes := config.Diff(now, next)
			for _, d := range changes {
				fmt.Fprintln(cmd.OutOrStdout(), d)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is right and changes %d keys of %s\n", args[0], len(changes), running)
			return err
		},
	}
	cmd.Flags().StringVar(&running, "running", "", "the configuration that the cluster has, a `FILE`: what would change, and may it?")
	return cmd
}

func load(cmd *cobra.Command, name string) (*config.Config, error) {
	data, err := read(cmd.InOrStdin(), name)
	if err != nil {
		return nil, err
	}
	c, err := config.FromFile(data)
	if err != nil {
		return nil, fmt.Errorf("%s:\n%w", name, err)
	}
	return c, nil
}

// sizeLimit is more than a ConfigMap can hold (Kubernetes: 1 MiB).
const sizeLimit = 2 << 20

func read(stdin io.Reader, name string) ([]byte, error) {
	from := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		from = f
	}
	data, err := io.ReadAll(io.LimitReader(from, sizeLimit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) > sizeLimit {
		return nil, errors.New(name + " is larger than 2 MiB: no configuration is")
	}
	return data, nil
}
