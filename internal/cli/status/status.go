// Package status is the command "terwayctl status": the state of each node of a cluster. It
// only reads.
package status

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/cli/agents"
	"terway.dev/terway/internal/cli/cluster"
	"terway.dev/terway/internal/cli/kubeflags"
	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/inventory"
)

// poll is the time between two looks of --wait.
const poll = 2 * time.Second

// NewCommand returns "terwayctl status".
func NewCommand() *cobra.Command { return newCommand(poll) }

func newCommand(poll time.Duration) *cobra.Command {
	var kube kubeflags.Flags
	var output program.Output
	var pods bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show which datapath each node of a cluster runs and why, its agent, ENIs and addresses",
		Long: `Show for each node of a cluster: its mode (pods share ENIs, or have one each), the
active datapath, whether its agent is ready, the attached ENIs and the maximum of the
instance type, the used and assigned addresses of shared ENIs, and the used exclusive
ENIs and the maximum of the node. Below: the
controller, why the nodes run their datapath, and problems. With any problem the exit
status is 1. -o json has each node's conditions and all pods that a problem affects.

With --pods it also shows, for each pod with a bandwidth limit, how much it has received
(ingress) and sent (egress) while the command counted, for 10 s, and its limits; and the
network priority of each pod that has one.

With --wait it first waits until there is no problem, also for a cluster that cannot be
reached yet or in which Terway is not installed yet, and says on standard error what it
waits for. If a problem is left when the time is over, the exit status is 1.

It needs to list nodes, nodenetworks.network.terway.dev and the pods of Terway's namespace,
and to get the Deployment and the Lease "` + inventory.ControllerName + `" there; for --pods also to
get and create pods/exec there: it runs "terwayd ask" in the agents' pods.`,
		Example: `  terwayctl status
  terwayctl status --pods
  terwayctl status --wait
  terwayctl status --wait=15m -o json
  terwayctl status --kubeconfig ~/.kube/config --context prod -o json`,
		Args: program.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if wait < 0 {
				return program.Usagef("--wait=%s: want a duration such as 5m", wait)
			}
			cfg, err := kube.Config(cmd.Context())
			if err != nil {
				return err
			}
			reader, err := cluster.New(cfg, kube.Terway)
			if err != nil {
				return err
			}
			look := reader.Objects
			if cmd.Flags().Changed(flagWait) {
				look = waiter{look: look, most: wait, poll: poll, say: cmd.ErrOrStderr()}.until
			}
			o, err := look(cmd.Context())
			if err != nil {
				return err
			}
			r := report{Status: o.Status()}
			var measured error
			if pods {
				fleet, err := agents.New(cfg, reader, kube.Terway)
				if err != nil {
					return err
				}
				r.Pods = limitedPods(o.Networks)
				measured = measure(cmd.Context(), fleet, r.Pods, span)
			}
			return errors.Join(output.Write(cmd.OutOrStdout(), r, r.write), measured, r.Verdict())
		},
	}
	f := cmd.Flags()
	kube.Add(f)
	kube.AddTerway(f)
	f.BoolVar(&pods, "pods", false, "also the pods with a bandwidth limit and their rates, for which it counts for 10 s")
	f.DurationVar(&wait, flagWait, 0, "wait until there is no problem, for at most `DURATION` (5m if it is left out)")
	f.Lookup(flagWait).NoOptDefVal = standardWait.String()
	output.Add(f)
	return cmd
}

// report is all that is printed.
type report struct {
	*inventory.Status
	// Pods is nil if they were not asked for.
	Pods []LimitedPod `json:"pods,omitzero"`
}

// write prints it for people.
func (r report) write(w io.Writer) error {
	if err := writeText(w, r.Status); err != nil || r.Pods == nil {
		return err
	}
	return writePods(w, r.Pods)
}

// writeText prints a row for each node, and below the table what does not fit into a column.
func writeText(w io.Writer, st *inventory.Status) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "NODE\tMODE\tDATAPATH\tAGENT\tENIS\tADDRESSES\tEXCLUSIVE")
	for _, n := range st.Nodes {
		agent := "ready"
		if !n.AgentReady {
			agent = "not ready"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", n.Node, dash(n.Mode), dash(n.Datapath), agent, n.ENIs, n.Addresses, n.ExclusiveENIs)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\ncontroller: %s\n", st.Controller)
	for _, g := range st.Datapaths() {
		fmt.Fprintln(w, g)
	}
	if p := st.Policy(); p != "" {
		fmt.Fprintf(w, "policy: %s\n", p)
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

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
