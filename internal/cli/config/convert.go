package config

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/config"
)

func convertCommand() *cobra.Command {
	var given config.Given
	var accept []string
	var output program.Output
	cmd := &cobra.Command{
		Use:   "convert OLD",
		Short: "Convert the eni_conf of the existing Terway",
		Long: `Converts a configuration of the existing Terway. OLD is its ConfigMap eni-config as
kubectl prints it, alone or in a List, or eni_conf alone (JSON); - is standard
input. The whole ConfigMap is better: its other keys say whether policies were
enforced and how pods were wired.

Standard output gets chart values (eniConfig: …, and policy.enabled if network policies
were enforced), ready for "helm install -f".
Standard error gets a table with every key of OLD and its result:

  kept           the key is the same
  renamed        another key or value with the same meaning
  dropped        it is always so here, or has no effect
  elsewhere      it must be set in another place; secrets are never printed
  not supported  a function of the old cluster that is missing

It fails (exit status 1), after printing both, if a function is lost (not supported)
that --accept-lost does not name, or if OLD lacks a mandatory key, often cluster_id
and region; --cluster-id and --region set them.`,
		Example: `  kubectl -n kube-system get configmap eni-config -o yaml > old.yaml
  terwayctl config convert old.yaml --region cn-hangzhou > values.yaml
  terwayctl config convert old.yaml --region cn-hangzhou --accept-lost ip_warm_up_size > values.yaml`,
		Args: program.Args("OLD"),
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := read(cmd.InOrStdin(), args[0])
			if err != nil {
				return err
			}
			c, err := config.Convert(data, given)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			lost, err := lostOf(c, accept)
			if err != nil {
				return err
			}
			if output.Machine() {
				err = output.Encode(cmd.OutOrStdout(), forPrograms(c, lost))
			} else {
				err = text(cmd.OutOrStdout(), cmd.ErrOrStderr(), c)
			}
			if c.Problem != nil {
				err = errors.Join(err, fmt.Errorf("what was printed is not a configuration yet:\n%w", c.Problem))
			}
			if len(lost) > 0 {
				err = errors.Join(err, fmt.Errorf("the cluster would lose what these keys do: --accept-lost %s accepts that", strings.Join(lost, ",")))
			}
			return err
		},
	}
	cmd.Flags().StringVar(&given.ClusterID, "cluster-id", "", "cluster_id, which tags the ENIs (default: the tag ack.aliyun.com of eni_tags, if there)")
	cmd.Flags().StringVar(&given.Region, "region", "", "region, for example cn-hangzhou (default: region_id, if there)")
	cmd.Flags().StringSliceVar(&accept, "accept-lost", nil, "`KEYS` of OLD whose function may be lost")
	output.Add(cmd.Flags())
	cmd.Flags().Lookup("output").Usage = "text; json or yaml: all in one object on standard output"
	return cmd
}

// lostOf returns the keys whose function is lost and nobody has accepted.
func lostOf(c *config.Conversion, accept []string) ([]string, error) {
	lost, names := []string{}, map[string]bool{}
	for _, k := range c.Keys {
		if k.Outcome != config.Unsupported {
			continue
		}
		names[k.Key] = true
		if !slices.Contains(accept, k.Key) && !slices.Contains(lost, k.Key) {
			lost = append(lost, k.Key)
		}
	}
	for _, name := range accept {
		if !names[name] {
			return nil, program.Usagef("--accept-lost %s: is not lost: want keys of %s", name, strings.Join(slices.Sorted(maps.Keys(names)), ", "))
		}
	}
	return lost, nil
}

// values are the chart's.
func values(c *config.Conversion) map[string]any {
	all := map[string]any{"eniConfig": c.Config}
	if c.Policy {
		all["policy"] = map[string]any{"enabled": true}
	}
	return all
}

func text(out, report io.Writer, c *config.Conversion) error {
	b, err := yaml.Marshal(values(c))
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	if _, err := out.Write(b); err != nil {
		return err
	}
	tw := tabwriter.NewWriter(report, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "FROM\tKEY\tBECAME\tKEY NOW\tWHY")
	for _, k := range c.Keys {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", k.Source, k.Key, k.Outcome, dash(k.To), dash(k.Why))
	}
	return tw.Flush()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// conversion is the result for programs.
type conversion struct {
	Values   map[string]any  `json:"values"`
	Keys     []config.OldKey `json:"keys"`
	Lost     []string        `json:"lost"`
	Problems []string        `json:"problems"`
}

func forPrograms(c *config.Conversion, lost []string) conversion {
	problems := []string{}
	if c.Problem != nil {
		problems = strings.Split(c.Problem.Error(), "\n")
	}
	return conversion{values(c), c.Keys, lost, problems}
}
