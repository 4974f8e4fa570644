package lab

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
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
	var out, jsonOut, zones string
	base, o := lab.Options{}, compare.Options{}
	cmd := &cobra.Command{
		Use:   "compare",
		Short: "Measure Terway and Flannel on one lab after the other and print the user guide's comparison",
		Long: `Starts a lab for each network, with Terway one for each datapath, measures it and takes
it down; a lab that is already running is taken down too. Prints a table: throughput and latency of pods
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
			if len(measured) > 0 {
				fmt.Fprintf(cmd.OutOrStdout(), "\n%s", r.Table())
			}
			if err != nil {
				return err // an incomplete comparison replaces no file
			}
			return keep(&r, out, jsonOut)
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
	f.StringVar(&jsonOut, "json", "", "write all that was measured to this `FILE`")
	return cmd
}

// keep writes the report files.
func keep(r *compare.Report, markdown, jsonFile string) error {
	write := func(path string, fill func(*bytes.Buffer) error) error {
		if path == "" {
			return nil
		}
		var b bytes.Buffer
		err := fill(&b)
		if err == nil {
			err = os.WriteFile(path, b.Bytes(), 0o644)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
		return nil
	}
	return errors.Join(
		write(markdown, func(b *bytes.Buffer) error { return r.WriteMarkdown(b) }),
		write(jsonFile, func(b *bytes.Buffer) error {
			e := json.NewEncoder(b)
			e.SetIndent("", "  ")
			return e.Encode(r)
		}))
}
