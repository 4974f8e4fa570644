// Package migrate is the command "terwayctl migrate": a cluster comes from another network to Terway, node
// by node. What is done in which order, and what is lost, is in package internal/migrate.
package migrate

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/cli/kubeflags"
	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/migrate"
)

// options are the flags.
type options struct {
	kubeflags.Flags
	output       program.Output
	ask          migrate.Ask
	accept       []string
	values       string
	yes, dryRun  bool
	drain, ready time.Duration
}

// NewCommand returns "terwayctl migrate".
func NewCommand() *cobra.Command {
	o := &options{}
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Migrate a cluster from Flannel or the existing Terway, node by node",
		Long: `Migrate a cluster from upstream's Flannel or the existing Terway to this one, node by
node: cordon, drain, switch, uncordon. docs/migrate.md says how it works and what it needs.

Without --yes, and with --dry-run, it changes nothing: it prints the nodes with their
state, what is done to each, what the cluster would lose, and what stands in the way. The
exit status is 1 while something stands in the way, or while a function is lost that
--accept-lost does not name. It may also name what this cluster or these nodes do not lose.

With --yes it first prepares the nodes: they get the label network.terway.dev/ignore, and
the old network's DaemonSets are confined to such nodes. Then you install the chart, and
run the command again: it takes one node after the other. After a failure or an interrupt
the same command goes on where it was.

With --rollback the nodes of --nodes go back to the old network.`,
		Example: `  terwayctl migrate --values my-values.yaml
  terwayctl migrate --accept-lost traffic-between-networks --nodes node1 --yes
  terwayctl migrate --rollback --nodes node1 --yes`,
		Args: program.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.ask.Back && len(o.ask.Nodes) == 0 {
				return program.Usagef("--rollback: --nodes says of which nodes")
			}
			if o.yes && o.dryRun {
				return program.Usagef("--yes and --dry-run: give one of them")
			}
			values, err := o.readValues()
			if err != nil {
				return err
			}
			c, host, err := connect(cmd.Context(), &o.Flags)
			if err != nil {
				return err
			}
			return o.run(cmd, c, host, values)
		},
	}
	f := cmd.Flags()
	o.Add(f)
	o.AddTerway(f)
	f.StringSliceVar(&o.ask.Nodes, "nodes", nil, "`NAMES` of the nodes to change (default: all that have the old network)")
	f.BoolVar(&o.ask.Back, "rollback", false, "the nodes go back to the old network")
	f.StringSliceVar(&o.accept, "accept-lost", nil, "`NAMES` of what may be lost, as the plan calls it")
	f.StringVarP(&o.values, "values", "f", "", "`FILE` with the chart's values, before Terway is installed: whether it will enforce network policies, and how many ENIs are exclusive")
	f.BoolVar(&o.yes, "yes", false, "do it; without, only the plan is printed")
	f.BoolVar(&o.dryRun, "dry-run", false, "print the plan, as without --yes")
	f.DurationVar(&o.drain, "drain-timeout", 10*time.Minute, "how long a node's pods may take to leave it")
	f.DurationVar(&o.ready, "ready-timeout", 5*time.Minute, "how long any other step may take")
	o.output.Add(f)
	return cmd
}

// values are those of the chart's values that a plan depends on.
type values struct {
	Policy struct {
		Enabled bool `json:"enabled"`
	} `json:"policy"`
	// ENIConfig are the keys of eniConfig that say how many pods a node has room for. Others may be missing, or wrong.
	ENIConfig struct {
		Mode          string `json:"mode"`
		ExclusiveENIs int    `json:"exclusive_enis"`
	} `json:"eniConfig"`
}

// readValues reads the file of --values, if there is one.
func (o *options) readValues() (*values, error) {
	v := &values{}
	if o.values != "" {
		data, err := os.ReadFile(o.values)
		if err != nil {
			return nil, fmt.Errorf("--values: %w", err)
		}
		if err := yaml.Unmarshal(data, v); err != nil {
			return nil, fmt.Errorf("--values %s: %w", o.values, err)
		}
	}
	c := &v.ENIConfig
	c.Mode = cmp.Or(c.Mode, claims.ModeShared) // the chart's default
	if c.Mode != claims.ModeShared && c.Mode != claims.ModeExclusive {
		return nil, fmt.Errorf("--values %s: eniConfig.mode: %q: want %s or %s", o.values, c.Mode, claims.ModeShared, claims.ModeExclusive)
	}
	if c.ExclusiveENIs < 0 {
		return nil, fmt.Errorf("--values %s: eniConfig.exclusive_enis: %d: want a number of ENIs", o.values, c.ExclusiveENIs)
	}
	return v, nil
}

// run makes the plan, prints it, and with --yes does it.
func (o *options) run(cmd *cobra.Command, c client.Client, host string, values *values) error {
	ctx := cmd.Context()
	objects, err := read(ctx, c, o.Terway)
	if err != nil {
		return explain(host, err)
	}
	objects.PolicyEnabled = values.Policy.Enabled
	objects.Config = &config.Config{Mode: values.ENIConfig.Mode, ExclusiveENIs: values.ENIConfig.ExclusiveENIs}
	p, err := migrate.Make(objects, o.ask)
	if err != nil {
		return err
	}
	missing, err := p.Accept(o.accept)
	if err != nil {
		return program.Usage(err)
	}
	if err := o.output.Write(cmd.OutOrStdout(), p, func(w io.Writer) error { return write(w, p) }); err != nil {
		return err
	}
	if err := verdict(p, missing); err != nil || !o.yes {
		return err
	}
	r := &runner{client: c, plan: p, namespace: o.Terway, drain: o.drain, ready: o.ready, sleep: sleep, report: cmd.ErrOrStderr()}
	return r.migrate(ctx)
}

// verdict returns why the plan cannot be done.
func verdict(p *migrate.Plan, missing []string) error {
	var errs []error
	if len(p.Problems) > 0 {
		errs = append(errs, fmt.Errorf("%d problems stand in the way", len(p.Problems)))
	}
	if len(missing) > 0 {
		errs = append(errs, fmt.Errorf("the cluster would lose functions: --accept-lost %s accepts that", strings.Join(missing, ",")))
	}
	return errors.Join(errs...)
}

// write prints a plan for people.
func write(w io.Writer, p *migrate.Plan) error {
	fmt.Fprintf(w, "from: %s (%s)\n\n", p.From, strings.Join(p.DaemonSets, ", "))
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "NODE\tNETWORK\tPODS\tCHANGES")
	for _, n := range p.Nodes {
		changes := "no"
		if slices.Contains(p.Change, n.Name) {
			changes = "yes"
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\n", n.Name, n.State, n.Pods, changes)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if !p.Back && !p.Confined {
		fmt.Fprintln(w, "first: the nodes get the label network.terway.dev/ignore, and the old network is confined to such nodes")
	}
	if !p.Back && !p.Installed {
		fmt.Fprintln(w, "then, by you: terwayctl install")
	}
	if len(p.Change) > 0 {
		fmt.Fprintln(w, "for each node that changes:")
		for i, s := range p.Steps {
			fmt.Fprintf(w, "  %d. %-9s %s\n", i+1, s, s.About())
		}
	}
	for _, l := range p.Losses {
		word := "lost"
		if l.Accepted {
			word = "lost, accepted"
		}
		fmt.Fprintf(w, "%s: %s: %s", word, l.Name, l.Why)
		if l.Instead != "" {
			fmt.Fprintf(w, " (instead: %s)", l.Instead)
		}
		fmt.Fprintln(w)
	}
	for _, n := range p.Notices {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	for _, s := range p.Problems {
		if _, err := fmt.Fprintf(w, "problem: %s\n", s); err != nil {
			return err
		}
	}
	return nil
}
