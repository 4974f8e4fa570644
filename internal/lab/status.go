package lab

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"os"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/inventory"
)

// Status is the state of a running lab.
type Status struct {
	Dir        string          `json:"dir"`
	Kubeconfig string          `json:"kubeconfig"`
	Kubectl    string          `json:"kubectl"`
	Ready      bool            `json:"ready"`
	Endpoint   string          `json:"endpoint"`
	VPC        string          `json:"vpc"`
	Processes  []ProcessStatus `json:"processes"`
	Nodes      []NodeStatus    `json:"nodes"`
	Pods       []inventory.Pod `json:"pods"`
	// Problems are the reasons why Ready is not set.
	Problems []string `json:"problems,omitempty"`
}

// ProcessStatus is a process of the lab.
type ProcessStatus struct {
	Process
	Alive bool `json:"alive"`
}

// NodeStatus is a node and its instance.
type NodeStatus struct {
	Machine
	Ready bool `json:"ready"`
	// ENIs and Addresses are counted in the cloud; Addresses does not include the primary ENI.
	ENIs      int `json:"enis"`
	Addresses int `json:"addresses"`
	Pods      int `json:"pods"`
	// PodCIDR is the node's block with Flannel, Route the state of the VPC's route entry for
	// it.
	PodCIDR string `json:"podCIDR,omitempty"`
	Route   string `json:"route,omitempty"`
}

// Inspect reads the state of processes, cluster and cloud. What cannot be read is a problem,
// not an error.
func (s *State) Inspect(ctx context.Context) *Status {
	o := &s.Options
	st := &Status{Dir: o.Dir, Kubeconfig: o.Kubeconfig(), Kubectl: o.Bin("kubectl"), Endpoint: s.Cloud.Endpoint, VPC: s.Cloud.VPCID}
	problem := func(format string, args ...any) { st.Problems = append(st.Problems, fmt.Sprintf(format, args...)) }
	if !s.Ready {
		problem("\"terway-lab up\" did not finish")
	}
	ps, err := o.processes()
	if err != nil {
		problem("%v", err)
	}
	for _, p := range ps {
		alive := p.Alive()
		st.Processes = append(st.Processes, ProcessStatus{p, alive})
		if !alive {
			problem("process %s (pid %d) has ended", p.Name, p.PID)
		}
	}
	nodes, pods := s.ask(ctx, problem)
	var count map[string]int
	st.Pods, count = inventory.Pods(pods)
	var routes []Route
	if o.Network == NetworkFlannel {
		if routes, err = s.Cloud.Routes(ctx); err != nil {
			problem("%v", err)
		}
	}
	for _, m := range s.Machines {
		n := NodeStatus{Machine: m, Pods: count[m.Name]}
		if n.PodCIDR = nodes[m.Name].Spec.PodCIDR; n.PodCIDR != "" {
			if n.Route = routeTo(routes, n.PodCIDR, m.InstanceID); n.Route != "Available" {
				problem("node %s: route entry of its pods' block %s: %s", m.Name, n.PodCIDR, n.Route)
			}
		}
		switch node, ok := nodes[m.Name]; {
		case !ok:
			problem("node %s is not known to the cluster", m.Name)
		case inventory.Unready(&node) != "":
			problem("node %s: %s", m.Name, inventory.Unready(&node))
		default:
			n.Ready = true
		}
		enis, err := s.Cloud.ENIs(ctx, m.InstanceID)
		if err != nil {
			problem("%v", err)
		}
		for _, e := range enis {
			n.ENIs++
			if e.Type != "Primary" {
				n.Addresses += len(e.Addresses)
			}
		}
		st.Nodes = append(st.Nodes, n)
	}
	st.Ready = len(st.Problems) == 0
	return st
}

func (s *State) ask(ctx context.Context, problem func(string, ...any)) (map[string]corev1.Node, []corev1.Pod) {
	c, err := s.Options.Client()
	if err != nil {
		problem("%v", err)
		return nil, nil
	}
	byName := map[string]corev1.Node{}
	nodes, err := c.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		problem("list nodes: %v", err)
		return nil, nil
	}
	for _, n := range nodes.Items {
		byName[n.Name] = n
	}
	pods, err := c.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		problem("list pods: %v", err)
		return byName, nil
	}
	return byName, pods.Items
}

// WriteText prints the status for people.
func (st *Status) WriteText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	blocks := slices.ContainsFunc(st.Nodes, func(n NodeStatus) bool { return n.PodCIDR != "" })
	network := "ENIS\tPOD ADDRESSES"
	if blocks {
		network = "POD CIDR\tROUTE"
	}
	fmt.Fprintf(t, "NODE\tINSTANCE\tTYPE\tZONE\tADDRESS\tREADY\t%s\tPODS\n", network)
	for _, n := range st.Nodes {
		network := fmt.Sprintf("%d\t%d", n.ENIs, n.Addresses)
		if blocks {
			network = n.PodCIDR + "\t" + n.Route
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%t\t%s\t%d of %d\n", n.Name, n.InstanceID, n.Type, n.Zone, n.Address, n.Ready, network, n.Pods, n.MaxPods)
	}
	fmt.Fprintln(t, "\nPOD\tNODE\tADDRESS\tPHASE")
	for _, p := range st.Pods {
		host := ""
		if p.HostNetwork {
			host = " (the node's)"
		}
		fmt.Fprintf(t, "%s/%s\t%s\t%s%s\t%s\n", p.Namespace, p.Name, p.Node, p.Address, host, p.Phase)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, p := range st.Problems {
		fmt.Fprintln(w, "problem:", p)
	}
	_, err := fmt.Fprintf(w, "\nkubectl     %s\nkubeconfig  %s\ncloud       %s (%s)\n", st.Kubectl, st.Kubeconfig, st.Endpoint, st.VPC)
	return err
}

// Shell returns the command that runs args, or a shell, in a machine of the lab.
func (s *State) Shell(name string, args []string) (*exec.Cmd, error) {
	m, err := s.Machine(name)
	if err != nil {
		return nil, err
	}
	if len(args) == 0 {
		args = []string{"bash"}
	}
	enter := []string{"--net=" + m.NetNS}
	if m.Name != s.Master.Name {
		b, err := os.ReadFile(s.Options.nodeDir(m.Name, "pid"))
		if err != nil {
			return nil, fmt.Errorf("find the first process of %s: %w", m.Name, err)
		}
		pid := strings.TrimSpace(string(b))
		if _, err := strconv.Atoi(pid); err != nil {
			return nil, fmt.Errorf("find the first process of %s: %w", m.Name, err)
		}
		enter = []string{"--target", pid, "--all"}
	}
	cmd := exec.Command("nsenter", append(append(enter, "--"), args...)...)
	cmd.Env = append(os.Environ(), "PATH="+s.Options.binPath()+":"+os.Getenv("PATH"), "KUBECONFIG="+s.Options.Kubeconfig())
	return cmd, nil
}
