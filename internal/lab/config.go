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
	// Prefix starts the name of every network namespace and cgroup of the lab.
	Prefix = "tl-"
	// Marker is the environment variable that every process of the lab carries;
	// its value is the lab's directory.
	Marker = "TERWAY_LAB"

	// DefaultDir holds the state of the running lab and nothing worth keeping.
	DefaultDir = "/var/lib/terway-lab"
	// DefaultCache holds what was built; it survives the lab.
	DefaultCache = "/var/cache/terway-lab"
	// cacheEnv overrides DefaultCache.
	cacheEnv = "TERWAY_CACHE"

	// Region is where the simulated VPC is.
	Region = "cn-hangzhou"
	// ClusterID tags the cloud resources that Terway makes for this cluster.
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
	// NetworkNone installs no network: nodes stay NotReady, for working on the lab itself.
	NetworkNone = "none"
)

// Options are what the user chooses.
type Options struct {
	Dir          string   `json:"dir"`
	Nodes        int      `json:"nodes"`
	InstanceType string   `json:"instanceType"`
	Zones        []string `json:"zones"`
	// Datapath and Mode are the configuration's; "" means its default, with a plan the plan's mode.
	Datapath string `json:"datapath"`
	Mode     string `json:"mode"`
	Network  string `json:"network"`
	// Catalogue is the file with the table of instance types; "" means the one built in.
	Catalogue string `json:"catalogue,omitempty"`
	// Plan is the network; without one it follows from the other options.
	Plan *plan.Plan `json:"plan"`
	// Source is the root of Terway's source tree.
	Source string `json:"source"`
	// Cache is where built programs and images are kept.
	Cache string `json:"cache"`
}

// folders fills in the defaults of the lab's folders and files and makes their paths absolute.
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
			continue // the catalogue that is built in
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return fmt.Errorf("make path %q absolute: %w", *p, err)
		}
		*p = abs
	}
	return nil
}

// Normalize fills in what is empty and says what is wrong with the rest.
func (o *Options) Normalize() error {
	if err := o.folders(); err != nil {
		return err
	}
	if err := o.checkDatapath(); err != nil {
		return err
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

// types are the instance types that the plan and the simulated cloud know.
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

// maxPods is what the kubelets are told.
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

// zoneLetters are the zones of cn-hangzhou in the order in which the lab takes them.
var zoneLetters = []string{"i", "j", "k", "h", "g", "b", "f", "e"}

// maxZones is how many zones can be asked for by number.
const maxZones = 4

// ParseZones reads --zones: a number of zones or a list of their names.
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

// findSource looks for Terway's go.mod in the working directory and above.
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

// Bin is the path of a program that the lab built.
func (o *Options) Bin(name string) string { return o.cached("bin", name) }

// Kubeconfig is the administrator's kubeconfig for use on this machine.
func (o *Options) Kubeconfig() string { return o.path("kubeconfig") }
