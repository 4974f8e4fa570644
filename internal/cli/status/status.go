// Package status is the command "terwayctl status": what runs on each node of a cluster
// and why. It reads and changes nothing.
package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NewCommand makes "terwayctl status".
func NewCommand() *cobra.Command {
	c := cluster{}
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show which datapath each node of a cluster runs and why, its agent, ENIs and addresses",
		Long: `Show for each node of a cluster: its mode (pods share ENIs, or have one each), the
datapath that runs, whether its agent is ready, the ENIs attached of those that the
instance type may have, the addresses of shared ENIs that pods hold of those assigned,
and the ENIs that one pod has to itself of those that the node may have. Below: the
controller, why the nodes run their datapath, and problems. With any problem the exit
status is 1. -o json has each node's conditions and all pods that a problem is about.

It needs to list nodes, nodenetworks.network.terway.dev and the pods of Terway's namespace,
and to get the Deployment and the Lease "` + controllerName + `" there.`,
		Example: `  terwayctl status
  terwayctl status --kubeconfig ~/.kube/config --context prod -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output %q: must be text or json", output)
			}
			client, err := c.connect()
			if err != nil {
				return err
			}
			o, err := c.ask(cmd.Context(), client)
			if err != nil {
				return err
			}
			st := o.status()
			if output == "json" {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				err = enc.Encode(st)
			} else {
				err = st.WriteText(cmd.OutOrStdout())
			}
			return errors.Join(err, st.verdict())
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.kubeconfig, "kubeconfig", "", "the cluster's kubeconfig (default: KUBECONFIG, ~/.kube/config, or the pod's own account)")
	f.StringVar(&c.context, "context", "", "the context of the kubeconfig (default: its current one)")
	f.StringVarP(&c.namespace, "namespace", "n", metav1.NamespaceSystem, "where the cluster has Terway")
	f.DurationVar(&c.timeout, "timeout", 10*time.Second, "how long the cluster may take to answer")
	f.StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

// verdict is an error if the controller or a node has a problem.
func (st *Status) verdict() error {
	n := 0
	for _, node := range st.Nodes {
		if len(node.Problems) > 0 {
			n++
		}
	}
	var all []string
	if len(st.Controller.Problems) > 0 {
		all = append(all, "the controller has a problem")
	}
	if n > 0 {
		all = append(all, fmt.Sprintf("%d of %d nodes have problems", n, len(st.Nodes)))
	}
	if len(all) == 0 {
		return nil
	}
	return errors.New(strings.Join(all, "; "))
}

// WriteText prints a row for each node, and below what does not fit into a column.
func (st *Status) WriteText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "NODE\tMODE\tDATAPATH\tAGENT\tENIS\tADDRESSES\tOWN ENIS")
	for _, n := range st.Nodes {
		agent := "ready"
		if !n.AgentReady {
			agent = "not ready"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", n.Node, dash(n.Mode), dash(n.Datapath), agent, n.ENIs, n.Addresses, n.OwnENIs)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\ncontroller: %s\n", st.Controller)
	for _, g := range st.datapaths() {
		fmt.Fprintf(w, "datapath %s on %s: %s\n", g.name, few(g.nodes), g.why)
	}
	for _, p := range st.Controller.Problems {
		fmt.Fprintf(w, "problem: controller: %s\n", p)
	}
	for _, n := range st.Nodes {
		for _, p := range n.Problems {
			if _, err := fmt.Fprintf(w, "problem: %s: %s\n", n.Node, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// sameDatapath are nodes that run a datapath for the same reason.
type sameDatapath struct {
	name, why string
	nodes     []string
}

// datapaths groups the nodes, in the order of the first of each group.
func (st *Status) datapaths() []*sameDatapath {
	var all []*sameDatapath
	for _, n := range st.Nodes {
		if n.Datapath == "" || n.Why == "" {
			continue // that nothing runs is a problem, with the reason
		}
		i := slices.IndexFunc(all, func(g *sameDatapath) bool { return g.name == n.Datapath && g.why == n.Why })
		if i < 0 {
			i, all = len(all), append(all, &sameDatapath{name: n.Datapath, why: n.Why})
		}
		all[i].nodes = append(all[i].nodes, n.Node)
	}
	return all
}

func (s Share) String() string {
	if s == (Share{}) {
		return "-"
	}
	return fmt.Sprintf("%d/%d", s.Used, s.Total)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
