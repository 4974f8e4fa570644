package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
	"terway.dev/terway/internal/lab/verify/checks"
)

func verifyCommand(dir *string) *cobra.Command {
	var only []string
	var output program.Output
	var trouble bool
	r, suite := verify.Request{}, checks.All()
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check that the network of the running lab works; exit status 1 if a check fails",
		Example: `  terway-lab verify
  terway-lab verify --datapath route,ebpf,exclusive
  terway-lab verify --datapath all --only pod-to-service -o json`,
		Args: program.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := lab.LoadState(*dir)
			if err != nil {
				return err
			}
			var not []verify.NotFor
			if r.Checks, not, err = suite.Select(&s.Options, only, trouble); err != nil {
				return err
			}
			if err := verify.CheckDatapaths(s.Options.Network, r.Datapaths); err != nil {
				return err
			}
			// Output for programs is alone on standard output.
			w := cmd.OutOrStdout()
			if output.Machine() {
				w = cmd.ErrOrStderr()
			}
			groups, err := verify.Run(cmd.Context(), s, suite, r, reportTo(w))
			for _, n := range not {
				verify.WriteNotFor(w, n)
			}
			if len(r.Datapaths) > 0 && len(groups) > 0 {
				err = errors.Join(err, verify.WriteSummary(w, groups))
			}
			if output.Machine() {
				err = errors.Join(err, output.Encode(cmd.OutOrStdout(), verify.Summarize(groups, not)))
			}
			return errors.Join(err, verdict(groups, r.Datapaths))
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&only, "only", nil, "run only these checks, by name")
	f.BoolVar(&trouble, "trouble", false, "run the checks that make trouble, too")
	f.StringSliceVar(&r.Datapaths, "datapath", nil, "run the checks on each of these, moving the nodes there and back: "+
		strings.Join(verify.Datapaths(), ", ")+"; or "+verify.AllDatapaths+" that the kernel has (default: what the nodes run)")
	f.IntVar(&r.Parallel, "parallel", verify.DefaultParallel, "how many of the checks that change nothing for others run at a time (1: one after another)")
	f.StringVar(&r.From, "from", "", "the version from which upgrade goes to this one, and to which rollback goes back: a git tag or commit (default: the last tag before this commit)")
	f.DurationVar(&r.Traffic, "traffic", verify.DefaultTraffic, "how long agent-upgrade sends at least")
	output.Add(f)
	cmd.Long = cmd.Short + `.

With --datapath the nodes of the running lab are moved by the configuration (ConfigMap
eni-config), the system's pods are replaced on the datapath, the checks run, and at the
end, after a failure or an interrupt too, everything is put back. "` + instruments.Exclusive + `" is mode exclusive:
each pod has an ENI to itself. A datapath that the kernel lacks fails if it is named.

Checks:
`
	list := func(trouble bool) {
		for _, c := range suite.Checks {
			if c.Trouble == trouble {
				cmd.Long += fmt.Sprintf("  %-25s %s\n", c.Name, c.About)
			}
		}
	}
	list(false)
	cmd.Long += "\nChecks that make trouble around the network; they run with --trouble (but for " + slow() + "), or by name:\n"
	list(true)
	return cmd
}

// slow names the checks that take minutes.
func slow() string {
	var names []string
	for _, c := range checks.All().Checks {
		if c.Slow {
			names = append(names, c.Name)
		}
	}
	return strings.Join(names, ", ") + ", which waits for minutes"
}

// reportTo prints the run for people while it runs.
func reportTo(w io.Writer) verify.Report {
	return verify.Report{
		Moving: func(to string) { verify.WriteMoving(w, to) },
		Begin:  func(g *verify.Group) { verify.WriteBegin(w, g) },
		Result: func(r verify.Result) { verify.WriteLine(w, r) },
	}
}

// proof are the checks of "terway-lab up --verify": pods have addresses of the network and
// reach each other and Services. They take seconds.
func proof(network string) []string {
	address := "address-from-vswitch"
	if network == lab.NetworkFlannel {
		address = "address-from-block"
	}
	return []string{address, "pod-to-pod-cross-node", "pod-to-service"}
}

// prove runs these checks on a new lab.
func prove(ctx context.Context, w io.Writer, s *lab.State) error {
	if s.Options.Network == lab.NetworkNone || len(s.Machines) < 2 {
		_, err := fmt.Fprintln(w, "\nnothing is verified: the checks need a pod network and two nodes")
		return err
	}
	suite := checks.All()
	picked, _, err := suite.Select(&s.Options, proof(s.Options.Network), false)
	if err != nil {
		return err
	}
	fmt.Fprintln(w)
	groups, err := verify.Run(ctx, s, suite, verify.Request{Checks: picked, Traffic: verify.DefaultTraffic, Parallel: verify.DefaultParallel}, reportTo(w))
	return errors.Join(err, verdict(groups, nil))
}

// verdict returns the error of a run with failures. A datapath that the kernel does not support
// is no failure if all were requested.
func verdict(groups []*verify.Group, asked []string) error {
	all := len(asked) == 1 && asked[0] == verify.AllDatapaths
	var errs []error
	failed, ran := 0, 0
	for _, g := range groups {
		failed += g.Failed()
		ran += len(g.Results)
		switch {
		case g.Error != "":
			errs = append(errs, fmt.Errorf("datapath %s: %s", g.Datapath, g.Error))
		case g.Lacking != "" && !all:
			errs = append(errs, fmt.Errorf("datapath %s: %s", g.Datapath, g.Lacking))
		}
	}
	if failed > 0 {
		errs = append(errs, fmt.Errorf("%d of %d checks failed", failed, ran))
	}
	return errors.Join(errs...)
}
