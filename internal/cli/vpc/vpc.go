// Package vpc is the command "terwayctl vpc": flags and output of package internal/provision.
// It has no logic of its own.
package vpc

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/utils/clock"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/cli/cloudflags"
	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/plan"
	"terway.dev/terway/internal/provision"
)

// NewCommand returns "terwayctl vpc".
func NewCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "vpc",
		Short: "Create, show, grow and delete the VPC of a network plan",
		Long: `Create, show, grow and delete the VPC of a network plan ("terwayctl plan" writes one).

Resources of a plan have the tag terway.dev/plan=NAME; no others are
changed or deleted. Every command may be interrupted and run again: what is done
already is not done twice. --dry-run says what apply, grow and delete would do.

The credential comes from ALIBABA_CLOUD_ACCESS_KEY_ID and _SECRET (and
_SECURITY_TOKEN), the profiles of the aliyun command line, or the RAM role of the
machine; deploy/ram-policy-vpc.json has the policy it needs. For the VPC of a lab:
eval $(terway-lab env).`,
	}
	f := &cloudflags.Flags{}
	f.Add(cmd.PersistentFlags())
	table := cmd.PersistentFlags().String("catalogue", "", "the table of instance types (`FILE`) that the plan was made with, if it is not the one built in")
	cmd.AddCommand(applyCommand(f, table), showCommand(f), growCommand(f, table), deleteCommand(f))
	return cmd
}

// connect makes a provisioner that reports its progress on standard error, so that the result
// is alone on standard output.
func connect(cmd *cobra.Command, f *cloudflags.Flags, planned string) (*provision.Provisioner, error) {
	began := time.Now()
	say := func(line string) {
		fmt.Fprintf(cmd.ErrOrStderr(), "%7.1fs  %s\n", time.Since(began).Seconds(), line)
	}
	client, region, err := f.Connect(planned, say)
	if err != nil {
		return nil, err
	}
	return &provision.Provisioner{
		Cloud: client, Region: region, Clock: clock.RealClock{},
		Poll: provision.DefaultPoll, Patience: provision.DefaultPatience, Settle: provision.DefaultSettle,
		Say: say,
	}, nil
}

func planFile(path, table string) (*provision.PlanFile, error) {
	types, err := catalog.Open(table)
	if err != nil {
		return nil, program.Usagef("--catalogue: %w", err)
	}
	return &provision.PlanFile{Path: path, Types: types}, nil
}

// planOrName reads an argument that is a plan's file or name.
func planOrName(arg string) (name, region string, err error) {
	info, err := os.Stat(arg)
	switch {
	case arg == "":
		return "", "", program.Usagef("the plan's name is empty: want a plan's file, or its name")
	case err == nil && !info.IsDir():
	case looksLikeFile(arg): // mistyped: no plan has such a name
		return "", "", program.Usagef("there is no file %s; want a plan's file, or its name", arg)
	default:
		return arg, "", nil
	}
	b, err := os.ReadFile(arg)
	if err != nil {
		return "", "", fmt.Errorf("read the plan: %w", err)
	}
	// What a plan has created can be shown and deleted even if the plan is no longer valid.
	p, err := plan.Parse(b)
	if err != nil {
		return "", "", fmt.Errorf("%s:\n%w", arg, err)
	}
	if p.Name == "" {
		return "", "", fmt.Errorf("%s: name is empty: want the name that the plan's VPC is tagged with", arg)
	}
	return p.Name, p.Region, nil
}

func looksLikeFile(arg string) bool {
	return strings.ContainsRune(arg, filepath.Separator) || slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(arg))
}

func explained(ctx context.Context, err error) error {
	return cloudflags.Explain(ctx, err, "attach the policy of deploy/ram-policy-vpc.json to your RAM user or role")
}

// doubts warns of parts of a plan that this version of Terway does not support.
func doubts(w io.Writer, p *plan.Plan, c provision.ENIConfig) error {
	b, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	if _, err := config.Parse(b); err != nil {
		fmt.Fprintf(w, "warning: this version of Terway refuses these values:\n%v\n", err)
	}
	if p.Prefixes {
		fmt.Fprintln(w, "warning: the plan counts on prefixes, which are not supported yet: nodes use single addresses, and hold as many pods as without prefixes")
	}
	return nil
}

// writeSteps prints what would be done.
func writeSteps(w io.Writer, steps []provision.Step) error {
	for _, s := range steps {
		if _, err := fmt.Fprintln(w, "would", s); err != nil {
			return err
		}
	}
	return nil
}

// values are the values of the chart that follow from the network.
type values struct {
	ENIConfig provision.ENIConfig `json:"eniConfig"`
}

func writeValues(w io.Writer, c provision.ENIConfig) error {
	b, err := yaml.Marshal(values{c})
	if err != nil {
		return fmt.Errorf("write the chart's values: %w", err)
	}
	_, err = w.Write(b)
	return err
}
