// Package connectivity is the command "terwayctl connectivity": it makes pods on some nodes, tries
// connections between them, nodes, Services, DNS and the outside, says which hop loses packets, and
// removes the pods.
//
// It owns the namespaces with its label, and must change nothing else.
package connectivity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/internal/cli/agents"
	"terway.dev/terway/internal/cli/cluster"
	"terway.dev/terway/internal/cli/kubeflags"
	"terway.dev/terway/internal/cli/podexec"
	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/connectivity"
)

// The bounds of --sample: 20 nodes have 400 pairs.
const (
	standardSample = 3
	mostSample     = 20
)

const outputTable = "table"

// options are what the user wants.
type options struct {
	sample  int
	nodes   []string
	outside []string
	image   string
	wait    time.Duration
}

// NewCommand returns "terwayctl connectivity".
func NewCommand() *cobra.Command {
	var kube kubeflags.Flags
	var output program.Output
	var o options
	cmd := &cobra.Command{
		Use:   "connectivity",
		Short: "Try connections between pods, nodes, Services, DNS and the outside; say which hop loses packets",
		Long: `Start two pods on each of some nodes, and try connections: from pod to pod on the same
node and on every pair of nodes, from pods to nodes and back, to Services, to the
cluster's DNS, and to each --outside. Pods and nodes send what no single packet can
carry, so that a path with a small MTU is found. Each connection is tried for 8 s.

For those that fail it says which hop loses packets. First by what agents tell: a network
policy that denied a packet, an ENI without a device. Then by elimination: a hop that an
answered connection has passed works; suspected is the one on which most of the failed
ones have been. If several have been on just the same ones, it names them all: more
nodes (--sample) tell more apart. It sees no packet between two ENIs. Whether a datagram
has arrived at the other pod tells the way there from the way back.

Each pod runs the image of Terway's agents as an ordinary user without rights, in a
namespace of their own that is removed at the end, also after an interrupt. What a run
that was killed has left ends by itself, and the next run removes it.

It needs to list nodes, nodenetworks.network.terway.dev and namespaces, to create and
delete namespaces, and in the new one to get serviceaccounts, create pods and services,
list pods and events, and create pods/exec; in Terway's namespace to list pods, to get the
Deployment and the Lease terway-controller, and to get and create pods/exec: it runs
"terwayd probe" and "terwayd ask" in the agents' pods; in kube-system to list
endpointslices.discovery.k8s.io, and in default to get the Service kubernetes.`,
		Example: `  terwayctl connectivity
  terwayctl connectivity --sample 6 --outside www.aliyun.com:443
  terwayctl connectivity --node node1 --node node2 -o table`,
		Args: program.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(cmd.Flags().Changed("sample")); err != nil {
				return err
			}
			ctx := cmd.Context()
			cfg, err := kube.Config(ctx)
			if err != nil {
				return err
			}
			cfg.QPS = -1 // the API server sets the pace
			reader, err := cluster.New(cfg, kube.Terway)
			if err != nil {
				return err
			}
			// What is made must be removed after an interrupt, too.
			lasting, err := kube.Config(context.WithoutCancel(ctx))
			if err != nil {
				return err
			}
			scheme, err := cluster.Scheme()
			if err != nil {
				return err
			}
			writer, err := client.New(lasting, client.Options{Scheme: scheme})
			if err != nil {
				return fmt.Errorf("make a client for the cluster at %s: %w", cfg.Host, err)
			}
			fleet, err := agents.New(cfg, reader, kube.Terway)
			if err != nil {
				return err
			}
			runner, err := podexec.New(cfg)
			if err != nil {
				return err
			}
			r := &run{options: o, reader: reader, writer: writer, fleet: fleet, pods: runner, say: cmd.ErrOrStderr(), poll: poll}
			report, err := r.run(ctx)
			if report == nil {
				return err
			}
			return errors.Join(err, output.Write(cmd.OutOrStdout(), report, func(w io.Writer) error {
				return report.write(w, output.Is(outputTable))
			}), report.verdict())
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.sample, "sample", standardSample, "on how many nodes; each pair of them is tried, so the time of the cluster grows with its square")
	f.StringSliceVar(&o.nodes, "node", nil, "on this `NODE`, instead of a sample; may be repeated")
	f.StringSliceVar(&o.outside, "outside", nil, "also connect by TCP to this `HOST:PORT` outside the cluster; may be repeated")
	f.StringVar(&o.image, "image", "", "the image of the pods, with /usr/bin/terwayd (default: that of the agents, which nodes have already)")
	f.DurationVar(&o.wait, "wait", 2*time.Minute, "how long pods may take to start")
	kube.Add(f)
	kube.AddTerway(f)
	output.Add(f, outputTable+": a row for each connection")
	return cmd
}

func (o *options) check(sample bool) error {
	switch {
	case sample && len(o.nodes) > 0:
		return program.Usagef("--node and --sample: give one of them")
	case o.sample < 1 || o.sample > mostSample:
		return program.Usagef("--sample %d: want 1 to %d", o.sample, mostSample)
	case len(o.nodes) > mostSample:
		return program.Usagef("--node: there are %d: want %d at most", len(o.nodes), mostSample)
	case o.wait < time.Second:
		return program.Usagef("--wait %s: want 1s or more", o.wait)
	}
	for _, to := range o.outside {
		host, port, err := net.SplitHostPort(to)
		if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n == 0 || host == "" {
			return program.Usagef("--outside %s: want HOST:PORT, such as www.aliyun.com:443", to)
		}
	}
	return nil
}

// report is the result.
type report struct {
	Nodes    []string               `json:"nodes"`
	Counts   []connectivity.Count   `json:"counts"`
	Probes   []row                  `json:"probes"`
	Findings []connectivity.Finding `json:"findings"`
	// Lacks are sentences for people: what could not be tried or asked.
	Lacks []string `json:"lacks,omitempty"`
}

// row is a probe with what has become of it.
type row struct {
	ID       int                 `json:"id"`
	Kind     connectivity.Kind   `json:"kind"`
	Node     string              `json:"node"`
	Pod      string              `json:"pod,omitempty"`
	To       string              `json:"to"`
	Title    string              `json:"title"`
	Result   connectivity.Result `json:"result"`
	Attempts int                 `json:"attempts,omitempty"`
	Error    string              `json:"error,omitempty"`
	Path     []connectivity.Hop  `json:"path"`
}

// write prints it for people.
func (r *report) write(w io.Writer, rows bool) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	if rows {
		fmt.Fprintln(t, "CONNECTION\tTO\tRESULT\tERROR")
		for _, p := range r.Probes {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", p.Title, p.To, p.Result, podexec.Printable(p.Error))
		}
	} else {
		fmt.Fprintln(t, "CONNECTIONS\tANSWERED\tOF")
		for _, c := range r.Counts {
			fmt.Fprintf(t, "%s\t%d\t%d", c.Kind, c.Answered, c.Of)
			if c.Again > 0 {
				fmt.Fprintf(t, "\t(%d only when they were tried again)", c.Again)
			}
			if c.NotTried > 0 {
				fmt.Fprintf(t, "\t(%d not tried)", c.NotTried)
			}
			fmt.Fprintln(t)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nnodes: %s\n", strings.Join(r.Nodes, ", "))
	for _, l := range r.Lacks {
		fmt.Fprintln(w, "not tried:", l)
	}
	titles := map[int]string{}
	for _, p := range r.Probes {
		titles[p.ID] = p.Title
	}
	for _, f := range r.Findings {
		fmt.Fprintln(w, "problem:", f.Message)
		if len(f.Probes) > 0 {
			var of []string
			for _, id := range f.Probes {
				of = append(of, titles[id])
			}
			fmt.Fprintln(w, "  "+few(of))
		}
		if f.Next != "" {
			fmt.Fprintln(w, "  look at:", f.Next)
		}
	}
	return nil
}

// few joins the first of many.
func few(all []string) string {
	const most = 4
	if len(all) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(all[:most], ", "), len(all)-most)
	}
	return strings.Join(all, ", ")
}

// verdict is an error if anything was found, or not tried.
func (r *report) verdict() error {
	failed := 0
	for _, c := range r.Counts {
		failed += c.Of - c.Answered
	}
	switch {
	case failed > 0:
		return fmt.Errorf("%d of %d connections were not answered as they should be", failed, len(r.Probes))
	case len(r.Findings) > 0:
		return fmt.Errorf("%d of the pods did not start", len(r.Findings))
	case len(r.Lacks) > 0:
		return errors.New("not everything could be tried")
	}
	return nil
}
