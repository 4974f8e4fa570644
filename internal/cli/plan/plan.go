// Package plan is the command "terwayctl plan": it makes a plan or checks a file with package
// plan, and prints the result.
package plan

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/atomicfile"
	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/plan"
)

// options are the command's flags.
type options struct {
	request   plan.Request
	vpc       string
	service   string
	pods      string
	avoid     []string
	catalogue string
	out       string
	output    program.Output
	force     bool
	// zoneGiven says whether --zone was given.
	zoneGiven bool
}

// defaultZone is the zone of a plan for which nobody says one.
const defaultZone = "cn-hangzhou-i"

// NewCommand returns "terwayctl plan".
func NewCommand() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Plan a cluster's VPC, vSwitches and Service range",
		Long: `Plan a cluster's VPC, vSwitches and Service range.

Prints the ranges to use for a number of nodes of some instance types, how full each
vSwitch will be, how many pods a node holds, how far the cluster can grow and what
limits its growth. --out writes the plan to a file for "terwayctl vpc apply".

Nothing is created and the cloud is not called. Options that you do not set are chosen;
without any option you get the network of the user guide.`,
		Example: `  terwayctl plan
  terwayctl plan --zone cn-hangzhou-i,cn-hangzhou-j --nodes 20 --max-nodes 1000 --out plan.yaml
  terwayctl plan --instance-type ecs.g7.2xlarge --avoid 192.168.0.0/16,10.0.0.0/12
  terwayctl plan --network flannel --nodes 50 --pods-per-node 100
  terwayctl plan check plan.yaml`,
		Args: program.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.zoneGiven = cmd.Flags().Changed("zone")
			return o.run(cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	r := &o.request
	f.StringVar(&r.Name, "name", "", "name of the VPC (default: made of its range)")
	f.StringVar(&r.Region, "region", "", "the cloud region (default: that of the first zone)")
	f.StringSliceVar(&r.Zones, "zone", []string{defaultZone}, "`ZONES` of the nodes")
	f.StringVar(&r.Network, "network", claims.NetworkTerway, "terway, or flannel")
	f.StringVar(&r.Mode, "mode", "", "with Terway: shared (pods share ENIs; the default) or exclusive (an ENI for each pod)")
	f.BoolVar(&r.Prefixes, "prefixes", false, "with shared ENIs: /28 prefixes in place of single addresses")
	f.IntVar(&r.Nodes.Count, "nodes", 3, "nodes at first")
	f.IntVar(&r.Nodes.Max, "max-nodes", 0, "nodes that there must be room for later (default: --nodes)")
	f.StringSliceVar(&r.Nodes.InstanceTypes, "instance-type", []string{"ecs.g6.2xlarge"}, "instance `TYPES` of the nodes")
	f.IntVar(&r.Nodes.PodsPerNode, "pods-per-node", 0, "pods that a node is to hold (default: as many as it can)")
	f.StringVar(&o.vpc, "vpc-cidr", "", "the VPC's `RANGE`")
	f.StringVar(&o.service, "service-cidr", "", "the Service `RANGE`")
	f.StringVar(&o.pods, "pod-cidr", "", "with Flannel: the `RANGE` of the pods")
	f.StringSliceVar(&o.avoid, "avoid", nil, "`RANGES` that nothing may overlap: peered VPCs, data centres, other clusters")
	cmd.PersistentFlags().StringVar(&o.catalogue, "catalogue", "", "the table of instance types (`FILE`, which \"instance-types refresh\" writes) instead of the one built in")
	o.output.Add(f)
	f.Lookup("output").Usage = "text; json or yaml: the plan file alone"
	f.StringVar(&o.out, "out", "", "write the plan to this `FILE`")
	f.BoolVar(&o.force, "force", false, "let --out overwrite a file")
	cmd.AddCommand(newCheck(&o.catalogue))
	return cmd
}

// flags maps fields of the plan to the flags that set them.
var flags = map[string]string{
	"name": "--name", "region": "--region", "network": "--network", "mode": "--mode", "prefixes": "--prefixes",
	"vpc.cidr": "--vpc-cidr", "serviceCIDR": "--service-cidr", "podCIDR": "--pod-cidr", "zones": "--zone",
	"nodes.count": "--nodes", "nodes.max": "--max-nodes", "nodes.podsPerNode": "--pods-per-node",
	"nodes.instanceTypes": "--instance-type", "avoid": "--avoid",
}

func (o *options) run(w io.Writer) error {
	types, err := catalog.Open(o.catalogue)
	if err != nil {
		return program.Usagef("--catalogue: %w", err)
	}
	r := o.request
	r.Types = types
	if !o.zoneGiven && r.Region != "" && !strings.HasPrefix(defaultZone, r.Region+"-") {
		return program.Usagef("--region %s: want --zone, too: which zones of %s the nodes are in (the default is %s)", r.Region, r.Region, defaultZone)
	}
	if err := o.ranges(&r); err != nil {
		return err
	}
	p, err := plan.Propose(r)
	var problems plan.Problems
	if errors.As(err, &problems) {
		return program.Usage(o.wishes(problems))
	}
	if err != nil {
		return err
	}
	if o.out != "" {
		if err := write(o.out, p, o.force); err != nil {
			return err
		}
	}
	switch {
	case o.output.Is(program.YAML): // as in the file
		data, err := p.Marshal()
		if err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	case o.output.Machine():
		return o.output.Encode(w, p)
	}
	if err := text(w, p, plan.Measure(p, types)); err != nil || o.out == "" {
		return err
	}
	_, err = fmt.Fprintf(w, "\nWritten to %s. Next: terwayctl vpc apply %s\n", o.out, o.out)
	return err
}

// ranges parses the flags that are ranges; the error names all that are invalid.
func (o *options) ranges(r *plan.Request) error {
	var errs []error
	parse := func(flag, s string) (p netip.Prefix) {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %q: want a range such as 192.168.0.0/16", flag, s))
		}
		return p
	}
	for _, f := range []struct {
		flag, value string
		to          *netip.Prefix
	}{{"--vpc-cidr", o.vpc, &r.VPC}, {"--service-cidr", o.service, &r.ServiceCIDR}, {"--pod-cidr", o.pods, &r.PodCIDR}} {
		if f.value != "" {
			*f.to = parse(f.flag, f.value)
		}
	}
	for _, a := range o.avoid {
		r.Avoid = append(r.Avoid, parse("--avoid", a))
	}
	return program.Usage(errors.Join(errs...))
}

// field matches the name of a field of the plan in a text.
var field = regexp.MustCompile(`\b(vpc\.cidr|serviceCIDR|podCIDR|nodes\.\w+|avoid\[\d+\])`)

// wishes converts the problems of a request to problems of the flags.
func (o *options) wishes(problems plan.Problems) error {
	var said plan.Problems
	for _, p := range problems {
		if p.Field == "nodes.max" && o.request.Nodes.Max == 0 {
			if o.request.Nodes.Count < 1 {
				continue // it is --nodes, which is reported already
			}
			p.Field = "nodes.count"
		}
		name, _, _ := strings.Cut(p.Field, "[")
		if flag, ok := flags[name]; ok {
			p.Field = flag
		}
		p.Want = field.ReplaceAllStringFunc(p.Want, func(f string) string {
			name, _, _ := strings.Cut(f, "[")
			return flags[name]
		})
		said = append(said, p)
	}
	return said
}

// write writes the plan to the file atomically.
func write(file string, p *plan.Plan, force bool) error {
	data, err := p.Marshal()
	if err != nil {
		return err
	}
	put := atomicfile.Create
	if force {
		put = atomicfile.Write
	}
	if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() {
		return program.Usagef("--out %s: is a directory or a device: want a file", file)
	}
	err = put(file, data, 0o644)
	if errors.Is(err, os.ErrExist) {
		return program.Usagef("--out %s: the file exists; --force overwrites it", file)
	}
	if err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	return nil
}
