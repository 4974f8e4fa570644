// Package helm installs Terway's chart with Helm's own library: what it makes is a release like one of "helm install", which
// "helm upgrade" and "helm uninstall" know. It knows no values, and must not wait for what the chart's objects do.
package helm

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"strings"
	"time"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/ignore"
	"helm.sh/helm/v4/pkg/kube"
	"helm.sh/helm/v4/pkg/release/common"
	release "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/storage/driver"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"terway.dev/terway/deploy"
)

// Release is the name under which the chart is installed.
const Release = "terway"

// Manager is the name by which the API server knows the fields that Helm has applied.
const Manager = "helm"

// history is how many revisions are kept: as many as "helm upgrade" keeps.
const history = 10

// Chart is a chart that was loaded.
type Chart struct {
	*chart.Chart
}

// Load loads a chart's folder or archive; of "" the chart that this program was built with.
func Load(from string) (Chart, error) {
	if from != "" {
		c, err := loader.Load(from)
		if err != nil {
			return Chart{}, fmt.Errorf("load the chart %s: %w", from, err)
		}
		return Chart{c}, nil
	}
	files, err := builtIn()
	if err == nil {
		var c *chart.Chart
		if c, err = loader.LoadFiles(files); err == nil {
			return Chart{c}, nil
		}
	}
	return Chart{}, fmt.Errorf("load the chart in this program: %w", err)
}

// Image returns the image of Terway's pods if the values name none.
func (c Chart) Image() string {
	of, _ := c.Values["image"].(map[string]any)
	text := func(key string) string { s, _ := of[key].(string); return s }
	image := text("repository") + ":" + cmp.Or(text("tag"), c.Metadata.AppVersion)
	if digest := text("digest"); digest != "" {
		image += "@" + digest
	}
	return image
}

// builtIn returns the files that Helm would load from the folder.
func builtIn() (files []*archive.BufferedFile, err error) {
	text, err := fs.ReadFile(deploy.Chart, path.Join(deploy.ChartDir, ignore.HelmIgnore))
	if err != nil {
		return nil, err
	}
	rules, err := ignore.Parse(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	rules.AddDefaults()
	err = fs.WalkDir(deploy.Chart, deploy.ChartDir, func(at string, d fs.DirEntry, err error) error {
		name, ok := strings.CutPrefix(at, deploy.ChartDir+"/")
		if err != nil || !ok {
			return err
		}
		info, err := d.Info()
		switch {
		case err != nil:
			return err
		case rules.Ignore(name, info) && d.IsDir():
			return fs.SkipDir
		case rules.Ignore(name, info) || d.IsDir():
			return nil
		}
		data, err := fs.ReadFile(deploy.Chart, at)
		files = append(files, &archive.BufferedFile{Name: name, ModTime: time.Now(), Data: data})
		return err
	})
	return files, err
}

// Client is Helm for one namespace of a cluster.
type Client struct {
	conf      *action.Configuration
	namespace string
}

// New returns Helm for a cluster. It asks the cluster nothing. cfg must work for some seconds after an interrupt: Helm
// records then that the release failed, so that the next command may go on.
func New(cfg *rest.Config, namespace string) (*Client, error) {
	// The owner of what is applied, as with the program helm: else each would conflict with the other.
	kube.ManagedFieldsManager = Manager
	conf := action.NewConfiguration(action.ConfigurationSetLogger(slog.DiscardHandler)) // its errors are returned, too
	if err := conf.Init(getter{cfg, namespace}, namespace, os.Getenv("HELM_DRIVER")); err != nil {
		return nil, fmt.Errorf("prepare Helm: %w", err)
	}
	return &Client{conf, namespace}, nil
}

// getter is how Helm's library gets its clients.
type getter struct {
	cfg       *rest.Config
	namespace string
}

func (g getter) ToRESTConfig() (*rest.Config, error) { return rest.CopyConfig(g.cfg), nil }

func (g getter) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	c, err := discovery.NewDiscoveryClientForConfig(g.cfg)
	if err != nil {
		return nil, err
	}
	return memory.NewMemCacheClient(c), nil
}

func (g getter) ToRESTMapper() (meta.RESTMapper, error) {
	c, err := g.ToDiscoveryClient()
	if err != nil {
		return nil, err
	}
	return restmapper.NewDeferredDiscoveryRESTMapper(c), nil
}

// ToRawKubeConfigLoader is asked for the namespace alone.
func (g getter) ToRawKubeConfigLoader() clientcmd.ClientConfig {
	return clientcmd.NewDefaultClientConfig(api.Config{}, &clientcmd.ConfigOverrides{Context: api.Context{Namespace: g.namespace}})
}

// Now is what the cluster has.
type Now struct {
	// Revision is 0 if there is no release, or it was uninstalled.
	Revision int
	// Status is Helm's: deployed, failed, pending-upgrade, …
	Status string
	// Since is when this revision was made.
	Since    time.Time
	Manifest string
	last     *release.Release
}

// Pending says that somebody is changing the release, or was when it was killed.
func (n *Now) Pending() bool { return n.last != nil && n.last.Info.Status.IsPending() }

// Uninstalling says that the release is being uninstalled, or that its uninstallation was refused or killed.
func (n *Now) Uninstalling() bool {
	return n.last != nil && n.last.Info.Status == common.StatusUninstalling
}

// ServerSide says that an upgrade applies objects on the server, where it conflicts with what others have changed. A release that Helm 3
// made stays with its own way.
func (n *Now) ServerSide() bool {
	return n.last != nil && n.last.ApplyMethod == string(release.ApplyMethodServerSideApply)
}

// Now reads the release.
func (c *Client) Now() (*Now, error) {
	last, err := c.conf.Releases.Last(Release)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return &Now{}, nil
	}
	r, ok := last.(*release.Release)
	if err == nil && !ok {
		err = fmt.Errorf("it is a %T, which this program does not know", last)
	}
	if err != nil {
		return nil, fmt.Errorf("read the release %s in namespace %s: %w", Release, c.namespace, err)
	}
	if r.Info.Status == common.StatusUninstalled {
		return &Now{}, nil
	}
	return &Now{Revision: r.Version, Status: r.Info.Status.String(), Since: r.Info.LastDeployed, Manifest: r.Manifest, last: r}, nil
}

// Abandon records that a pending change of the release has failed: nobody goes on with it. Until then Helm refuses another one.
func (c *Client) Abandon(n *Now) error {
	n.last.SetStatus(common.StatusFailed, "abandoned while "+n.Status)
	if err := c.conf.Releases.Update(n.last); err != nil {
		return fmt.Errorf("record that revision %d of the release %s has failed: %w", n.Revision, Release, err)
	}
	return nil
}

// Options say how a chart is installed.
type Options struct {
	// DryRun renders the chart as the cluster has it, and changes nothing.
	DryRun bool
	// ForceConflicts takes fields over that somebody else has changed since.
	ForceConflicts bool
}

// Apply installs the chart, or upgrades the release to it, with these values alone. It returns the objects that the release has
// then, as YAML, and waits only until the API server has them.
func (c *Client) Apply(ctx context.Context, n *Now, ch Chart, values map[string]any, o Options) (manifest string, err error) {
	dry := action.DryRunNone
	if o.DryRun {
		dry = action.DryRunServer
	}
	var made any
	if n.Revision == 0 {
		in := action.NewInstall(c.conf)
		in.ReleaseName, in.Namespace, in.CreateNamespace, in.Replace = Release, c.namespace, true, true
		in.DryRunStrategy, in.WaitStrategy, in.Timeout, in.ForceConflicts = dry, kube.HookOnlyStrategy, hookTimeout, o.ForceConflicts
		made, err = in.RunWithContext(ctx, ch.Chart, values)
	} else {
		up := action.NewUpgrade(c.conf)
		up.Namespace, up.ResetValues, up.MaxHistory = c.namespace, true, history
		up.DryRunStrategy, up.WaitStrategy, up.Timeout, up.ForceConflicts = dry, kube.HookOnlyStrategy, hookTimeout, o.ForceConflicts
		made, err = up.RunWithContext(ctx, Release, ch.Chart, values)
	}
	if err != nil {
		return "", err
	}
	r, ok := made.(*release.Release)
	if !ok {
		return "", fmt.Errorf("a release is a %T, which this program does not know", made)
	}
	return r.Manifest, nil
}

// hookTimeout is Helm's default for the hooks of a chart.
const hookTimeout = 5 * time.Minute
