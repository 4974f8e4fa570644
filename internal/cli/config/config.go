// Package config is the command "terwayctl config": it validates a configuration, and converts
// the configuration of the existing Terway. The rules are in internal/config.
package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/cli/chartvalues"
	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/config"
)

// NewCommand returns "terwayctl config".
func NewCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check a configuration, or convert that of the existing Terway",
	}
	cmd.AddCommand(checkCommand(), convertCommand())
	return cmd
}

func checkCommand() *cobra.Command {
	var running string
	var output program.Output
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Check a configuration and list every problem",
		Long: `Checks a configuration like the controller, and lists every problem.

FILE is the configuration alone, chart values (eniConfig: …) or the ConfigMap
eni-config as kubectl prints it; - is standard input. Of chart values all are
checked, by the chart's schema, as helm install does. It does not render the
chart, read Secrets, or ask the cluster or the cloud.`,
		Example: `  terwayctl config check values.yaml
  kubectl -n kube-system get configmap eni-config -o yaml > running.yaml
  terwayctl config check values.yaml --running running.yaml`,
		Args: program.Args("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c := checked{File: args[0], Problems: []string{}}
			next, err := c.load(cmd, args[0])
			if err != nil {
				return err
			}
			if running != "" && next != nil {
				if err := c.compare(cmd, next, running); err != nil {
					return err
				}
			}
			// Problems are the error, of which a program gets the list.
			err = c.problem()
			if err != nil && !output.Machine() {
				return err
			}
			return errors.Join(err, output.Write(cmd.OutOrStdout(), c, c.write))
		},
	}
	cmd.Flags().StringVar(&running, "running", "", "the configuration that the cluster has, a `FILE`: what would change, and may it?")
	output.Add(cmd.Flags())
	return cmd
}

// checked is what a check says.
type checked struct {
	File string `json:"file"`
	// What was checked: "the configuration", or "the chart's values".
	What     string   `json:"what"`
	Problems []string `json:"problems"`
	// Running is the file that it was compared with, Changes the keys that would change.
	Running string   `json:"running,omitempty"`
	Changes []string `json:"changes,omitzero"`
}

// load reads and checks the file; nil if there are problems.
func (c *checked) load(cmd *cobra.Command, name string) (*config.Config, error) {
	data, err := read(cmd.InOrStdin(), name)
	if err != nil {
		return nil, err
	}
	next, err := config.FromFile(data)
	if err != nil {
		c.Problems = append(c.Problems, strings.Split(err.Error(), "\n")...)
	}
	c.What = "the configuration"
	var values map[string]any
	if err := yaml.Unmarshal(data, &values); err == nil && values["eniConfig"] != nil {
		c.What = "the chart's values"
		wrong, err := chartvalues.Check(values)
		if err != nil {
			return nil, err
		}
		// What is wrong with eniConfig the controller's rules say better.
		c.Problems = append(c.Problems, slices.DeleteFunc(wrong, func(line string) bool {
			return next == nil && strings.HasPrefix(line, "eniConfig")
		})...)
	}
	if len(c.Problems) > 0 {
		return nil, nil
	}
	return next, nil
}

// compare says what becomes of the running configuration.
func (c *checked) compare(cmd *cobra.Command, next *config.Config, running string) error {
	now, err := load(cmd, running)
	if err != nil {
		return err
	}
	c.Running, c.Changes = running, []string{}
	if err := now.CanBecome(next); err != nil {
		c.Problems = append(c.Problems, strings.Split(err.Error(), "\n")...)
		return nil
	}
	for _, d := range config.Diff(now, next) {
		c.Changes = append(c.Changes, d.String())
	}
	return nil
}

func (c *checked) problem() error {
	if len(c.Problems) == 0 {
		return nil
	}
	return fmt.Errorf("%s:\n%s", c.File, strings.Join(c.Problems, "\n"))
}

func (c *checked) write(w io.Writer) (err error) {
	for _, d := range c.Changes {
		fmt.Fprintln(w, d)
	}
	switch {
	case len(c.Problems) > 0:
	case c.Running == "":
		_, err = fmt.Fprintf(w, "%s: %s: valid\n", c.File, c.What)
	default:
		_, err = fmt.Fprintf(w, "%s: %s: valid; changes %d keys of %s\n", c.File, c.What, len(c.Changes), c.Running)
	}
	return err
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
