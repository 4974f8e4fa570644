package policy

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/manifest"
	"terway.dev/terway/internal/policy/preview"
	"terway.dev/terway/internal/policy/translate"
)

// A CutError says that a preview denies connections that were allowed.
type CutError struct{ Changes int }

func (e *CutError) Error() string { return fmt.Sprintf("%d changes cut what was allowed", e.Changes) }

// ExitStatus is that of the program: of preview, wrong usage has another.
func (e *CutError) ExitStatus() int { return 2 }

func previewCommand(d dial) *cobra.Command {
	from := source{dial: d}
	var files, gone []string
	var staged, flows bool
	var output program.Output
	cmd := &cobra.Command{
		Use:   "preview [--offline DIR] -f FILE",
		Short: "Show which connections would be cut and opened if policies were applied",
		Long: `Compares the policies in the cluster (with --offline: in DIR) with the same policies after
those, the tiers and the network sets of FILE are applied: new ones, and those that replace
one with the same name. Nothing is applied. Each line is a change: source, destination, traffic, and what decides before and after. The result is
exact: the compiled tables are compared, no connection is tried.

  cut     allowed before, denied after
  opened  denied before, allowed after

Pods are grouped by their owner (a Deployment's or another's name), or else by label
app.kubernetes.io/name, k8s-app or app; if only a part of a group changes, the line lists
the pods. "nodes" are nodes and pods in the host network, "outside" are all other addresses.
Addresses and ports are those of pods behind Services. Only pods and nodes that
are there are compared, and only pods with an address.

Staged policies in FILE have no effect without --staged; with it they are applied by their
stagedAction. Staged policies that are there already have no effect.

--flows also asks the agents of all nodes for the flows of the last hour (see "policy flows
--help"), and lists those that are allowed now and would be cut, with what would deny them. Pods
that are gone are not compared.

The exit status is 0 if nothing is cut, 2 if something is, and 1 for an error, also for wrong
usage.

` + needs + `; with
--flows also to get and create pods/exec there.`,
		Example: `  kubectl get pods,namespaces,serviceaccounts,nodes,endpointslices,networkpolicies -A -o yaml > policies/cluster.yaml
  terwayctl policy preview --offline policies -f new.yaml
  kustomize build . | terwayctl policy preview --offline policies -f -
  terwayctl policy preview --offline policies -f staged.yaml --staged -o json
  terwayctl policy preview --offline policies --delete NetworkPolicy/shop/db
  terwayctl policy preview -f new.yaml --flows`,
		Annotations: map[string]string{program.AnnotationUsage: ""},
		Args:        program.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(files) == 0 && len(gone) == 0 {
				return program.Usagef("want -f FILE of what is applied, --delete of what goes, or both")
			}
			if flows && from.offline != "" {
				return program.Usagef("--flows asks the agents of a cluster: want no --offline beside it")
			}
			before, err := from.read(cmd)
			if err != nil {
				return err
			}
			after, err := from.changed(cmd, before, files, gone, staged)
			if err != nil {
				return err
			}
			changes, err := from.compare(before, after, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			var cut *cutFlows
			if flows {
				if cut, err = from.cutFlows(cmd, before, after); err != nil {
					return err
				}
			}
			err = output.Write(cmd.OutOrStdout(), forPrograms(changes, cut), func(w io.Writer) error {
				return errors.Join(printText(w, changes), cut.print(w))
			})
			if n := cuts(changes); err == nil && n > 0 {
				return &CutError{n}
			}
			return err
		},
	}
	from.flags(cmd)
	f := cmd.Flags()
	f.StringArrayVarP(&files, "filename", "f", nil, "the YAML or JSON `FILE` of what is applied, - for the standard input; may come again")
	f.StringArrayVar(&gone, "delete", nil, "an object that goes, before FILE is applied: `KIND/[NAMESPACE/]NAME`, as in NetworkPolicy/shop/db; may come again")
	f.BoolVar(&flows, "flows", false, "list the flows of the last hour that would be cut")
	f.BoolVar(&staged, "staged", false, "apply the staged policies of FILE")
	output.Add(f)
	return cmd
}

// changed is what becomes of the objects.
func (s *source) changed(cmd *cobra.Command, o translate.Objects, files, gone []string, staged bool) (translate.Objects, error) {
	for _, text := range gone {
		ref, err := refOf(text, s.namespace)
		if err != nil {
			return o, err
		}
		rest, there := o.Without(ref)
		if !there {
			return o, fmt.Errorf("--delete %s: there is no %s in %s", text, ref, s.place())
		}
		o = rest
	}
	for _, name := range files {
		text, err := readFile(cmd, name)
		if err != nil {
			return o, fmt.Errorf("-f: %w", err)
		}
		r, err := manifest.NewReader()
		if err != nil {
			return o, err
		}
		r.Namespace = s.namespace
		if err := r.Read(text); err != nil {
			return o, fmt.Errorf("-f %s: %w", name, err)
		}
		n := r.Objects
		if len(r.Skipped)+len(r.Old)+len(n.Namespaces)+len(n.ServiceAccounts)+len(n.Pods)+len(n.Nodes)+len(n.EndpointSlices)+len(n.HostEndpoints) > 0 {
			return o, fmt.Errorf("-f %s: has objects of other kinds: want policies, tiers and network sets", name)
		}
		o = o.With(n)
		stagedOnes := len(n.StagedNetworkPolicies) + len(n.StagedGlobalNetworkPolicies) + len(n.StagedKubernetesNetworkPolicies)
		switch {
		case stagedOnes+len(n.NetworkPolicies)+len(n.ClusterNetworkPolicies)+len(n.CalicoPolicies)+len(n.GlobalNetworkPolicies)+len(n.Tiers)+len(n.NetworkSets)+len(n.GlobalNetworkSets) == 0:
			return o, fmt.Errorf("-f %s: there is nothing in it: want policies, tiers and network sets", name)
		case staged:
			o.StagedNetworkPolicies, o.StagedGlobalNetworkPolicies, o.StagedKubernetesNetworkPolicies =
				r.Objects.StagedNetworkPolicies, r.Objects.StagedGlobalNetworkPolicies, r.Objects.StagedKubernetesNetworkPolicies
			o = o.WithStaged()
		case stagedOnes > 0:
			fmt.Fprintf(cmd.ErrOrStderr(), "-f %s: %d staged policies change nothing: --staged applies them\n", name, stagedOnes)
		}
	}
	return o, nil
}

// readFile reads a file, or the standard input if its name is "-".
func readFile(cmd *cobra.Command, name string) ([]byte, error) {
	if name == "-" {
		text, err := io.ReadAll(cmd.InOrStdin())
		if err != nil {
			return nil, fmt.Errorf("read the standard input: %w", err)
		}
		return text, nil
	}
	return os.ReadFile(name)
}

// deletable are the kinds of --delete.
var deletable = []string{
	translate.KindNetworkPolicy, translate.KindClusterNetworkPolicy, translate.KindCalicoPolicy, translate.KindGlobalNetworkPolicy,
	translate.KindTier, translate.KindNetworkSet, translate.KindGlobalNetworkSet,
}

func refOf(text, namespace string) (policy.Ref, error) {
	parts := strings.Split(text, "/")
	i := slices.IndexFunc(deletable, func(kind string) bool { return strings.EqualFold(kind, parts[0]) })
	if i < 0 || len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return policy.Ref{}, fmt.Errorf("--delete %q: want KIND/[NAMESPACE/]NAME; kinds are %s", text, strings.Join(deletable, ", "))
	}
	ref := policy.Ref{Kind: deletable[i], Name: parts[len(parts)-1]}
	switch ref.Kind {
	case translate.KindNetworkPolicy, translate.KindCalicoPolicy, translate.KindNetworkSet:
		if ref.Namespace = namespace; len(parts) == 3 {
			ref.Namespace = parts[1]
		}
	default:
		if len(parts) == 3 {
			return ref, fmt.Errorf("--delete %q: want %s/NAME: the kind has no namespaces", text, ref.Kind)
		}
	}
	return ref, nil
}

func (s *source) compare(before, after translate.Objects, stderr io.Writer) ([]preview.Change, error) {
	var worlds [2]preview.World
	was := map[string]bool{}
	var refused []error
	for i, o := range []translate.Objects{before, after} {
		cluster, notes := translate.Cluster(o)
		set, more := translate.Policies(o, s.options)
		worlds[i] = preview.World{Set: set, Cluster: cluster}
		for _, n := range append(more, notes...) {
			text := n.String()
			switch {
			case was[text]:
			case i == 1 && n.Severity == translate.Refused:
				refused = append(refused, errors.New(text))
			default:
				fmt.Fprintln(stderr, text)
			}
			was[text] = true
		}
	}
	// A refused policy is not applied, so there is no preview of it.
	if err := errors.Join(refused...); err != nil {
		return nil, err
	}
	without, asked := 0, 0
	for _, p := range worlds[0].Cluster.Pods {
		switch {
		case p.HostNetwork || p.Ended:
		case len(p.Addresses) == 0:
			without++
		default:
			asked++
		}
	}
	if without > 0 {
		fmt.Fprintf(stderr, "ignored: %d pods without an address\n", without)
	}
	if asked == 0 {
		if s.offline == "" {
			return nil, errors.New("there are no pods with an address in the cluster")
		}
		return nil, errors.New("there are no pods with an address in the folder: save them with \"kubectl get pods -A -o yaml\"")
	}
	owners := map[policy.NamespacedName]string{}
	for _, p := range before.Pods {
		owners[policy.NamespacedName{Namespace: p.Namespace, Name: p.Name}] = groupOf(p)
	}
	return preview.Compare(worlds[0], worlds[1], func(p *policy.Pod) string { return p.Namespace + "/" + owners[p.NamespacedName] })
}

// groupOf returns the name of the group that the pod belongs to.
func groupOf(p *corev1.Pod) string {
	if c := metav1.GetControllerOf(p); c != nil {
		if hash := p.Labels["pod-template-hash"]; c.Kind == "ReplicaSet" && hash != "" {
			return strings.TrimSuffix(c.Name, "-"+hash)
		}
		return c.Name
	}
	for _, label := range []string{"app.kubernetes.io/name", "k8s-app", "app"} {
		if v := p.Labels[label]; v != "" {
			return v
		}
	}
	return p.Name
}

func cuts(changes []preview.Change) (n int) {
	for _, c := range changes {
		if c.Cut() {
			n++
		}
	}
	return n
}

func word(c preview.Change) string {
	if c.Cut() {
		return "cut"
	}
	return "opened"
}

func familyName(c preview.Change) string {
	if c.Family == 0 {
		return ""
	}
	return fmt.Sprintf("IPv%d", c.Family)
}

func printText(w io.Writer, changes []preview.Change) error {
	if len(changes) == 0 {
		_, err := fmt.Fprintln(w, "nothing changes")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CHANGE\tFROM\tTO\tTRAFFIC\tBEFORE\tAFTER")
	for _, c := range changes {
		traffic := c.Traffic.String()
		if f := familyName(c); f != "" {
			traffic += " (" + f + ")"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", word(c), c.From.Name, c.To.Name, traffic, strings.Join(c.Before.Strings(), "; "), strings.Join(c.After.Strings(), "; "))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	cut := cuts(changes)
	_, err := fmt.Fprintf(w, "%d cut, %d opened\n", cut, len(changes)-cut)
	return err
}

type jsonEnd struct {
	Name     string   `json:"name"`
	Pods     []string `json:"pods,omitempty"`
	Hosts    []string `json:"hosts,omitempty"`
	Networks []string `json:"networks,omitempty"`
}

type jsonVerdict struct {
	Verdict string   `json:"verdict"`
	By      []string `json:"by"`
}

type jsonChange struct {
	Change  string      `json:"change"`
	From    jsonEnd     `json:"from"`
	To      jsonEnd     `json:"to"`
	Family  string      `json:"family,omitempty"`
	Traffic []string    `json:"traffic"`
	Before  jsonVerdict `json:"before"`
	After   jsonVerdict `json:"after"`
}

// forPrograms is what is printed for programs.
func forPrograms(changes []preview.Change, cut *cutFlows) any {
	end := func(e preview.End) jsonEnd {
		return jsonEnd{e.Name, texts(e.Pods), texts(e.Hosts), texts(e.Networks)}
	}
	verdict := func(v preview.Verdict) jsonVerdict { return jsonVerdict{v.Action.String(), v.Strings()} }
	list := make([]jsonChange, 0, len(changes))
	for _, c := range changes {
		list = append(list, jsonChange{word(c), end(c.From), end(c.To), familyName(c), c.Traffic.Strings(), verdict(c.Before), verdict(c.After)})
	}
	return struct {
		Changes []jsonChange `json:"changes"`
		*cutFlows
	}{list, cut}
}

func texts[T fmt.Stringer](list []T) (out []string) {
	for _, v := range list {
		out = append(out, v.String())
	}
	return out
}
