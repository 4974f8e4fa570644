// Package pods is the command "terwayctl pods": which ENI and vSwitch the address of each pod is of,
// and what the cloud, the NodeNetworks and the pods say differently. It only reads.
package pods

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cli/cloudflags"
	"terway.dev/terway/internal/cli/cluster"
	"terway.dev/terway/internal/cli/kubeflags"
	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/inventory"
	"terway.dev/terway/internal/zone"
)

// settle is how long a difference must last: an agent reports what has changed, and the controller
// acts on it, within seconds.
const settle = 15 * time.Second

// command is what the user wants.
type command struct {
	cloud cloudflags.Flags
	kube  kubeflags.Flags

	namespace, node string
	check, noCloud  bool
	// settle is the constant, but in tests.
	settle time.Duration
}

// NewCommand returns "terwayctl pods".
func NewCommand() *cobra.Command { return newCommand(settle) }

func newCommand(settle time.Duration) *cobra.Command {
	c := &command{settle: settle}
	c.kube.Timeout = &c.cloud.Timeout
	var output program.Output
	cmd := &cobra.Command{
		Use:   "pods",
		Short: "Show which ENI and vSwitch the address of each pod is of; find leaked and doubled addresses",
		Long: `Show each pod that has an address of the VPC: its address, the ENI and the vSwitch that
the address is of, and its node. Agents report these pods. A pod with the network of
its node, one that still waits for an address and one that another plugin gave its
address are not among them. -o json and -o yaml have the instance and the zone, too.

--check compares what NodeNetworks (the controller's and the agents' records), the pods
of the cluster and the cloud say, and lists below the table

  leak     an ENI or an address that is kept, and that nobody uses: an ENI in the cloud
           with the cluster's tags that no NodeNetwork has, an address that a node
           keeps for a pod which does not exist any more
  double   an address of two pods or nodes, an ENI of two nodes
  missing  an ENI or an address that a pod or a node counts on, and that is not there

While pods start and end, records differ for moments. So what is found is looked for
again after ` + settle.String() + `, and only what is still there is listed; then the exit status is 1.
The controller mends much of it within minutes; docs/terwayctl.md says what to do.
--no-cloud leaves the cloud out, and needs no credential. Nothing is changed.

It needs to list nodenetworks.network.terway.dev; for --check also the pods of all
namespaces, and in the cloud ecs:DescribeNetworkInterfaces, with a credential as for
"terwayctl vpc".`,
		Example: `  terwayctl pods
  terwayctl pods -n shop --node node1
  terwayctl pods --check
  terwayctl pods --check --no-cloud -o json`,
		Args: program.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := c.run(cmd)
			if err != nil {
				return err
			}
			return errors.Join(output.Write(cmd.OutOrStdout(), r, r.write), r.verdict())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&c.namespace, "namespace", "n", "", "the pods of one `NAMESPACE` (default: of all)")
	f.StringVar(&c.node, "node", "", "the pods of one `NODE` (default: of all)")
	f.BoolVar(&c.check, "check", false, "compare NodeNetworks, pods and the cloud")
	f.BoolVar(&c.noCloud, "no-cloud", false, "with --check: leave the cloud out")
	c.cloud.AddWithCluster(f)
	c.kube.Add(f)
	output.Add(f)
	return cmd
}

func (c *command) run(cmd *cobra.Command) (*report, error) {
	ctx := cmd.Context()
	switch {
	case c.check && (c.namespace != "" || c.node != ""):
		return nil, program.Usagef("--check with --namespace or --node: it compares the whole cluster; leave them out")
	case c.noCloud && !c.check:
		return nil, program.Usagef("--no-cloud without --check: the cloud is asked only then")
	}
	cfg, err := c.kube.Config(ctx)
	if err != nil {
		return nil, err
	}
	reader, err := cluster.New(cfg, "")
	if err != nil {
		return nil, err
	}
	networks, err := reader.Networks(ctx)
	if err != nil {
		return nil, err
	}
	if !c.check {
		return &report{Pods: slices.DeleteFunc(inventory.Addresses(networks), c.leftOut)}, nil
	}
	var api cloud.API
	if !c.noCloud {
		planned := ""
		if !cmd.Flags().Changed("region") {
			planned = regionOf(networks)
		}
		say := func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), line) }
		if api, _, err = c.cloud.Connect(planned, say); err != nil {
			return nil, err
		}
	}
	return c.compare(ctx, reader, api, cmd.ErrOrStderr())
}

func (c *command) leftOut(p inventory.PodAddress) bool {
	return c.node != "" && p.Node != c.node || c.namespace != "" && !strings.HasPrefix(p.Pod, c.namespace+"/")
}

func regionOf(networks []v1alpha1.NodeNetwork) string {
	for _, nn := range networks {
		if region := zone.Region(nn.Spec.Zone); region != "" {
			return region
		}
	}
	return ""
}

// compare reads all records, and again if they differ.
func (c *command) compare(ctx context.Context, reader *cluster.Reader, api cloud.API, progress io.Writer) (*report, error) {
	records, err := read(ctx, reader, api)
	if err != nil {
		return nil, err
	}
	found := records.Compare()
	if len(found) > 0 {
		fmt.Fprintf(progress, "%s, which may be changes under way: looking again in %s\n", plural(len(found), "difference"), c.settle)
		select {
		case <-time.After(c.settle):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if records, err = read(ctx, reader, api); err != nil {
			return nil, err
		}
		found = inventory.Lasting(found, records.Compare())
	}
	r := &report{Pods: inventory.Addresses(records.Networks), Findings: found, Compared: &compared{Nodes: len(records.Networks)}}
	r.Compared.Pods = len(r.Pods)
	if records.Cloud {
		n := len(records.ENIs)
		r.Compared.ENIs = &n
	}
	return r, nil
}

// read reads the records. The cloud comes last: what was created before a NodeNetwork was read is in
// the cloud's answer.
func read(ctx context.Context, reader *cluster.Reader, api cloud.API) (r *inventory.Records, err error) {
	r = &inventory.Records{}
	if r.Networks, err = reader.Networks(ctx); err != nil {
		return nil, err
	}
	if r.Pods, err = reader.Pods(ctx); err != nil || api == nil {
		return r, err
	}
	r.Cloud = true
	clusters, want := map[string]bool{}, map[string]bool{}
	for _, nn := range r.Networks {
		if nn.Spec.ClusterID != "" {
			clusters[nn.Spec.ClusterID] = true
		}
		for _, e := range nn.Spec.ENIs {
			if e.ID != "" {
				want[e.ID] = true
			}
		}
	}
	if len(clusters) == 0 {
		return nil, errors.New("no NodeNetwork has a clusterID, by which the cluster's ENIs are known in the cloud: want one that terway-controller has written; --no-cloud compares the rest")
	}
	for id := range clusters {
		list, err := api.DescribeENIs(ctx, cloud.ENIFilter{Tags: map[string]string{claims.TagCreator: claims.Creator, claims.TagCluster: id}})
		if err != nil {
			return nil, explain(ctx, fmt.Errorf("list the ENIs of cluster %s: %w", id, err))
		}
		add(r, list)
	}
	for _, e := range r.ENIs {
		delete(want, e.ID)
	}
	if len(want) == 0 {
		return r, nil
	}
	// Somebody may have removed the tags.
	var ids []string
	for id := range want {
		ids = append(ids, id)
	}
	list, err := api.DescribeENIs(ctx, cloud.ENIFilter{IDs: ids})
	if err != nil {
		return nil, explain(ctx, fmt.Errorf("read ENIs of the cluster's nodes: %w", err))
	}
	add(r, list)
	return r, nil
}

// add adds ENIs of the cloud, but not those that it is deleting.
func add(r *inventory.Records, list []cloud.ENI) {
	for _, e := range list {
		if e.Status == cloud.ENIDeleting {
			continue
		}
		x := inventory.CloudENI{ID: e.ID, Status: string(e.Status), Instance: e.InstanceID, VSwitch: e.VSwitchID,
			Node: e.Tags[claims.TagNode], Token: e.Tags[claims.TagToken], Primary: e.Primary.String()}
		for _, a := range e.Addresses {
			x.Addresses = append(x.Addresses, a.String())
		}
		r.ENIs = append(r.ENIs, x)
	}
}

func explain(ctx context.Context, err error) error {
	return cloudflags.Explain(ctx, err, "give your RAM user or role ecs:DescribeNetworkInterfaces, or leave the cloud out with --no-cloud")
}

// report is what is printed. Without --check there are only the pods.
type report struct {
	Pods     []inventory.PodAddress `json:"pods"`
	Findings []inventory.Finding    `json:"findings,omitzero"`
	Compared *compared              `json:"compared,omitempty"`
}

// compared says how much was compared.
type compared struct {
	Nodes int `json:"nodes"`
	// Pods are those with an address of the VPC.
	Pods int `json:"pods"`
	// ENIs are those of the cloud; nil if it was left out.
	ENIs *int `json:"enis,omitempty"`
}

func (c *compared) String() string {
	text := fmt.Sprintf("%s and %s", plural(c.Nodes, "node"), plural(c.Pods, "address", "es")+" of pods")
	if c.ENIs != nil {
		text += fmt.Sprintf(" with %s of the cloud", plural(*c.ENIs, "ENI"))
	}
	return text
}

func plural(n int, what string, ending ...string) string {
	switch {
	case n == 1:
		return "1 " + what
	case len(ending) > 0:
		what += ending[0]
	default:
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// write prints it for people.
func (r *report) write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "POD\tADDRESS\tENI\tVSWITCH\tNODE")
	for _, p := range r.Pods {
		eni := dash(p.ENI)
		if p.Exclusive {
			eni += " (exclusive)"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", p.Pod, p.Address, eni, dash(p.VSwitch), p.Node)
	}
	if err := t.Flush(); err != nil || r.Compared == nil {
		return err
	}
	fmt.Fprintf(w, "\ncompared: %s\n", r.Compared)
	for _, f := range r.Findings {
		fmt.Fprintf(w, "problem: %s: %s\n", strings.ToLower(f.Kind), f.Message)
	}
	return nil
}

// verdict is an error if anything was found.
func (r *report) verdict() error {
	if len(r.Findings) == 0 {
		return nil
	}
	count := map[string]int{}
	for _, f := range r.Findings {
		count[f.Kind]++
	}
	var parts []string
	for _, kind := range []string{inventory.Leak, inventory.Double, inventory.Missing} {
		if n := count[kind]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, strings.ToLower(kind)))
		}
	}
	return fmt.Errorf("%s: %s", plural(len(r.Findings), "problem"), strings.Join(parts, ", "))
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
