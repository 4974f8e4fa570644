package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/conformance"
	"terway.dev/terway/internal/lab/verify"
)

func conformanceCommand(dir *string) *cobra.Command {
	var suites, datapaths []string
	var running, keep bool
	var output program.Output
	base, r := lab.Options{}, conformance.Request{}
	cmd := &cobra.Command{
		Use:   "conformance",
		Short: "Run other projects' conformance suites; exit status 1 if a spec fails that is not known to",
		Example: `  terway-lab conformance --datapath route,ebpf --suites netpol
  terway-lab conformance --running --selection -o json`,
		Args: program.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return errors.New("terway-lab conformance needs root: it makes namespaces and cgroups")
			}
			if keep && r.Selection {
				return program.Usagef("--keep with --selection: only whole suites are kept; leave one of them out")
			}
			var err error
			if r.Suites, err = conformance.PickSuites(suites); err != nil {
				return err
			}
			if err := r.Check(); err != nil {
				return err
			}
			// Output for programs is alone on standard output.
			w := cmd.OutOrStdout()
			if output.Machine() {
				w = cmd.ErrOrStderr()
			}
			p := lab.NewProgress(w, time.Now)
			var outcomes []conformance.Outcome
			base.Dir = *dir
			if running {
				outcomes, err = onRunning(cmd.Context(), &base, datapaths, r, p)
			} else {
				outcomes, err = onEach(cmd.Context(), &base, datapaths, r, p)
			}
			if err == nil {
				err = conformance.CheckRan(outcomes)
			}
			err = errors.Join(err, conformance.WriteText(w, outcomes))
			if output.Machine() {
				err = errors.Join(err, output.Encode(cmd.OutOrStdout(), outcomes))
			}
			if keep && len(outcomes) > 0 {
				err = errors.Join(err, conformance.Keep(base.Source, outcomes))
			}
			return errors.Join(err, conformance.Unexpected(outcomes))
		},
	}
	var about []string
	for _, s := range conformance.Suites() {
		about = append(about, fmt.Sprintf("  %-24s %s (%d specs)", s.Name, s.About, s.Count))
	}
	cmd.Long = cmd.Short + `.

Starts a lab with network policies and two zones for each kind of pods, runs the suites on it, and takes it down; a lab that is
already running refuses it, except with --running. Suites of network policies run only where these are enforced, that of
NLBs only in two zones.
The suites' programs are built the first time, which takes some minutes; the suites themselves take about an hour and a quarter for each kind.

Suites:
` + strings.Join(about, "\n")
	f := cmd.Flags()
	f.StringSliceVar(&suites, "suites", nil, "run only these, by name")
	f.StringSliceVar(&datapaths, "datapath", nil, "the kinds of pods: "+strings.Join(verify.Datapaths(), ", ")+" (default: those that the kernel has)")
	f.BoolVar(&running, "running", false, "run them on the running lab, as it is")
	f.BoolVar(&r.Selection, "selection", false, "run only some specs of each suite, which take a few minutes")
	f.IntVar(&r.Procs, "procs", 3, "how many specs of e2e.test run at once; with exclusive ENIs one")
	f.IntVar(&base.Nodes, "nodes", 2, "how many nodes")
	f.StringVar(&base.Source, "source", "", "Terway's source tree (default: the working directory or above)")
	f.StringVar(&r.Logs, "logs", "/var/tmp/terway-conformance", "the folder for what the suites print and report")
	f.BoolVar(&keep, "keep", false, "put the results into the source tree: docs/conformance.md and test/conformance (make test-conformance DOC=1)")
	output.Add(f)
	return cmd
}

// onRunning runs the suites on the running lab, whose source tree becomes that of base.
func onRunning(ctx context.Context, base *lab.Options, datapaths []string, r conformance.Request, p *lab.Progress) ([]conformance.Outcome, error) {
	if len(datapaths) > 0 {
		return nil, errors.New("--datapath with --running: the running lab has its own; leave one of them out")
	}
	s, err := lab.LoadState(base.Dir)
	if err != nil {
		return nil, err
	}
	base.Source = s.Options.Source
	return conformance.Run(ctx, s, r, p)
}

// onEach runs the suites on a lab for each kind of pods; the labs' source tree becomes that of base.
func onEach(ctx context.Context, base *lab.Options, datapaths []string, r conformance.Request, p *lab.Progress) (_ []conformance.Outcome, err error) {
	if len(datapaths) == 0 {
		if datapaths, err = conformance.Kinds(); err != nil {
			return nil, err
		}
	}
	if base.Zones, err = lab.ParseZones("2"); err != nil {
		return nil, err
	}
	labs, err := conformance.Labs(*base, datapaths)
	if err != nil {
		return nil, err
	}
	base.Source = labs[0].Source
	return conformance.RunEach(ctx, labs, r, p)
}
