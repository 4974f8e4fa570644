package vpc

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"terway.dev/terway/internal/cli/cloudflags"
	"terway.dev/terway/internal/plan"
	"terway.dev/terway/internal/provision"
	"terway.dev/terway/internal/provision/eniconfig"
)

func growCommand(f *cloudflags.Flags, table *string) *cobra.Command {
	var zone, cidr, kubeconfig, namespace, output string
	var bits int
	cmd := &cobra.Command{
		Use:   "grow FILE --zone ZONE",
		Short: "Add a Pod vSwitch to a plan and its VPC, and to a running cluster",
		Long: `Add a Pod vSwitch to a plan whose VPC exists: the next free range of the VPC, or
one of a new secondary range when the VPC is full. FILE is rewritten. With
--kubeconfig the cluster's configuration (ConfigMap eni-config) gets the vSwitch
too, and the controller uses it without a restart. If the plan has a Pod vSwitch in
ZONE that the cluster does not use, the cluster gets that one, and no other is created;
with --bits or --cidr only one with that mask or range, others are skipped.

The next run completes an interrupted one and adds no other vSwitch; until
then FILE.growing records it.`,
		Example: `  terwayctl vpc grow plan.yaml --zone cn-hangzhou-i --kubeconfig ~/.kube/config
  terwayctl vpc grow plan.yaml --zone cn-hangzhou-i --bits 22
  terwayctl vpc grow plan.yaml --zone cn-hangzhou-i --cidr 10.8.0.0/19`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output, "text", "json", "values"); err != nil {
				return err
			}
			ask := plan.Growth{Zone: zone}
			if cmd.Flags().Changed("bits") {
				if ask.Bits = bits; bits == 0 { // 0 would mean the default
					return errors.New("--bits 0: want 16 to 29")
				}
			}
			if cidr != "" {
				if cmd.Flags().Changed("bits") {
					return fmt.Errorf("--cidr %s and --bits %d: give one of them", cidr, bits)
				}
				var err error
				if ask.CIDR, err = netip.ParsePrefix(cidr); err != nil {
					return fmt.Errorf("--cidr %q: want a range such as 10.8.0.0/19", cidr)
				}
			}
			file, err := planFile(args[0], *table)
			if err != nil {
				return err
			}
			want, err := file.Load()
			if err != nil {
				return err
			}
			p, err := connect(cmd, f, want.Region)
			if err != nil {
				return err
			}
			var cluster *provision.Cluster
			if kubeconfig != "" {
				if cluster, err = connectCluster(cmd.Context(), p, want, kubeconfig, namespace); err != nil {
					return err
				}
			}
			g, err := p.Grow(cmd.Context(), file, ask, cluster)
			if err != nil {
				return explained(err)
			}
			return writeGrown(cmd, output, args[0], g, cluster != nil)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&zone, "zone", "", "the zone whose pods need addresses (required)")
	fl.IntVar(&bits, "bits", plan.GrowthBits, "mask of the vSwitch, 16 to 29")
	fl.StringVar(&cidr, "cidr", "", "this range, in place of the next free one")
	fl.StringVar(&kubeconfig, "kubeconfig", "", "a cluster that is to use the vSwitch now")
	fl.StringVarP(&namespace, "namespace", "n", metav1.NamespaceSystem, "where the cluster has Terway")
	fl.StringVarP(&output, "output", "o", "text", "text, json, or values: the chart's values alone")
	if err := cmd.MarkFlagRequired("zone"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

// connectCluster connects to the cluster that will use the vSwitch. It fails for an unusable
// kubeconfig or another cluster, before anything is created.
func connectCluster(ctx context.Context, p *provision.Provisioner, want *plan.Plan, kubeconfig, namespace string) (*provision.Cluster, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("--kubeconfig %s: %w", kubeconfig, err)
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("--kubeconfig %s: %w", kubeconfig, err)
	}
	n, err := p.Show(ctx, want.Name)
	if err != nil {
		return nil, explained(err)
	}
	var ids []string
	for _, v := range n.VSwitches {
		ids = append(ids, v.ID)
	}
	cluster, err := eniconfig.Cluster(ctx, client, namespace, p.Region, ids, p.Say)
	if err != nil {
		return nil, fmt.Errorf("--kubeconfig %s: %w", kubeconfig, err)
	}
	return cluster, nil
}

func writeGrown(cmd *cobra.Command, output, file string, g *provision.Grown, adopted bool) error {
	out := cmd.OutOrStdout()
	values := g.Network.ENIConfig(g.Plan)
	switch output {
	case "json":
		return writeJSON(out, struct {
			Zone      string              `json:"zone"`
			VSwitch   provision.VSwitch   `json:"vSwitch"`
			Resumed   bool                `json:"resumed"`
			Adopted   bool                `json:"adopted"`
			ENIConfig provision.ENIConfig `json:"eniConfig"`
		}{g.Zone, g.VSwitch, g.Resumed, adopted, values})
	case "values":
		return writeValues(out, values)
	}
	fmt.Fprintf(out, "vSwitch %s (%s, %s) has %d addresses for pods of %s; %s has it too\n\n", g.VSwitch.ID, g.VSwitch.Name, g.VSwitch.CIDR, g.VSwitch.Addresses, g.Zone, file)
	if adopted {
		fmt.Fprint(out, "the cluster uses it now; so that the next \"helm upgrade\" keeps it, put this into the chart's values:\n\n")
	} else {
		fmt.Fprintf(out, `no cluster uses it: run the command again with --kubeconfig, which creates no other
vSwitch. So that the next "helm upgrade" keeps it, put this into the chart's values:

`)
	}
	return writeValues(out, provision.ENIConfig{VSwitches: values.VSwitches})
}
