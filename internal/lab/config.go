package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/plan"
)

const (
	// Prefix is the prefix of the names of all network namespaces and cgroups of the lab.
	Prefix = "tl-"
	// Marker is the environment variable of every process of the lab; its value is the lab's
	// directory.
	Marker = "TERWAY_LAB"

	// DefaultDir has the state of the running lab, which is deleted with it.
	DefaultDir = "/var/lib/terway-lab"
	// DefaultCache has built programs and images; it is kept when the lab is taken down.
	DefaultCache = "/var/cache/terway-lab"
	// cacheEnv overrides DefaultCache.
	cacheEnv = "TERWAY_CACHE"

	// Region is the region of the simulated VPC.
	Region = "cn-hangzhou"
	// ClusterID tags the cloud resources that Terway creates for this cluster.
	ClusterID = "terway-lab"
)

const (
	clusterDomain = "cluster.local"
	apiPort       = 6443
	// masterType is the instance type of the control plane's instance.
	masterType = "ecs.g6.xlarge"
	// masterName is the host name of that instance.
	masterName = "master"
)

// The networks that the lab can install.
const (
	// NetworkTerway installs Terway from the chart.
	NetworkTerway = claims.NetworkTerway
	// NetworkNone installs no network: nodes stay NotReady. It is for work on the lab itself.
	NetworkNone = "none"
)

// Options are the user's choices.
type Options struct {
	Dir          string   `json:"dir"`
	Nodes        int      `json:"nodes"`
	InstanceType string   `json:"instanceType"`
	Zones        []string `json:"zones"`
	// Datapath and Mode are set in the configuration; "" means the default, or with a plan the
	// plan's mode.
	Datapath string `json:"datapath"`
	Mode     string `json:"mode"`
	Network  string `json:"network"`
	// Kubernetes is the version, as ParseKubernetes returns it; "" means KubernetesVersion. That of a lab is a release.
	Kubernetes string `json:"kubernetes,omitempty"`
	// Policy turns network policies on in the chart.
	Policy bool `json:"policy,omitempty"`
	// Values are the user's values of the chart, which take the place of the lab's.
	Values map[string]any `json:"values,omitempty"`
	// Catalogue is the file with the table of instance types; "" means the built-in one.
	Catalogue string `json:"catalogue,omitempty"`
	// Plan is the network; if nil, it is derived from the other options.
	Plan *plan.Plan `json:"plan"`
	// Source is the root of Terway's source tree.
	Source string `json:"source"`
	// Cache is the directory of built programs and images.
	Cache string `json:"cache"`
}

// folders sets the default paths of the lab and makes all paths absolute.
func (o *Options) folders() error {
	if o.Dir == "" {
		o.Dir = DefaultDir
	}
	if o.Cache == "" {
		o.Cache = os.Getenv(cacheEnv)
	}
	if o.Cache == "" {
		o.Cache = DefaultCache
	}
	for _, p := range []*string{&o.Dir, &o.Cache, &o.Catalogue} {
		if *p == "" {
			continue // the built-in catalogue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return fmt.Errorf("make path %q absolute: %w", *p, err)
		}
		*p = abs
	}
	return nil
}

// Normalize sets defaults and validates the options.
func (o *Options) Normalize() error {
	if err := o.folders(); err != nil {
		return err
	}
	if err := o.checkDatapath(); err != nil {
		return err
	}
	if o.Kubernetes != "" {
		var err error
		if o.Kubernetes, err = ParseKubernetes(o.Kubernetes); err != nil {
			return err
		}
	}
	types, err := o.types()
	if err != nil {
		return err
	}
	if o.InstanceType == "" {
		o.InstanceType = DefaultInstanceType
		if o.Mode == claims.ModeExclusive {
			o.InstanceType = ExclusiveInstanceType
		}
	}
	if o.Nodes < 1 || o.Nodes > 50 {
		return fmt.Errorf("--nodes %d: must be 1 to 50", o.Nodes)
	}
	if o.Network != NetworkFlannel {
		if _, err := maxPods(types, o.InstanceType, o.Mode); err != nil {
			return err
		}
	}
	if len(o.Zones) == 0 {
		return fmt.Errorf("--zones is empty: give a number or a list such as cn-hangzhou-i,cn-hangzhou-j")
	}
	if !slices.Contains([]string{NetworkTerway, NetworkFlannel, NetworkNone}, o.Network) {
		return fmt.Errorf("--network %q: must be %s, %s or %s", o.Network, NetworkTerway, NetworkFlannel, NetworkNone)
	}
	if o.Policy && o.Network != NetworkTerway {
		return fmt.Errorf("--policy: Terway enforces network policies on its own pod network alone, and --network is %s; leave one of them out", o.Network)
	}
	if len(o.Values) > 0 && o.Network == NetworkNone {
		return fmt.Errorf("--values: with --network %s the chart is not installed; leave one of them out", NetworkNone)
	}
	for _, set := range []struct{ section, key, flag string }{
		{"eniConfig", "network", "--network"}, {"eniConfig", "datapath", "--datapath"}, {"eniConfig", "mode", "--mode"}, {"policy", "enabled", "--policy"},
	} {
		section, _ := o.Values[set.section].(map[string]any)
		if v, ok := section[set.key]; ok {
			return fmt.Errorf("--values: %s.%s: %v: the lab must know it; want %s in its place", set.section, set.key, v, set.flag)
		}
	}
	if o.Plan == nil {
		if o.Plan, err = o.propose(types); err != nil {
			return err
		}
	}
	if err := o.checkPlan(); err != nil {
		return err
	}
	if o.Source == "" {
		var err error
		if o.Source, err = findSource(); err != nil {
			return err
		}
	}
	return nil
}

// types returns the instance types of the plan and the simulated cloud.
func (o *Options) types() (*catalog.Catalog, error) {
	types, err := catalog.Open(o.Catalogue)
	if err != nil {
		return nil, fmt.Errorf("--catalogue: %w", err)
	}
	if _, ok := types.Lookup(masterType); !ok {
		return nil, fmt.Errorf("--catalogue %s: want a table with %s, too: the control plane's instance is one", o.Catalogue, masterType)
	}
	return types, nil
}

// maxPods returns the kubelets' maxPods.
func (o *Options) maxPods() (int, error) {
	if o.Network == NetworkFlannel {
		return blockPods(o.Plan.NodeMask), nil
	}
	types, err := o.types()
	if err != nil {
		return 0, err
	}
	return maxPods(types, o.InstanceType, o.Mode)
}

// zoneLetters are the zones of cn-hangzhou in the order of use.
var zoneLetters = []string{"i", "j", "k", "h", "g", "b", "f", "e"}

// maxZones is the maximum of --zones as a number.
const maxZones = 4

// ParseZones parses --zones: a number of zones or a list of their names.
func ParseZones(s string) ([]string, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > maxZones {
			return nil, fmt.Errorf("--zones %d: must be 1 to %d", n, maxZones)
		}
		zones := make([]string, n)
		for i := range zones {
			zones[i] = Region + "-" + zoneLetters[i]
		}
		return zones, nil
	}
	zones := strings.Split(s, ",")
	for i, z := range zones {
		letter, ok := strings.CutPrefix(z, Region+"-")
		if !ok || len(letter) != 1 {
			return nil, fmt.Errorf("--zones %q: %q is no zone of %s; want for example %s-i", s, z, Region, Region)
		}
		if slices.Contains(zones[:i], z) {
			return nil, fmt.Errorf("--zones %q: %q is named twice", s, z)
		}
	}
	return zones, nil
}

// findSource finds Terway's go.mod in the working directory or above.
func findSource() (string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the working directory: %w", err)
	}
	for dir := wd; ; dir = filepath.Dir(dir) {
		b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(b), "module terway.dev/terway\n") {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no source tree of terway.dev/terway in %s or above: run in the source tree or give --source", wd)
		}
	}
}

func (o *Options) path(elem ...string) string {
	return filepath.Join(append([]string{o.Dir}, elem...)...)
}

func (o *Options) cached(elem ...string) string {
	return filepath.Join(append([]string{o.Cache}, elem...)...)
}

// Bin returns the path of a program that the lab built; those of Kubernetes are of the lab's version.
func (o *Options) Bin(name string) string {
	if slices.Contains(kubePrograms, name) {
		return o.cached(o.kubeDir(name))
	}
	return o.cached("bin", name)
}

// binPath returns the folders of the programs of Bin as a PATH; the folder of all has Kubernetes of the usual version too.
func (o *Options) binPath() string { return o.cached(o.kubeDir()) + ":" + o.cached("bin") }

// Kubeconfig returns the path of the administrator's kubeconfig for this machine.
func (o *Options) Kubeconfig() string { return o.path("kubeconfig") }
