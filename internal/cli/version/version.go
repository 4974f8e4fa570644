// Package version is --version and the command "version" of every program with commands, and the metric of the same
// content. Package internal/version knows the values.
package version

import (
	"fmt"
	"io"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/version"
)

// Add gives a program's root command the flag --version and the command "version".
func Add(root *cobra.Command) {
	root.Version = version.Get().String()
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	var output program.Output
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the program's version",
		Args:  program.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return output.Write(cmd.OutOrStdout(), version.Get(), func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s %s\n", root.Name(), root.Version)
				return err
			})
		},
	}
	output.Add(cmd.Flags())
	root.AddCommand(cmd)
}

// Metric returns terway_build_info of a program: always 1, so that a sum over its labels counts the instances of each version.
func Metric(program string) prometheus.Collector {
	i := version.Get()
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "terway_build_info",
		Help:        "Always 1; the labels say which program runs, its version, the commit of its source and Go's version.",
		ConstLabels: prometheus.Labels{"program": program, "version": i.Version, "commit": i.Commit, "goversion": i.Go},
	}, func() float64 { return 1 })
}
