package instancetypes

import (
	"bytes"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/atomicfile"
	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/cli/cloudflags"
	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/cloud"
)

func refreshCommand(file *string) *cobra.Command {
	var flags cloudflags.Flags
	var out, date string
	var output program.Output
	cmd := &cobra.Command{
		Use:   "refresh",
		Short: "Update the catalogue from the cloud (DescribeInstanceTypes)",
		Long: `Reads all instance types from the cloud, prints which are new, changed and not offered
in the region, and writes the merged table with --out. Numbers that the cloud leaves
out (always the burst bandwidth) stay as they are; types that the region does not
offer stay too. Each row has its source.

The table is read with --catalogue, or built in: internal/catalog/instance-types.csv.

The credential comes from ALIBABA_CLOUD_ACCESS_KEY_ID and _SECRET (and _SECURITY_TOKEN),
the profiles of the aliyun command line, or the RAM role of the machine; it needs the
right ecs:DescribeInstanceTypes and no other.`,
		Example: `  terwayctl instance-types refresh --region cn-hangzhou
  terwayctl instance-types refresh --region cn-hangzhou --out types.csv
  terwayctl instance-types --catalogue types.csv --family g8i`,
		Args: program.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			day, err := time.Parse(time.DateOnly, date)
			if err != nil {
				return program.Usagef("--date %q: want a day such as 2026-01-31", date)
			}
			types, err := catalog.Open(*file)
			if err != nil {
				return program.Usagef("--catalogue: %w", err)
			}
			client, region, err := flags.Connect("", func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), line) })
			if err != nil {
				return err
			}
			live, err := client.DescribeInstanceTypes(cmd.Context(), func(n int) {
				fmt.Fprintf(cmd.ErrOrStderr(), "%d types so far\n", n)
			})
			if err != nil {
				return cloudflags.Explain(cmd.Context(), err, "let your RAM user or role do ecs:DescribeInstanceTypes")
			}
			merged, diff, err := types.Merge(rows(live), "DescribeInstanceTypes "+day.Format(time.DateOnly))
			if err != nil {
				return err
			}
			if out != "" {
				if err := save(out, merged); err != nil {
					return err
				}
			}
			return output.Write(cmd.OutOrStdout(), diff, func(w io.Writer) error { return tell(w, &diff, region, out) })
		},
	}
	flags.AddWithoutPlan(cmd.Flags())
	cmd.Flags().StringVar(&out, "out", "", "write the merged table to this `FILE`")
	cmd.Flags().StringVar(&date, "date", time.Now().Format(time.DateOnly), "the day that the rows' source names")
	output.Add(cmd.Flags())
	return cmd
}

// rows converts the cloud's types to rows of the catalogue: 0 means unknown.
func rows(live []cloud.TypeDescription) []catalog.Type {
	said := func(n int) catalog.Count { return catalog.Count{N: n, Known: n > 0} }
	types := make([]catalog.Type, 0, len(live))
	for _, d := range live {
		types = append(types, catalog.Type{Name: d.Name, Family: d.Family, VCPU: said(d.VCPU), MemoryGiB: d.MemoryGiB,
			ENIs: said(d.ENIs), IPv4PerENI: said(d.IPv4PerENI), IPv6PerENI: said(d.IPv6PerENI), ENITotal: said(d.ENITotal),
			Trunk: d.Trunk, TrunkKnown: true, BandwidthBase: catalog.GbitOfKbit(d.BandwidthKbit), Queues: said(d.Queues)})
	}
	return types
}

// save replaces the file atomically.
func save(path string, types *catalog.Catalog) error {
	var table bytes.Buffer
	err := types.Write(&table)
	if err == nil {
		err = atomicfile.Write(path, table.Bytes(), 0o644)
	}
	if err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	return nil
}

// tell prints what the cloud's answer changes.
func tell(w io.Writer, d *catalog.Diff, region, out string) error {
	list := func(what string, items []string) {
		if len(items) == 0 {
			return
		}
		fmt.Fprintf(w, "%s:\n", what)
		for _, i := range items {
			fmt.Fprintf(w, "  %s\n", i)
		}
	}
	var changed []string
	types := map[string]bool{}
	for _, c := range d.Changed {
		changed = append(changed, c.String())
		types[c.Type] = true
	}
	list("new", d.New)
	list("changed", changed)
	list("not offered in "+region+", their rows stay", d.Gone)
	_, err := fmt.Fprintf(w, "%d new, %d changed, %d as they were, %d not offered\n", len(d.New), len(types), d.Confirmed, len(d.Gone))
	if out != "" {
		_, err = fmt.Fprintf(w, "written to %s\n", out)
	}
	return err
}
