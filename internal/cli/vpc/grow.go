package vpc

import (
	"context"
	"fmt"
	"io"
	"net/netip"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"

	"terway.dev/terway/internal/cli/cloudflags"
	"terway.dev/terway/internal/cli/kubeflags"
	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/plan"
	"terway.dev/terway/internal/provision"
	"terway.dev/terway/internal/provision/eniconfig"
)

func growCommand(f *cloudflags.Flags, table *string) *cobra.Command {
	var zone, cidr string
	var to, bits int
	var noCluster, dryRun bool
	var output program.Output
	kube := kubeflags.Flags{Timeout: &f.Timeout}
	cmd := &cobra.Command{
		Use:   "grow FILE --zone ZONE {--to N | --cidr RANGE}",
		Short: "Give a zone more Pod vSwitches: in a plan, in its VPC, and in a running cluster",
		Long: `Give a zone of a plan whose VPC exists the Pod vSwitches that it lacks to have N, or
the one with RANGE. A new one gets the next free range of the VPC, or one of a new
secondary range when the VPC is full. FILE is rewritten. The cluster's configuration
(ConfigMap eni-config) gets those of them that it lacks, and the controller uses them
without a restart.

N counts what the zone has. So the command may be repeated: once the zone, the VPC and
the cluster have what is asked for, it changes nothing. It takes nothing away.

The cluster is the one that kubectl would talk to; if none of its vSwitches is in the
VPC, it is another, and nothing is changed. --no-cluster leaves clusters alone.`,
		Example: `  terwayctl vpc show plan.yaml
  terwayctl vpc grow plan.yaml --zone cn-hangzhou-i --to 2 --dry-run
  terwayctl vpc grow plan.yaml --zone cn-hangzhou-i --to 2
  terwayctl vpc grow plan.yaml --zone cn-hangzhou-i --to 3 --bits 22 --kubeconfig ~/.kube/shop
  terwayctl vpc grow plan.yaml --zone cn-hangzhou-i --cidr 10.8.0.0/19 --no-cluster`,
		Args: program.Args("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			set := cmd.Flags().Changed
			ask := provision.Target{Zone: zone, VSwitches: to, Bits: bits}
			switch {
			case dryRun && output.Is(formatValues):
				return errNoValues
			case noCluster && (set("kubeconfig") || set("context")):
				return program.Usagef("--no-cluster with --kubeconfig or --context: leave one of them out")
			case set("to") == set("cidr"):
				return program.Usagef("want --to N, how many Pod vSwitches %s is to have, or --cidr RANGE, which one", zone)
			case set("to") && to < 1:
				return program.Usagef("--to %d: want 1 or more", to)
			case set("bits") && set("cidr"):
				return program.Usagef("--cidr %s and --bits %d: give one of them", cidr, bits)
			case bits < 16 || bits > 29:
				return program.Usagef("--bits %d: want 16 to 29", bits)
			case set("cidr"):
				var err error
				if ask.CIDR, err = netip.ParsePrefix(cidr); err != nil {
					return program.Usagef("--cidr %q: want a range such as 10.8.0.0/19", cidr)
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
			if !noCluster {
				if cluster, err = connectCluster(cmd.Context(), p, want, &kube); err != nil {
					return err
				}
			}
			if dryRun {
				steps, err := p.PreviewGrow(cmd.Context(), file, ask, cluster)
				if err != nil {
					return explained(cmd.Context(), err)
				}
				return output.Write(cmd.OutOrStdout(), wouldDo{steps}, func(w io.Writer) error {
					if len(steps) == 0 {
						fmt.Fprintln(w, enough(zone))
					}
					return writeSteps(w, steps)
				})
			}
			g, err := p.Grow(cmd.Context(), file, ask, cluster)
			if err != nil {
				return explained(cmd.Context(), err)
			}
			return writeGrown(cmd.OutOrStdout(), &output, args[0], g, cluster != nil)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&zone, "zone", "", "the zone whose pods need addresses (required)")
	fl.IntVar(&to, "to", 0, "how many Pod vSwitches the zone is to have")
	fl.StringVar(&cidr, "cidr", "", "the range of the Pod vSwitch that the zone is to have")
	fl.IntVar(&bits, "bits", plan.GrowthBits, "with --to: mask of a new vSwitch, 16 to 29")
	fl.BoolVar(&dryRun, "dry-run", false, "print what would be done")
	fl.BoolVar(&noCluster, "no-cluster", false, "change the plan and its VPC alone")
	kube.Add(fl)
	kube.AddTerway(fl)
	output.Add(fl, helpValues)
	if err := cmd.MarkFlagRequired("zone"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

// connectCluster connects to the cluster that will use the vSwitches. It fails for an unusable
// kubeconfig or another cluster, before anything is created.
func connectCluster(ctx context.Context, p *provision.Provisioner, want *plan.Plan, kube *kubeflags.Flags) (*provision.Cluster, error) {
	cfg, err := kube.Config(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w; --no-cluster changes the plan and its VPC alone", err)
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("make a client for the cluster at %s: %w", cfg.Host, err)
	}
	n, err := p.Show(ctx, want.Name)
	if err != nil {
		return nil, explained(ctx, err)
	}
	var ids []string
	for _, v := range n.VSwitches {
		ids = append(ids, v.ID)
	}
	cluster, err := eniconfig.Cluster(ctx, client, kube.Terway, p.Region, ids, p.Say)
	if err != nil {
		return nil, fmt.Errorf("the cluster at %s: %w", cfg.Host, err)
	}
	return cluster, nil
}

// enough says that a target is reached.
func enough(zone string) string {
	return "nothing to do: " + zone + " has the Pod vSwitches already"
}

func writeGrown(out io.Writer, output *program.Output, file string, g *provision.Grown, adopted bool) error {
	values := g.Network.ENIConfig(g.Plan)
	if output.Is(formatValues) {
		return writeValues(out, values)
	}
	if output.Machine() {
		return output.Encode(out, struct {
			Zone      string              `json:"zone"`
			VSwitches []provision.VSwitch `json:"vSwitches"`
			Done      []provision.Step    `json:"done"`
			Adopted   bool                `json:"adopted"`
			ENIConfig provision.ENIConfig `json:"eniConfig"`
		}{g.Zone, g.VSwitches, g.Done, adopted, values})
	}
	if len(g.Done) == 0 {
		fmt.Fprintln(out, enough(g.Zone))
	}
	for _, v := range g.VSwitches {
		fmt.Fprintf(out, "vSwitch %s (%s, %s) has %d addresses for pods of %s, %d of them free\n", v.ID, v.Name, v.CIDR, v.Addresses, g.Zone, v.Free)
	}
	fmt.Fprintf(out, "%s has them too\n\n", file)
	if adopted {
		fmt.Fprint(out, "the cluster uses them; so that the next \"helm upgrade\" keeps them, put this into the chart's values:\n\n")
	} else {
		fmt.Fprint(out, `no cluster was told: run the command again without --no-cluster, which creates no other
vSwitch. So that the next "helm upgrade" keeps them, put this into the chart's values:

`)
	}
	return writeValues(out, provision.ENIConfig{VSwitches: values.VSwitches})
}
