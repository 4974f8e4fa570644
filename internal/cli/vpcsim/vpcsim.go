// Package vpcsim is the command line of the simulated VPC: flags, the first line of output,
// signals. It must never contain logic of the simulator.
package vpcsim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/cli/program"
	sim "terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/faults"
	"terway.dev/terway/internal/vpcsim/state"
)

// NewCommand returns `vpcsim`.
func NewCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "vpcsim",
		Short: "A simulated VPC: OpenAPI, metadata service and data plane on this machine",
	}
	c.AddCommand(newServe(), newFaults(), newCleanup())
	return c
}

// Started is the first line of output of serve with -o json.
type Started struct {
	Endpoint        string   `json:"endpoint"`
	AccessKeyID     string   `json:"accessKeyId"`
	AccessKeySecret string   `json:"accessKeySecret"`
	Region          string   `json:"region"`
	Zone            string   `json:"zone"`
	Zones           []string `json:"zones"`
	OwnerID         string   `json:"ownerId"`
	AdminEndpoint   string   `json:"adminEndpoint"`
	// NetnsPrefix is the prefix of the fabric's namespaces; empty without a fabric.
	NetnsPrefix string `json:"netnsPrefix,omitempty"`
	PID         int    `json:"pid"`
}

type serveFlags struct {
	listen       string
	stateDir     string
	noFabric     bool
	netnsPrefix  string
	strict       bool
	bandwidth    bool
	region       string
	zones        []string
	catalogue    string
	faultsFile   string
	seed         uint64
	timing       string
	noThrottling bool
	throttle     float64
	refuseReplay bool
	roleLife     time.Duration
	clbBatch     int
	output       program.Output
	logLevel     string
}

func newServe() *cobra.Command {
	var f serveFlags
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the simulator until it is interrupted",
		Long: `Run the simulator until it is interrupted.

The endpoint serves ECS 2014-05-26, VPC 2016-04-28, SLB 2014-05-15, NLB
2022-04-30, STS 2015-04-01 and Location 2015-06-12, so that SDKs and programs
built on them work with their endpoint set to it. With --state the cloud and the
access key survive a restart. Without --no-fabric (which needs root) instances
are network namespaces and ENIs are devices in them. With --state they stay when the process ends, so that
the next start finds them; otherwise they are removed.`,
		Args: program.Args(),
		RunE: func(c *cobra.Command, _ []string) error { return serve(c, &f) },
	}
	fs := c.Flags()
	fs.StringVar(&f.listen, "listen", "127.0.0.1:0", "address of the endpoint; port 0 takes a free one")
	fs.StringVar(&f.stateDir, "state", "", "directory that keeps the cloud and its access key; empty keeps nothing")
	fs.BoolVar(&f.noFabric, "no-fabric", false, "answer calls only: no namespaces, no devices")
	fs.StringVar(&f.netnsPrefix, "netns-prefix", defaultPrefix, "prefix of the fabric's namespaces under /run/netns")
	fs.BoolVar(&f.strict, "strict", true, "drop packets whose source is not the ENI's even where SourceDestCheck is off")
	fs.BoolVar(&f.bandwidth, "bandwidth", false, "hold instances to their type's bandwidth: the fault rule \"bandwidth\" with typeBandwidth")
	fs.StringVar(&f.region, "region", "cn-hangzhou", "region id")
	fs.StringSliceVar(&f.zones, "zones", nil, "zone ids; the first one is reported as zone (default REGION-i first, then g, h, j, k)")
	fs.StringSliceVar(&f.zones, "zone", nil, "the same as --zones")
	fs.StringVar(&f.catalogue, "catalogue", "", "the table of instance types (`FILE`, which \"instance-types refresh\" writes) instead of the one built in")
	fs.StringVar(&f.faultsFile, "faults", "", "JSON file with one fault rule or a list of them; - is standard input")
	fs.Uint64Var(&f.seed, "seed", 1, "seed of ids, MACs and faults")
	fs.StringVar(&f.timing, "timing", "real", "how long asynchronous operations take: real, fast (a tenth), zero, or "+timingNames()+" as NAME=DURATION,… over real")
	fs.BoolVar(&f.noThrottling, "no-throttling", false, "let calls through at any rate")
	fs.Float64Var(&f.throttle, "throttle-scale", 1, "multiply the rates of all actions")
	fs.BoolVar(&f.refuseReplay, "refuse-replay", false, "refuse calls whose clock is off by 15 minutes or whose nonce was used")
	fs.DurationVar(&f.roleLife, "role-life", 6*time.Hour, "how long RAM role credentials of instances are valid")
	fs.IntVar(&f.clbBatch, "clb-batch", 20, "how many backends one call may name at a CLB; the reference says 20, the service accepts 40")
	f.output.Add(fs)
	fs.Lookup("output").Usage = "what to print at the start: text, json (one line) or yaml"
	fs.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error; debug logs every call")
	return c
}

func serve(c *cobra.Command, f *serveFlags) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return program.Usagef("--log-level %q: want debug, info, warn or error", f.logLevel)
	}
	if f.throttle <= 0 {
		return program.Usagef("--throttle-scale %v: want a number above 0", f.throttle)
	}
	if f.clbBatch < 1 {
		return program.Usagef("--clb-batch %d: want a number from 1", f.clbBatch)
	}
	timing, err := parseTiming(f.timing)
	if err != nil {
		return program.Usage(err)
	}
	types, err := catalog.Open(f.catalogue)
	if err != nil {
		return program.Usagef("--catalogue: %w", err)
	}
	rules, err := readFaults(f.faultsFile, c.InOrStdin())
	if err != nil {
		return err
	}
	if f.bandwidth {
		rules = append(rules, faults.Rule{Name: "bandwidth", TypeBandwidth: true})
	}
	log := slog.New(slog.NewTextHandler(c.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
	o := sim.Options{
		Listen: f.listen, StateDir: f.stateDir, RegionID: f.region, Zones: f.zones, Seed: f.seed, Timing: timing, Limits: state.Limits{BackendsPerCall: f.clbBatch},
		Catalog: types, Faults: rules, RefuseReplay: f.refuseReplay, RoleLife: f.roleLife, Log: log,
	}
	o.Throttle.Off, o.Throttle.Scale = f.noThrottling, f.throttle
	if len(o.Zones) == 0 {
		for _, letter := range []string{"i", "g", "h", "j", "k"} {
			o.Zones = append(o.Zones, f.region+"-"+letter)
		}
	}
	ctx := c.Context()
	if !f.noFabric {
		if o.Fabric, err = openFabric(f, log); err != nil {
			return err
		}
	}
	server, err := sim.New(o)
	if err != nil {
		return err
	}
	started := Started{
		Endpoint: server.Endpoint(), AccessKeyID: server.Account().AccessKeyID, AccessKeySecret: server.Account().AccessKeySecret,
		Region: server.Region(), Zone: server.ZoneIDs()[0], Zones: server.ZoneIDs(), OwnerID: server.Account().OwnerID,
		AdminEndpoint: server.Endpoint() + sim.AdminPrefix, PID: os.Getpid(),
	}
	if !f.noFabric {
		started.NetnsPrefix = f.netnsPrefix
	}
	if err := announce(c.OutOrStdout(), &f.output, started); err != nil {
		return errors.Join(fmt.Errorf("print the endpoint: %w", err), server.Close())
	}
	<-ctx.Done()
	return server.Close()
}

func announce(w io.Writer, output *program.Output, s Started) error {
	switch {
	case output.Is(program.JSON):
		return json.NewEncoder(w).Encode(s)
	case output.Is(program.YAML):
		return output.Encode(w, s)
	}
	_, err := fmt.Fprintf(w, `endpoint           %s
access key id      %s
access key secret  %s
region             %s
zones              %s
faults and stats   %s/{faults,stats,metrics,view,fabric}
`, s.Endpoint, s.AccessKeyID, s.AccessKeySecret, s.Region, strings.Join(s.Zones, " "), s.AdminEndpoint)
	return err
}

func readFaults(file string, stdin io.Reader) ([]faults.Rule, error) {
	if file == "" {
		return nil, nil
	}
	var data []byte
	var err error
	if file == "-" {
		data, err = io.ReadAll(stdin)
	} else {
		data, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, fmt.Errorf("read fault rules: %w", err)
	}
	rules, err := faults.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return rules, nil
}

// timings returns the durations that --timing can set.
func timings(t *state.Timing) []struct {
	name string
	at   *time.Duration
} {
	return []struct {
		name string
		at   *time.Duration
	}{
		{"create", &t.CreateENI}, {"attach", &t.AttachENI}, {"detach", &t.DetachENI}, {"delete", &t.DeleteENI},
		{"vpc", &t.VPC}, {"vswitch", &t.VSwitch}, {"route", &t.RouteEntry}, {"route-table", &t.RouteTable},
		{"instance-pending", &t.InstancePend}, {"instance-start", &t.InstanceStart}, {"instance-stop", &t.InstanceStop},
		{"listener", &t.Listener}, {"nlb", &t.NLBLoadBalancer}, {"nlb-listener", &t.NLBListener}, {"nlb-group", &t.NLBServerGroup},
	}
}

func timingNames() string {
	var t state.Timing
	var names []string
	for _, x := range timings(&t) {
		names = append(names, x.name)
	}
	return strings.Join(names, ", ")
}

func parseTiming(s string) (state.Timing, error) {
	t := state.DefaultTiming()
	switch s {
	case "real":
		return t, nil
	case "zero":
		return state.Timing{}, nil
	case "fast":
		for _, x := range timings(&t) {
			*x.at /= 10
		}
		return t, nil
	}
	all := timings(&t)
next:
	for part := range strings.SplitSeq(s, ",") {
		name, value, _ := strings.Cut(part, "=")
		d, err := time.ParseDuration(value)
		if err != nil || d < 0 {
			return t, fmt.Errorf("--timing %q: want real, fast, zero or NAME=DURATION,… such as attach=2s", s)
		}
		for _, x := range all {
			if x.name == name {
				*x.at = d
				continue next
			}
		}
		return t, fmt.Errorf("--timing %q: there is no %q; want one of %s", s, name, timingNames())
	}
	return t, nil
}
