// Package policy is the command "terwayctl policy": what is wrong with policies, what they say
// of a connection, what changes if others are applied, and how old ones are moved to the API that
// is served. It reads folders of manifests, or a cluster and the agents of its nodes, and prints;
// migrate alone changes a cluster. What policies mean is internal/policy's.
package policy

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/cli/kubeflags"
	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/policy/lint"
	"terway.dev/terway/internal/policy/manifest"
	"terway.dev/terway/internal/policy/migrate"
	"terway.dev/terway/internal/policy/translate"
)

// NewCommand returns "terwayctl policy".
func NewCommand() *cobra.Command { return newCommand(connect) }

func newCommand(d dial) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "What is wrong with network policies, what they say of a connection, what would change; moves old ones",
	}
	cmd.AddCommand(lintCommand(d), traceCommand(d), previewCommand(d), countersCommand(d), flowsCommand(d), migrateCommand())
	return cmd
}

// flagProbes overrides translate.SettingProbes.
const flagProbes = "allow-load-balancer-probes"

// needs is what commands need that read a cluster.
const needs = `It needs to list namespaces, serviceaccounts, nodes, pods, endpointslices, networkpolicies and
the kinds of projectcalico.org and policy.networking.k8s.io, and to get the ConfigMap
` + config.ConfigMapName + ` in Terway's namespace`

// source is where objects are from: a folder, or a cluster.
type source struct {
	cluster   kubeflags.Flags
	dial      dial
	online    *online // nil until the cluster is reached, and with a folder
	offline   string
	namespace string
	options   translate.Options
}

func (s *source) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	s.cluster.Add(f)
	s.cluster.AddTerway(f)
	f.StringVar(&s.offline, "offline", "", "read the YAML and JSON files of this `DIR`, and of folders in it, in place of a cluster")
	f.StringVarP(&s.namespace, "namespace", "n", "default", "the `NAMESPACE` of objects that name none")
	f.BoolVar(&s.options.AllowLoadBalancerProbes, flagProbes, true, "let health checks of load balancers (100.64.0.0/10) in before any policy; if not given, "+translate.SettingProbes+" of the ConfigMap "+config.ConfigMapName+" says it")
}

// place is where the objects are, for messages.
func (s *source) place() string {
	if s.offline != "" {
		return "the folder"
	}
	return "the cluster"
}

// read reads the folder or the cluster. What its configuration sets goes into the options, if no flag does.
func (s *source) read(cmd *cobra.Command) (translate.Objects, error) {
	if s.offline == "" {
		return s.readCluster(cmd)
	}
	if info, err := os.Stat(s.offline); err != nil {
		return translate.Objects{}, program.Usagef("--offline: %w", err)
	} else if !info.IsDir() {
		return translate.Objects{}, program.Usagef("--offline %s: is a file: want the folder that it is in", s.offline)
	}
	r, err := manifest.NewReader()
	if err != nil {
		return translate.Objects{}, err
	}
	r.Namespace, r.ConfigMap = s.namespace, config.ConfigMapName
	if err := r.Folder(os.DirFS(s.offline)); err != nil {
		return translate.Objects{}, fmt.Errorf("--offline %s: %w", s.offline, err)
	}
	if err := s.configure(cmd, r); err != nil {
		return translate.Objects{}, fmt.Errorf("--offline %s: %w", s.offline, err)
	}
	old := map[string]int{}
	for _, o := range r.Old {
		old[o.GetKind()]++
	}
	for _, kind := range slices.Sorted(maps.Keys(old)) {
		fmt.Fprintf(cmd.ErrOrStderr(), "not read: %d %s of %s; \"terwayctl policy migrate\" moves what is about policies\n", old[kind], kind, migrate.OldAPI)
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Skipped)) {
		fmt.Fprintf(cmd.ErrOrStderr(), "ignored: %d %s, which policies do not use\n", r.Skipped[kind], kind)
	}
	return r.Objects, nil
}

func (s *source) readCluster(cmd *cobra.Command) (translate.Objects, error) {
	if s.online == nil {
		o, err := s.dial(cmd.Context(), &s.cluster)
		if err != nil {
			return translate.Objects{}, err
		}
		s.online = o
	}
	if !cmd.Flags().Changed(flagProbes) {
		data, err := s.online.configuration(cmd.Context())
		if err != nil {
			return translate.Objects{}, fmt.Errorf("%w\nwith --%s it is not read", err, flagProbes)
		}
		if data[config.ConfigMapKey] != "" {
			c, err := config.FromConfigMap(data)
			if err != nil {
				return translate.Objects{}, fmt.Errorf("ConfigMap %s/%s: %w\nwith --%s it is not read", s.cluster.Terway, config.ConfigMapName, err, flagProbes)
			}
			s.options.AllowLoadBalancerProbes = c.PolicyAllowLoadBalancerProbes
		}
	}
	return s.online.objects(cmd.Context())
}

// configure reads the options from the configuration of the cluster that the folder is of. The
// existing Terway's, which has the same name and other keys, says nothing of them.
func (s *source) configure(cmd *cobra.Command, r *manifest.Reader) error {
	given := cmd.Flags().Changed(flagProbes)
	said := "" // by which ConfigMap
	for _, m := range r.ConfigMaps {
		if m.Data[config.ConfigMapKey] == "" {
			r.Skipped["ConfigMap"]++
			continue
		}
		if given {
			continue
		}
		name := m.Namespace + "/" + m.Name
		c, err := config.FromConfigMap(m.Data)
		if err != nil {
			return fmt.Errorf("ConfigMap %s: %w\nwith --%s it is not asked", name, err, flagProbes)
		}
		allow := c.PolicyAllowLoadBalancerProbes
		if said != "" && allow != s.options.AllowLoadBalancerProbes {
			return fmt.Errorf("ConfigMap %s: %s is %t, and %t in %s: want the ConfigMap of one cluster, or --%s", name, translate.SettingProbes, allow, !allow, said, flagProbes)
		}
		s.options.AllowLoadBalancerProbes, said = allow, name
	}
	return nil
}

func lintCommand(d dial) *cobra.Command {
	from := source{dial: d}
	var output program.Output
	cmd := &cobra.Command{
		Use:   "lint [--offline DIR]",
		Short: "Find probable mistakes in policies",
		Long: `Finds probable mistakes in policies, and what is not enforced as written.
Each finding names the object, the field and the check:

  not-as-written  refused, or not enforced as written
  never-matches   a rule that matches no connection
  shadowed        a rule after one of its policy with the same conditions, or with none
  no-pods         a policy that selects no pod, or a rule with a selector that selects none
  host-network    a policy that selects pods in the host network, to which none applies
  own-eni         pods with an ENI of their own and capabilities to go past their policies
  named-port      the name of a port that no pod has
  dns             pods that cannot reach the cluster's DNS
  metadata        the metadata address of other clouds is closed, Alibaba Cloud's is not
  probes          a rule against health checks that policy_allow_load_balancer_probes lets in before it

Checks that need pods run only if there are pods in DIR; for exact results DIR also needs
namespaces, service accounts and nodes. Without --offline it reads the cluster. If there is a
finding, the exit status is 1.

` + needs + ".",
		Example: `  kubectl get pods,namespaces,serviceaccounts,nodes,endpointslices,networkpolicies -A -o yaml > policies/cluster.yaml
  terwayctl policy lint --offline policies`,
		Args: program.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := from.read(cmd)
			if err != nil {
				return err
			}
			if len(o.Pods) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "there are no pods: checks that need pods are skipped")
			}
			found := lint.Lint(o, from.options)
			if err := output.Write(cmd.OutOrStdout(), findingsOf(found), func(w io.Writer) error {
				for _, f := range found {
					if _, err := fmt.Fprintln(w, f); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				return err
			}
			if len(found) > 0 {
				return fmt.Errorf("%d findings", len(found))
			}
			if n := len(o.NetworkPolicies) + len(o.ClusterNetworkPolicies) + len(o.CalicoPolicies) + len(o.GlobalNetworkPolicies); n == 0 {
				return errors.New("there are no policies in " + cmp.Or(from.offline, from.place()))
			}
			return nil
		},
	}
	from.flags(cmd)
	output.Add(cmd.Flags())
	return cmd
}

// findings are what lint prints for programs.
type findings struct {
	Findings []finding `json:"findings"`
}

type finding struct {
	Object string `json:"object"`
	Field  string `json:"field,omitempty"`
	Check  string `json:"check"`
	What   string `json:"what"`
}

func findingsOf(list []lint.Finding) findings {
	all := findings{[]finding{}}
	for _, f := range list {
		all.Findings = append(all.Findings, finding{f.Ref.String(), f.Field, f.Check, f.What})
	}
	return all
}
