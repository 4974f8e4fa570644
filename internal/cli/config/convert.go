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
		Short: "Make a configuration of the existing Terway's eni_conf",
		Long: `Makes a configuration of the existing Terway's. OLD is its ConfigMap eni-config as
kubectl prints it, alone or in a List, or eni_conf alone (JSON); - is standard
input. The whole ConfigMap is better: whether policies were enforced and how pods
were wired is in its other keys.

Standard output gets chart values (eniConfig: …), ready for "helm install -f".
Standard error gets a table of every key of OLD and what became of it:

  kept           the key is ours too
  renamed        another key or value that means the same
  dropped        it is always so here, or nothing depends on it
  elsewhere      to be said in another place; nothing secret is ever printed
  not supported  something that the old cluster had is missing, and what

It fails, after printing both, when something is missing that OLD does not have:
cluster_id and region often; --cluster-id and --region give them.`,
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
