// Package lab is the program terway-lab without the simulator's commands: flags and output of
// package internal/lab. It has no logic of its own.
package lab

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/provision"
)

// NewCommand returns the command of terway-lab.
func NewCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "terway-lab",
		Short: "A real Kubernetes cluster on a simulated VPC, on this machine",
	}
	var dir string
	for _, c := range []*cobra.Command{upCommand(&dir), downCommand(&dir), statusCommand(&dir), verifyCommand(&dir),
		kubeconfigCommand(&dir), envCommand(&dir), shellCommand(&dir), loadCommand(&dir), compareCommand(&dir), conformanceCommand(&dir)} {
		// Not a flag of the root command: the simulator's commands have no lab.
		c.Flags().StringVar(&dir, "dir", lab.DefaultDir, "the running lab's folder")
		cmd.AddCommand(c)
	}
	cmd.AddCommand(nodeInitCommand(), relayCommand())
	return cmd
}

func upCommand(dir *string) *cobra.Command {
	o := lab.Options{}
	zones, planFile, values, check := "1", "", "", false
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Build what is missing and start the cluster",
		Args:  program.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return fmt.Errorf("terway-lab up needs root: it makes namespaces and cgroups")
			}
			if err := network(cmd, &o, zones, planFile); err != nil {
				return err
			}
			var err error
			if o.Values, err = chartValues(values); err != nil {
				return err
			}
			o.Dir = *dir
			if err := o.Normalize(); err != nil {
				return err
			}
			p := lab.NewProgress(cmd.OutOrStdout(), time.Now)
			s, err := lab.Up(cmd.Context(), &o, p)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "\nthe lab is up after %.1f s\n\n", p.Elapsed().Seconds())
			if err := s.Inspect(cmd.Context()).WriteText(cmd.OutOrStdout()); err != nil {
				return err
			}
			var wrong error
			if check {
				wrong = prove(cmd.Context(), cmd.OutOrStdout(), s)
			}
			if err := writeNext(cmd.OutOrStdout(), os.Args[0], s.Options.Dir); err != nil {
				return err
			}
			return wrong
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.Nodes, "nodes", 2, "how many nodes")
	f.StringVar(&o.InstanceType, "instance-type", "", "the nodes' ECS instance type; it decides how many pods fit (default "+
		lab.DefaultInstanceType+", in mode exclusive "+lab.ExclusiveInstanceType+")")
	f.StringVar(&zones, "zones", zones, "how many zones, or their names with commas; nodes are spread over them")
	f.StringVar(&planFile, "plan", "", "a network plan (\"terwayctl plan\" makes one): VPC, zones, vSwitches, Service range, and how many nodes of which type")
	f.StringVar(&o.Catalogue, "catalogue", "", "the table of instance types (`FILE`) that the plan was made with, if it is not the one built in")
	f.StringVar(&o.Datapath, "datapath", claims.Auto, "how pods are wired: "+strings.Join(config.Choices("datapath"), ", "))
	f.StringVar(&o.Mode, "mode", claims.ModeShared, "whether pods share ENIs: "+claims.ModeShared+", or "+claims.ModeExclusive+": each has one to itself")
	f.StringVar(&o.Network, "network", lab.NetworkTerway, "the network plugin to install: terway, flannel, or none")
	f.StringVar(&o.Kubernetes, "kubernetes", lab.KubernetesVersion, "the version of Kubernetes: one such as 1.34, whose newest release is taken, or a release such as 1.34.4; another than the default is built in some minutes, once")
	f.BoolVar(&o.Policy, "policy", false, "turn network policies on (the chart's policy.enabled), which are off by default as in the chart")
	f.StringVar(&values, "values", "", "`FILE` with values of the chart, which take the place of those that the lab sets")
	f.BoolVar(&check, "verify", false, "then run those of the checks that take some seconds: "+strings.Join(proof(lab.NetworkTerway), ", ")+" (\"terway-lab verify\" runs all)")
	f.StringVar(&o.Source, "source", "", "Terway's source tree (default: the working directory or above)")
	return cmd
}

// network sets the lab's network from a plan, or the zones from their flag.
func network(cmd *cobra.Command, o *lab.Options, zones, planFile string) (err error) {
	if planFile == "" {
		o.Zones, err = lab.ParseZones(zones)
		return err
	}
	set := cmd.Flags().Changed
	if set("zones") {
		return program.Usagef("--zones %s: the plan says which zones there are", zones)
	}
	types, err := catalog.Open(o.Catalogue)
	if err != nil {
		return program.Usagef("--catalogue: %w", err)
	}
	p, err := (&provision.PlanFile{Path: planFile, Types: types}).Load()
	if err != nil {
		return err
	}
	// If the user did not set a flag, the plan's value counts, not the flag's default.
	if !set("nodes") {
		o.Nodes = 0
	}
	if !set("network") {
		o.Network = ""
	}
	if !set("mode") {
		o.Mode = ""
	}
	o.UsePlan(p)
	return nil
}

// chartValues reads a file with values of the chart.
func chartValues(file string) (values map[string]any, err error) {
	if file == "" {
		return nil, nil
	}
	b, err := os.ReadFile(file)
	if err == nil {
		err = yaml.Unmarshal(b, &values)
	}
	if err != nil {
		return nil, program.Usagef("--values %s: %w; want a YAML file as for helm install --values", file, err)
	}
	return values, nil
}

// writeNext prints commands that work as printed, with the program's path as it was called.
func writeNext(w io.Writer, program, dir string) error {
	run := quote(program) + " "
	more := ""
	if dir != lab.DefaultDir {
		more = " --dir " + quote(dir)
	}
	t := tabwriter.NewWriter(w, 0, 8, 4, ' ', 0)
	fmt.Fprintln(t, "\nnext:")
	fmt.Fprintf(t, "  eval $(%senv%s)\t# kubectl, terwayctl and the cloud's SDKs find the lab\n", run, more)
	fmt.Fprintln(t, "  kubectl get pods -A -o wide")
	fmt.Fprintf(t, "  %sverify%s\t# all checks\n", run, more)
	fmt.Fprintf(t, "  %sshell%s node1\t# a shell on a node\n", run, more)
	fmt.Fprintf(t, "  %sdown%s\n", run, more)
	return t.Flush()
}

// quote quotes s for the shell.
func quote(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !strings.ContainsRune("_-+=:,./@%", r) && !('0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z')
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func downCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Remove every process, namespace, mount, device and file of the lab",
		Args:  program.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			began := time.Now()
			found, err := lab.Down(cmd.Context(), &lab.Options{Dir: *dir})
			if err != nil {
				return err
			}
			if !found {
				fmt.Fprintln(cmd.OutOrStdout(), "there was no lab")
				return nil
			}
			fmt.Fprintf(cmd.OutOrStdout(), "the lab is gone (%.1fs)\n", time.Since(began).Seconds())
			return nil
		},
	}
}

func nodeInitCommand() *cobra.Command {
	var config string
	var inner bool
	cmd := &cobra.Command{
		Use:    "node-init",
		Short:  "The first process of a node (started by terway-lab up)",
		Hidden: true,
		Args:   program.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if inner {
				return lab.NodeInit(cmd.Context(), config)
			}
			return lab.NodeOuter(config)
		},
	}
	cmd.Flags().StringVar(&config, "config", "", "the node's configuration")
	cmd.Flags().BoolVar(&inner, "inner", false, "the process inside the node's namespaces")
	return cmd
}

func relayCommand() *cobra.Command {
	var fd int
	var netns, to string
	cmd := &cobra.Command{
		Use:    "relay",
		Short:  "Join connections on this machine to an address in a namespace (started by terway-lab up)",
		Hidden: true,
		Args:   program.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f := os.NewFile(uintptr(fd), "listener")
			l, err := net.FileListener(f)
			if err != nil {
				return fmt.Errorf("take over the listener on descriptor %d: %w", fd, err)
			}
			if err := f.Close(); err != nil {
				return fmt.Errorf("take over the listener on descriptor %d: %w", fd, err)
			}
			return lab.Relay(cmd.Context(), l, netns, to)
		},
	}
	cmd.Flags().IntVar(&fd, "fd", 3, "descriptor of the listener")
	cmd.Flags().StringVar(&netns, "netns", "", "network namespace to connect in")
	cmd.Flags().StringVar(&to, "to", "", "address to connect to")
	return cmd
}
