// Package install is the command "terwayctl install": it checks what an installation needs, installs or upgrades the chart with Helm's own
// library, and waits until Terway works. What the checks mean is in package internal/preflight.
package install

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/utils/clock"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/cli/chartvalues"
	"terway.dev/terway/internal/cli/cloudflags"
	"terway.dev/terway/internal/cli/kubeflags"
	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/cloud/alibaba"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/helm"
	"terway.dev/terway/internal/preflight"
	"terway.dev/terway/internal/provision"
)

// The names of the two checks that are not of package preflight: they cannot be ignored.
const (
	checkValues = "values"
	checkChart  = "chart"
)

// options are the flags.
type options struct {
	kube            kubeflags.Flags
	cloud           cloudflags.Flags
	output          program.Output
	values, ignore  []string
	chart           string
	dryRun, noCloud bool
	takeOver, force bool
	wait            time.Duration
}

// NewCommand returns "terwayctl install".
func NewCommand() *cobra.Command {
	o := &options{}
	cmd := &cobra.Command{
		Use:   "install [PLAN] [--values FILE]",
		Short: "Check a cluster and its account, install or upgrade Terway there, and wait until it works",
		Long: `Install Terway's chart with Helm's own library, or upgrade it: the same as "helm
upgrade --install terway", with checks before and a wait afterwards.

The chart's values are those of --values; with PLAN, a plan's file, eniConfig is that of
the plan's VPC, below them. An upgrade needs all values again, as with "helm upgrade".

First it checks what would fail later: docs/install.md has the list. If a check fails,
nothing is changed; --ignore names checks whose failure you accept. With the access key
that the controller will have it also tries whether the controller may make its calls:
those that would change something are made for resources that do not exist.

--dry-run ends after the checks, and prints which objects would be made or changed.`,
		Example: `  terwayctl install --values my-values.yaml --dry-run
  terwayctl install plan.yaml --values my-values.yaml
  terwayctl install --values my-values.yaml --ignore max-pods --wait=15m`,
		Args: program.Args("[PLAN]"),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args) },
	}
	f := cmd.Flags()
	o.kube.Timeout = &o.cloud.Timeout
	o.cloud.Add(f)
	o.kube.Add(f)
	o.kube.AddTerway(f)
	f.StringSliceVarP(&o.values, "values", "f", nil, "`FILES` with the chart's values; a later one goes before an earlier one")
	f.StringVar(&o.chart, "chart", "", "the chart's `FOLDER` or archive (default: the chart that this program was built with)")
	f.BoolVar(&o.dryRun, "dry-run", false, "check, and print what would be done")
	f.BoolVar(&o.noCloud, "no-cloud", false, "do not ask the cloud; needs no credential")
	f.StringSliceVar(&o.ignore, "ignore", nil, "`NAMES` of checks whose failure is no obstacle")
	f.BoolVar(&o.takeOver, "take-over", false, "another command that was changing the release was killed: go on in its place")
	f.BoolVar(&o.force, "force-conflicts", false, "take over fields that others have changed since the last installation")
	f.DurationVar(&o.wait, "wait", 5*time.Minute, "how long to wait until Terway works; 0: not at all")
	o.output.Add(f)
	return cmd
}

// values are those of the chart's values that the checks use.
type values struct {
	Policy struct {
		Enabled bool `json:"enabled"`
	} `json:"policy"`
	Credentials struct {
		Source          string `json:"source"`
		ExistingSecret  string `json:"existingSecret"`
		AccessKeyID     string `json:"accessKeyID"`
		AccessKeySecret string `json:"accessKeySecret"`
	} `json:"credentials"`
	all map[string]any
}

// Result is what the command prints.
type Result struct {
	Namespace string `json:"namespace"`
	Release   string `json:"release"`
	// Revision is the release's, or what it would become.
	Revision int               `json:"revision"`
	Chart    string            `json:"chart"`
	Checks   []preflight.Check `json:"checks"`
	Objects  *Objects          `json:"objects,omitempty"`
	// Done: the chart is installed.
	Done bool `json:"done"`
}

func (o *options) run(cmd *cobra.Command, args []string) error {
	if len(args) == 0 && len(o.values) == 0 {
		return program.Usagef("want --values FILE, or a plan's file, or both")
	}
	if o.wait < 0 {
		return program.Usagef("--wait=%s: want a duration such as 5m, or 0", o.wait)
	}
	for _, name := range o.ignore {
		if !slices.Contains(preflight.Names(), name) {
			return program.Usagef("--ignore %s: want some of %s", name, strings.Join(preflight.Names(), ", "))
		}
	}
	ctx := cmd.Context()
	v, err := o.read(cmd, args)
	if err != nil {
		return err
	}
	chart, err := helm.Load(o.chart)
	if err != nil {
		return err
	}
	r := &Result{Namespace: o.kube.Terway, Release: helm.Release, Chart: chart.Metadata.Version}
	conf, check, err := checkOf(v.all)
	if err != nil {
		return err
	}
	r.Checks = append(r.Checks, check)
	if conf == nil {
		return o.end(cmd, r)
	}
	to, err := o.connect(ctx)
	if err != nil {
		return err
	}
	now, err := to.helm.Now()
	if err != nil {
		return to.explain(err)
	}
	if now.Pending() {
		if !o.takeOver {
			return fmt.Errorf("the release %s is %s since %s (revision %d): another command changes it. If that was killed, --take-over goes on in its place", helm.Release, now.Status, now.Since.Format(time.RFC3339), now.Revision)
		}
		if !o.dryRun {
			if err := to.helm.Abandon(now); err != nil {
				return to.explain(err)
			}
		}
	}
	if now.Uninstalling() {
		return fmt.Errorf("the release %s is uninstalling since %s (revision %d): uninstall it again, or keep it with \"helm -n %s rollback %[1]s %[3]d\" (docs/uninstall.md)", helm.Release, now.Since.Format(time.RFC3339), now.Revision, r.Namespace)
	}
	r.Revision = now.Revision + 1
	manifest, err := to.helm.Apply(ctx, now, chart, v.all, helm.Options{DryRun: true})
	check = preflight.Check{Name: checkChart, Problems: []string{}, Notes: []string{}}
	if err != nil {
		check.Problems = append(check.Problems, err.Error())
	} else {
		objects, err := compare(now.Manifest, manifest)
		if err != nil {
			return err
		}
		r.Objects = &objects
		if now.Revision == 0 || now.ServerSide() {
			if check.Problems, check.Notes, err = rejected(ctx, to.client, r.Namespace, manifest, o.force); err != nil {
				return to.explain(err)
			}
		}
	}
	r.Checks = append(r.Checks, check)
	f := &preflight.Facts{Namespace: o.kube.Terway, Upgrade: now.Revision > 0, Config: conf, PolicyEnabled: v.Policy.Enabled, ChartImage: chart.Image()}
	if f.Image, err = imageOf(manifest); err != nil {
		return err
	}
	if err := o.facts(cmd, to, f, v, manifest); err != nil {
		return err
	}
	r.Checks = append(r.Checks, preflight.Judge(f, o.ignore)...)
	if err := verdict(r); err != nil || o.dryRun {
		return o.end(cmd, r)
	}
	say := cmd.ErrOrStderr()
	fmt.Fprintf(say, "installing revision %d of the release %s in namespace %s\n", r.Revision, r.Release, r.Namespace)
	if _, err := to.helm.Apply(ctx, now, chart, v.all, helm.Options{ForceConflicts: o.force}); err != nil {
		return fmt.Errorf("%w\nthe same command goes on", to.explain(err))
	}
	r.Done = true
	if o.wait > 0 && len(f.Served()) > 0 { // while a cluster migrates, it may have none
		if err := to.wait(ctx, conf.Network, o.wait, say); err != nil {
			return errors.Join(o.end(cmd, r), fmt.Errorf("the chart is installed, but Terway does not work yet: %w", err))
		}
	}
	return o.end(cmd, r)
}

// end prints the result, and returns the checks that have failed as an error.
func (o *options) end(cmd *cobra.Command, r *Result) error {
	if err := o.output.Write(cmd.OutOrStdout(), r, func(w io.Writer) error { return r.write(w, o.dryRun) }); err != nil {
		return err
	}
	return verdict(r)
}

// read reads the values: of the plan's VPC, and of the files over it.
func (o *options) read(cmd *cobra.Command, args []string) (*values, error) {
	all := map[string]any{}
	if len(args) == 1 {
		if o.noCloud {
			return nil, program.Usagef("--no-cloud: the ids of a plan's VPC are in the cloud; \"terwayctl vpc apply PLAN -o values\" prints them for --values")
		}
		conf, err := o.planned(cmd, args[0])
		if err != nil {
			return nil, err
		}
		all["eniConfig"] = conf
	}
	for _, name := range o.values {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("--values: %w", err)
		}
		over := map[string]any{}
		if err := yaml.Unmarshal(data, &over); err != nil {
			return nil, fmt.Errorf("--values %s: %w", name, err)
		}
		chartvalues.Put(all, over)
	}
	v := &values{all: all}
	v.Credentials.Source = "secret" // the chart's default
	data, err := yaml.Marshal(all)
	if err == nil {
		err = yaml.Unmarshal(data, v)
	}
	if err != nil {
		return nil, fmt.Errorf("read the chart's values: %w", err)
	}
	return v, nil
}

// planned returns the value eniConfig of a plan's VPC.
func (o *options) planned(cmd *cobra.Command, name string) (map[string]any, error) {
	file := &provision.PlanFile{Path: name, Types: catalog.Default()}
	p, err := file.Load()
	if err != nil {
		return nil, err
	}
	api, region, err := o.cloud.Connect(p.Region, saying(cmd))
	if err != nil {
		return nil, err
	}
	n, err := (&provision.Provisioner{Cloud: api, Region: region, Clock: clock.RealClock{}, Say: saying(cmd)}).Show(cmd.Context(), p.Name)
	if err != nil {
		return nil, cloudflags.Explain(cmd.Context(), err, "deploy/ram-policy-vpc.json has the policy that you need")
	}
	var conf map[string]any
	data, err := yaml.Marshal(n.ENIConfig(p))
	if err == nil {
		err = yaml.Unmarshal(data, &conf)
	}
	return conf, err
}

func saying(cmd *cobra.Command) func(string) {
	return func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), line) }
}

// checkOf checks the values by the chart's schema and the controller's rules; without a configuration they are wrong.
func checkOf(all map[string]any) (*config.Config, preflight.Check, error) {
	out := preflight.Check{Name: checkValues, Problems: []string{}, Notes: []string{}}
	data, err := yaml.Marshal(map[string]any{"eniConfig": all["eniConfig"]})
	if err != nil {
		return nil, out, err
	}
	conf, err := config.FromFile(data)
	if err != nil {
		out.Problems = strings.Split(err.Error(), "\n")
	}
	wrong, err := chartvalues.Check(all)
	if err != nil {
		return nil, out, err
	}
	// What is wrong with eniConfig the controller's rules say better.
	out.Problems = append(out.Problems, slices.DeleteFunc(wrong, func(line string) bool { return conf == nil && strings.HasPrefix(line, "eniConfig") })...)
	if len(out.Problems) > 0 {
		return nil, out, nil
	}
	return conf, out, nil
}

// facts reads what the checks need.
func (o *options) facts(cmd *cobra.Command, to *target, f *preflight.Facts, v *values, manifest string) error {
	ctx := cmd.Context()
	if err := objects(ctx, to.client, f); err != nil {
		return to.explain(err)
	}
	var err error
	if f.Denied, err = denied(ctx, to.client, f.Namespace, manifest); err != nil {
		return to.explain(err)
	}
	source, wrong, err := credential(ctx, to.client, f.Namespace, v)
	if err != nil {
		return to.explain(err)
	}
	f.Credential = wrong
	switch {
	case o.noCloud:
		f.NoCloud = "--no-cloud"
		return nil
	case wrong != "":
		f.NoCloud = "there is no credential"
		return nil
	}
	controllers := source != nil
	if !controllers {
		source = alibaba.ChainCredentials()
	}
	api, _, err := o.cloud.ConnectAs(source, f.Config.Region, saying(cmd))
	if err != nil {
		return err
	}
	if err := look(ctx, api, controllers, f); err != nil {
		if controllers && isAuth(err) {
			f.Cloud, f.Credential, f.NoCloud = nil, "the cloud does not accept the controller's credential: "+err.Error(), "the credential is not accepted"
			return nil
		}
		if !controllers && isAuth(err) { // the user needs none
			f.Cloud, f.NoCloud = nil, "only the controller can use its own credential, and yours is not accepted: "+err.Error()
			return nil
		}
		return cloudflags.Explain(ctx, fmt.Errorf("ask the cloud (--no-cloud leaves it out): %w", err), "deploy/ram-policy-vpc.json has the policy for you")
	}
	return nil
}

// verdict returns the checks that have failed, as an error.
func verdict(r *Result) error {
	var failed, known []string
	for _, c := range r.Checks {
		if len(c.Problems) == 0 || c.Ignored {
			continue
		}
		failed = append(failed, c.Name)
		if slices.Contains(preflight.Names(), c.Name) {
			known = append(known, c.Name)
		}
	}
	switch {
	case len(failed) == 0:
		return nil
	case len(known) < len(failed):
		return fmt.Errorf("checks have failed: %s", strings.Join(failed, ", "))
	}
	return fmt.Errorf("checks have failed: %s; --ignore %s installs in spite of that", strings.Join(failed, ", "), strings.Join(known, ","))
}

// ignored returns the names of the checks that have failed and are no obstacle.
func (r *Result) ignored() (names []string) {
	for _, c := range r.Checks {
		if c.Ignored {
			names = append(names, c.Name)
		}
	}
	return names
}

// write prints the result for people.
func (r *Result) write(w io.Writer, dry bool) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "CHECK\tRESULT")
	for _, c := range r.Checks {
		result := "ok"
		switch {
		case c.Skipped != "":
			result = "skipped: " + c.Skipped
		case c.Ignored:
			result = "failed, ignored"
		case len(c.Problems) > 0:
			result = "failed"
		}
		fmt.Fprintf(t, "%s\t%s\n", c.Name, result)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, c := range r.Checks {
		for _, p := range c.Problems {
			fmt.Fprintf(w, "problem: %s: %s\n", c.Name, p)
		}
		for _, n := range c.Notes {
			fmt.Fprintf(w, "note: %s: %s\n", c.Name, n)
		}
	}
	if r.Objects == nil {
		return nil
	}
	does := "makes"
	if dry || !r.Done {
		does = "would make"
	}
	fmt.Fprintf(w, "\nrevision %d of the release %s in namespace %s, chart %s, %s %d objects, changes %d, deletes %d, and leaves %d\n",
		r.Revision, r.Release, r.Namespace, r.Chart, does, len(r.Objects.Create), len(r.Objects.Change), len(r.Objects.Delete), r.Objects.Unchanged)
	if dry {
		r.Objects.write(w)
	}
	if names := r.ignored(); len(names) > 0 {
		fmt.Fprintf(w, "\nchecks that have failed, and were ignored: %s\n", strings.Join(names, ", "))
	}
	return nil
}
