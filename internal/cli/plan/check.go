package plan

import (
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/plan"
)

func newCheck(catalogue *string) *cobra.Command {
	var output program.Output
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Check a plan against every rule, and print its capacity",
		Long: `Check a plan against every rule of the cloud and of the cluster.

All problems are printed at once, with the field, its value and what would be
right, and the command fails. For a valid plan it prints the capacity.
FILE is YAML or JSON; - is the standard input.`,
		Args: program.Args("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			types, err := catalog.Open(*catalogue)
			if err != nil {
				return program.Usagef("--catalogue: %w", err)
			}
			return check(cmd.OutOrStdout(), cmd.InOrStdin(), args[0], types, &output)
		},
	}
	output.Add(cmd.Flags())
	return cmd
}

// checked is a check's result for programs.
type checked struct {
	Problems plan.Problems  `json:"problems"`
	Plan     *plan.Plan     `json:"plan,omitempty"`
	Capacity *plan.Capacity `json:"capacity,omitempty"`
}

func check(w io.Writer, stdin io.Reader, file string, types plan.Catalog, output *program.Output) error {
	data, err := read(stdin, file)
	if err != nil {
		return err
	}
	p, err := plan.Read(data, types)
	result := checked{Problems: plan.Problems{}}
	switch {
	case errors.As(err, &result.Problems):
		err = fmt.Errorf("%s: %s", file, count(len(result.Problems), "problem"))
	case err != nil:
		return fmt.Errorf("%s: %w", file, err)
	default:
		capacity := plan.Measure(p, types)
		result.Plan, result.Capacity = p, &capacity
	}
	return errors.Join(err, output.Write(w, result, func(w io.Writer) error {
		if err != nil {
			return printProblems(w, result.Problems)
		}
		return text(w, p, *result.Capacity)
	}))
}

func read(stdin io.Reader, file string) ([]byte, error) {
	if file == "-" {
		data, err := io.ReadAll(stdin)
		if err != nil {
			return nil, fmt.Errorf("read the plan from the standard input: %w", err)
		}
		return data, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the plan: %w", err)
	}
	return data, nil
}

func printProblems(w io.Writer, problems plan.Problems) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "FIELD\tVALUE\tWANT")
	for _, p := range problems {
		value := p.Value
		if value == "" {
			value = "-"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\n", p.Field, value, p.Want)
	}
	return tw.Flush()
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
