package policy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/cli/kubeflags"
	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/policy/manifest"
	"terway.dev/terway/internal/policy/migrate"
)

// An UnmovedError says that old objects are not in the new API, or could not be deleted.
type UnmovedError struct{ Objects int }

func (e *UnmovedError) Error() string {
	return fmt.Sprintf("%d objects cannot be moved or deleted: the list says why", e.Objects)
}

// outcome is what became of an old object.
type outcome string

const (
	isNew     outcome = "new"     // it would be created
	isCreated outcome = "created" // it was
	isSame    outcome = "same"    // an equal one is there
	isGone    outcome = "deleted" // an equal one is there, and the old one was deleted
	isKept    outcome = "kept"    // an equal one is there, and the old one could not be deleted
	isOther   outcome = "differs" // another one has its name, and stays as it is
	isRefused outcome = "refused" // it cannot be moved
)

// row is an old object and what became of it.
type row struct {
	migrate.Move
	outcome outcome
	why     []string
}

// finish says how it ended.
func (r *row) finish(o outcome, why ...string) {
	r.outcome, r.why = o, append(r.why, why...)
}

// migration is how policies are moved.
type migration struct {
	kubeflags.Flags
	output             program.Output
	offline, namespace string
	apply, deleteOld   bool
}

func migrateCommand() *cobra.Command {
	m := migration{}
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Move policies from crd.projectcalico.org/v1 to projectcalico.org/v3",
		Long: `Moves policies, tiers, network sets and host endpoints from ` + migrate.OldAPI + `, the private API
group in which Calico up to 3.31 stores them and which the existing Terway's chart installs,
to projectcalico.org/v3, which this one serves.

Alone it changes nothing. Standard output gets the manifests of what is not in
projectcalico.org/v3 yet, standard error what becomes of each object:

  new      --apply creates it
  created  it was created
  same     projectcalico.org/v3 has it, with equal spec and labels
  deleted  the same, and the old one was deleted
  kept     the same, and the old one could not be deleted
  differs  projectcalico.org/v3 has another object of that name: neither is touched
  refused  it cannot be moved

and how many objects of other kinds (IPPool, FelixConfiguration …) are not about policies.
-o json and -o yaml have both in one object.

--apply creates what is new, and never changes what is there. --delete-old deletes old objects
whose equal is in projectcalico.org/v3, and no others. A second run finds nothing to do.

An object keeps what users wrote: spec, labels and annotations. In tier default the name loses
the "default." that Calico puts before it. A policy without spec.types gets both, as Calico
enforces a stored one. ownerReferences and finalizers stay behind.

The exit status is 0 if everything is moved or can be, and 1 if something differs, is refused or
is kept, or for another error.

It needs to list all of crd.projectcalico.org, to get the APIService v3.projectcalico.org and the
objects of projectcalico.org/v3; with --apply to create those, with --delete-old to delete the
old ones.`,
		Example: `  terwayctl policy migrate > policies-v3.yaml
  terwayctl policy migrate --apply
  terwayctl policy migrate --delete-old
  terwayctl policy migrate --offline backup | kubectl create -f -`,
		Args: program.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if m.offline != "" && (m.apply || m.deleteOld) {
				return program.Usagef("--offline changes nothing in a cluster: give its output to %q, or leave it out to move what is in a cluster", "kubectl create -f -")
			}
			rows, left, failed := m.run(cmd.Context())
			if rows == nil && failed != nil {
				return failed
			}
			// What was done before something failed is said, too.
			if err := errors.Join(m.report(cmd, rows, left), failed); err != nil {
				return err
			}
			return unmoved(rows)
		},
	}
	m.Add(cmd.Flags())
	f := cmd.Flags()
	f.StringVar(&m.offline, "offline", "", "read the YAML and JSON files of this `DIR`, and of folders in it, in place of a cluster")
	f.StringVarP(&m.namespace, "namespace", "n", "default", "the `NAMESPACE` of objects of DIR that need one and name none")
	f.BoolVar(&m.apply, "apply", false, "create what is new")
	f.BoolVar(&m.deleteOld, "delete-old", false, "delete old objects whose equal is in projectcalico.org/v3")
	m.output.Add(f)
	return cmd
}

// run moves, and says what became of each old object, and how many there are of other kinds.
func (m *migration) run(ctx context.Context) ([]row, map[string]int, error) {
	if m.offline != "" {
		return m.folder()
	}
	c, err := m.connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	served, err := c.served(ctx)
	if err != nil {
		return nil, nil, err
	}
	if !served && (m.apply || m.deleteOld) {
		return nil, nil, fmt.Errorf("the cluster at %s does not serve projectcalico.org/v3: install the chart with policy.enabled: true first", c.host)
	}
	olds, left, err := c.old(ctx)
	if err != nil {
		return nil, nil, err
	}
	there := func(migrate.Object) (migrate.Object, error) { return nil, nil }
	if served {
		there = func(o migrate.Object) (migrate.Object, error) { return c.get(ctx, o) }
	}
	rows, err := plan(olds, there)
	if err != nil {
		return nil, nil, err
	}
	for i := range rows {
		r := &rows[i]
		if m.apply && r.outcome == isNew {
			if err := c.create(ctx, r); err != nil {
				return rows, left, err
			}
		}
	}
	for i := range rows {
		r := &rows[i]
		if m.deleteOld && (r.outcome == isSame || r.outcome == isCreated) {
			if err := c.delete(ctx, r); err != nil {
				return rows, left, err
			}
		}
	}
	return rows, left, nil
}

// folder plans with what is in a folder.
func (m *migration) folder() ([]row, map[string]int, error) {
	r, err := manifest.NewReader()
	if err != nil {
		return nil, nil, err
	}
	r.Namespace = m.namespace
	if info, err := os.Stat(m.offline); err != nil {
		return nil, nil, program.Usagef("--offline: %w", err)
	} else if !info.IsDir() {
		return nil, nil, program.Usagef("--offline %s: is a file: want the folder that it is in", m.offline)
	}
	if err := r.Folder(os.DirFS(m.offline)); err != nil {
		return nil, nil, fmt.Errorf("--offline %s: %w", m.offline, err)
	}
	left := map[string]int{}
	olds := slices.DeleteFunc(r.Old, func(o *unstructured.Unstructured) bool {
		if migrate.Moves(o.GetKind()) {
			return false
		}
		left[o.GetKind()]++
		return true
	})
	for _, o := range olds {
		if o.GetNamespace() == "" && migrate.Namespaced(o.GetKind()) {
			o.SetNamespace(m.namespace)
		}
	}
	has := migrate.Index(r.Objects)
	rows, err := plan(olds, func(o migrate.Object) (migrate.Object, error) { return has[migrate.KeyOf(o)], nil })
	return rows, left, err
}

// plan says what is to be done with old objects. there is what the new API has by an object's
// kind and name, or nil.
func plan(olds []*unstructured.Unstructured, there func(migrate.Object) (migrate.Object, error)) ([]row, error) {
	moves, err := migrate.Plan(olds)
	if err != nil {
		return nil, err
	}
	rows := make([]row, 0, len(moves))
	for _, move := range moves {
		r := row{Move: move, why: move.Notes}
		if move.Err != nil {
			r.finish(isRefused, move.Err.Error())
		} else if other, err := there(move.New); err != nil {
			return nil, err
		} else if err := r.compare(other); err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// compare finishes a row by what the new API has in its place, if anything.
func (r *row) compare(there migrate.Object) error {
	if there == nil {
		r.finish(isNew)
		return nil
	}
	difference, err := migrate.Difference(r.New, there)
	switch {
	case err != nil:
		return err
	case difference == "":
		r.finish(isSame)
	default:
		r.finish(isOther, difference)
	}
	return nil
}

func unmoved(rows []row) error {
	n := 0
	for _, r := range rows {
		switch r.outcome {
		case isOther, isRefused, isKept:
			n++
		}
	}
	if n > 0 {
		return &UnmovedError{n}
	}
	return nil
}

// report prints manifests and what became of all objects.
func (m *migration) report(cmd *cobra.Command, rows []row, left map[string]int) error {
	if m.output.Machine() {
		return m.output.Encode(cmd.OutOrStdout(), forProgram(rows, left))
	}
	for _, r := range rows {
		if r.outcome != isNew {
			continue
		}
		text, err := yaml.Marshal(r.New)
		if err != nil {
			return fmt.Errorf("encode %s: %w", r.New.GetName(), err)
		}
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "---\n%s", text); err != nil {
			return err
		}
	}
	return m.reportText(cmd.ErrOrStderr(), rows, left)
}

func (m *migration) reportText(w io.Writer, rows []row, left map[string]int) error {
	count := map[outcome]int{}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(rows) > 0 {
		fmt.Fprintln(t, "KIND\tOLD\tNEW\tOUTCOME\tWHY")
	}
	for _, r := range rows {
		count[r.outcome]++
		why := strings.Join(r.why, "; ")
		if why == "" {
			why = "-"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", r.Old.GetKind(), r.from(), orDash(r.to()), r.outcome, why)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	var lines []string
	if len(left) > 0 {
		var of []string
		for _, kind := range slices.Sorted(maps.Keys(left)) {
			of = append(of, fmt.Sprintf("%d %s", left[kind], kind))
		}
		lines = append(lines, "not about policies, and not moved: "+strings.Join(of, ", "))
	}
	switch {
	case len(rows) == 0:
		lines = append(lines, "nothing of "+migrate.OldAPI+" is to be moved")
	case count[isNew] > 0 && m.offline == "":
		lines = append(lines, fmt.Sprintf("%d new: --apply creates them", count[isNew]))
	case count[isSame]+count[isCreated] == len(rows) && m.offline == "":
		lines = append(lines, "all are in projectcalico.org/v3: --delete-old deletes the old ones")
	}
	for _, line := range lines {
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

// from and to are the names of the old object and of the new one.
func (r *row) from() string { return slashed(r.Old.GetNamespace(), r.Old.GetName()) }

func (r *row) to() string {
	if r.New == nil {
		return ""
	}
	return slashed(r.New.GetNamespace(), r.New.GetName())
}

func slashed(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

type jsonMove struct {
	Kind     string         `json:"kind"`
	Old      string         `json:"old"`
	New      string         `json:"new,omitempty"`
	Outcome  outcome        `json:"outcome"`
	Why      []string       `json:"why,omitempty"`
	Manifest migrate.Object `json:"manifest,omitempty"`
}

type jsonLeft struct {
	Kind  string `json:"kind"`
	Count int    `json:"count"`
}

// jsonReport is the report for programs.
type jsonReport struct {
	Objects []jsonMove `json:"objects"`
	Left    []jsonLeft `json:"left"`
}

func forProgram(rows []row, left map[string]int) jsonReport {
	out := jsonReport{[]jsonMove{}, []jsonLeft{}}
	for _, r := range rows {
		out.Objects = append(out.Objects, jsonMove{r.Old.GetKind(), r.from(), r.to(), r.outcome, r.why, r.New})
	}
	for _, kind := range slices.Sorted(maps.Keys(left)) {
		out.Left = append(out.Left, jsonLeft{kind, left[kind]})
	}
	return out
}
