package config

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/config"
)

func convertCommand() *cobra.Command {
	var given config.Given
	var output string
	cmd := &cobra.Command{
		Use:   "convert OLD",
		Short: "Convert the eni_conf of the existing Terway",
		Long: `Converts a configuration of the existing Terway. OLD is its ConfigMap eni-config as
kubectl prints it, alone or in a List, or eni_conf alone (JSON); - is standard
input. The whole ConfigMap is better: its other keys say whether policies were
enforced and how pods were wired.

Standard output gets chart values (eniConfig: …), ready for "helm install -f".
Standard error gets a table with every key of OLD and its result:

  kept           the key is the same
  renamed        another key or value with the same meaning
  dropped        it is always so here, or has no effect
  elsewhere      it must be set in another place; secrets are never printed
  not supported  a function of the old cluster that is missing

It fails, after printing both, if OLD lacks a mandatory key, often cluster_id and
region; --cluster-id and --region set them.`,
		Example: `  kubectl -n kube-system get configmap eni-config -o yaml > old.yaml
  terwayctl config convert old.yaml --region cn-hangzhou > values.yaml`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := read(cmd.InOrStdin(), args[0])
			if err != nil {
				return err
			}
			c, err := config.Convert(data, given)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			switch output {
			case "text":
				err = text(cmd.OutOrStdout(), cmd.ErrOrStderr(), c)
			case "json":
				err = asJSON(cmd.OutOrStdout(), c)
			default:
				return fmt.Errorf("--output %q: want text or json", output)
			}
			if err == nil && c.Problem != nil {
				return fmt.Errorf("what was printed is not a configuration yet:\n%w", c.Problem)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&given.ClusterID, "cluster-id", "", "cluster_id, which tags the ENIs (default: the tag ack.aliyun.com of eni_tags, if there)")
	cmd.Flags().StringVar(&given.Region, "region", "", "region, for example cn-hangzhou (default: region_id, if there)")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text, or json: all in one object on standard output")
	return cmd
}

func text(out, report io.Writer, c *config.Conversion) error {
	b, err := yaml.Marshal(map[string]any{"eniConfig": c.Config})
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

func asJSON(out io.Writer, c *config.Conversion) error {
	problems := []string{}
	if c.Problem != nil {
		problems = strings.Split(c.Problem.Error(), "\n")
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(struct {
		*config.Conversion
		Problems []string `json:"problems"`
	}{c, problems})
}
