package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/compare"
)

func compareCommand(dir *string) *cobra.Command {
	var networks []string
	var out, zones string
	var output program.Output
	base, o := lab.Options{}, compare.Options{}
	cmd := &cobra.Command{
		Use:   "compare",
		Short: "Measure Terway and Flannel on one lab after the other and print the user guide's comparison",
		Long: `Starts a lab for each network, with Terway one for each datapath, measures it and takes
it down; while another lab runs it is refused. Prints a table, and with -o json or yaml all that was measured: throughput and latency of pods
as a ratio to their nodes', a NetworkPolicy, addresses held and used, route entries, a
bandwidth limit, requests that fail in rolling upgrades behind a load balancer. Every run measures every row. Takes about ten minutes and needs
root; other programs on the machine widen the ranges in the table.`,
		Args: program.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return errors.New("terway-lab compare needs root: it makes namespaces and cgroups")
			}
			var err error
			if base.Zones, err = lab.ParseZones(zones); err != nil {
				return err
			}
			base.Dir = *dir
			version, err := kernel.Version()
			if err != nil {
				return err
			}
			measured, err := compare.Run(cmd.Context(), base, networks, o, lab.NewProgress(cmd.ErrOrStderr(), time.Now))
			r := compare.Report{Date: time.Now().Format(time.DateOnly), Kernel: version, CPUs: runtime.NumCPU(),
				Nodes: base.Nodes, InstanceType: base.InstanceType, Rounds: o.Rounds, Upgrades: o.Upgrades, Pods: int(o.Pods), Networks: measured}
			return errors.Join(err, compared(cmd.OutOrStdout(), &output, &r, out, err == nil))
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&networks, "networks", []string{lab.NetworkTerway, lab.NetworkFlannel}, "the networks to measure")
	f.IntVar(&base.Nodes, "nodes", 3, "how many nodes")
	f.StringVar(&base.InstanceType, "instance-type", "ecs.g6.2xlarge", "the nodes' ECS instance type")
	f.StringVar(&zones, "zones", "1", "how many zones, or their names with commas")
	f.StringSliceVar(&o.Datapaths, "datapath", []string{compare.Auto, claims.Route, claims.ModeExclusive}, "how Terway wires pods, a column for each: "+
		strings.Join(config.Choices("datapath"), ", ")+"; or "+claims.ModeExclusive+" (an ENI for each pod)")
	f.StringVar(&base.Source, "source", "", "Terway's source tree (default: the working directory or above)")
	f.IntVar(&o.Rounds, "rounds", 41, "how many rounds of pods and nodes in turns")
	f.DurationVar(&o.Turn, "turn", 100*time.Millisecond, "how long pods, and nodes, stream and send requests in one round")
	f.IntVar(&o.Upgrades, "upgrades", 3, "how many rolling upgrades the pods behind a load balancer get")
	f.Int32Var(&o.Pods, "pods", 30, "how many pods are started to count addresses; with exclusive no more than there are ENIs for")
	f.StringVar(&out, "out", "", "write the document to this `FILE` (make compare: docs/comparison.md)")
	output.Add(f)
	return cmd
}

// compared prints what was measured, and writes the document if the comparison is whole.
func compared(w io.Writer, output *program.Output, r *compare.Report, document string, whole bool) error {
	if len(r.Networks) == 0 {
		return nil
	}
	if err := output.Write(w, r, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "\n%s", r.Table())
		return err
	}); err != nil || document == "" || !whole {
		return err
	}
	var b bytes.Buffer
	err := r.WriteMarkdown(&b)
	if err == nil {
		err = os.WriteFile(document, b.Bytes(), 0o644)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", document, err)
	}
	return nil
}
