package lab

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/catalog/catalogtest"
	"terway.dev/terway/internal/datapath/claims"
)

func options(zones ...string) Options {
	return Options{Nodes: 2, InstanceType: "ecs.g6.2xlarge", Zones: zones, Network: NetworkTerway, Source: "/src"}
}

func TestPlanIsTheRecommendedOne(t *testing.T) {
	o := options("cn-hangzhou-i", "cn-hangzhou-j")
	if err := o.Normalize(); err != nil {
		t.Fatal(err)
	}
	p := o.Plan
	got := fmt.Sprint(p.VPC.CIDR, p.ServiceCIDR, o.apiServiceIP(), o.dnsServiceIP())
	for _, z := range p.Zones {
		got += fmt.Sprintf(" %s %s %d %s", z.ID, z.Node.CIDR, len(z.Pods), z.Pods[0].CIDR)
	}
	want := "192.168.0.0/16 172.21.0.0/20 172.21.0.1 172.21.0.10" +
		" cn-hangzhou-i 192.168.0.0/19 1 192.168.32.0/19 cn-hangzhou-j 192.168.64.0/19 1 192.168.96.0/19"
	if got != want {
		t.Errorf("plan of two zones:\n%s, want\n%s", got, want)
	}
}

func TestGivenPlan(t *testing.T) {
	o := options("cn-hangzhou-i", "cn-hangzhou-j")
	if err := o.Normalize(); err != nil {
		t.Fatal(err)
	}
	given := *o.Plan
	given.ServiceCIDR = netip.MustParsePrefix("172.19.0.0/20")
	with := Options{Source: "/src"}
	with.UsePlan(&given)
	if err := with.Normalize(); err != nil {
		t.Fatal(err)
	}
	if with.Nodes != 2 || with.InstanceType != "ecs.g6.2xlarge" || with.Network != NetworkTerway || len(with.Zones) != 2 || with.dnsServiceIP().String() != "172.19.0.10" {
		t.Errorf("options of the plan: %+v", with)
	}
	for field, spoil := range map[string]func(*Options){
		"--nodes 3":      func(o *Options) { o.Nodes = 3 },
		"mode exclusive": func(o *Options) { p := given; p.Mode = claims.ModeExclusive; o.Plan = &p },
		"prefixes":       func(o *Options) { p := given; p.Prefixes = true; o.Plan = &p },
		"is for flannel": func(o *Options) { p := given; p.Network = claims.NetworkFlannel; o.Plan = &p },
	} {
		o := with
		spoil(&o)
		if err := o.Normalize(); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("spoiled %s: error %v does not name it", field, err)
		}
	}
}

// Policies are what the user says in the chart, and only where Terway enforces them.
func TestPolicyOption(t *testing.T) {
	for _, on := range []bool{false, true} {
		o := options("cn-hangzhou-i")
		o.Policy = on
		if err := o.Normalize(); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint((&State{Options: o}).chartValues()["policy"]); got != fmt.Sprintf("map[enabled:%t]", on) {
			t.Errorf("--policy=%t: the chart's value is %s", on, got)
		}
	}
	for _, network := range []string{NetworkFlannel, NetworkNone} {
		o := options("cn-hangzhou-i")
		o.Policy, o.Network = true, network
		if err := o.Normalize(); err == nil || !strings.Contains(err.Error(), "--policy") {
			t.Errorf("--policy with --network %s: %v", network, err)
		}
	}
}

// TestCatalogue: a type that only the table of --catalogue has can be used.
func TestCatalogue(t *testing.T) {
	known, _ := catalog.Lookup("ecs.g6.2xlarge")
	known.Name, known.IPv4PerENI = "ecs.g99.2xlarge", catalog.Of(12)
	master, _ := catalog.Lookup(masterType)
	table := catalogtest.Table(t, known, master)
	o := options("cn-hangzhou-i")
	o.InstanceType = known.Name
	if err := o.Normalize(); err == nil || !strings.Contains(err.Error(), "--catalogue") {
		t.Errorf("without the table: %v", err)
	}
	o.Catalogue = table
	if err := o.Normalize(); err != nil {
		t.Fatal(err)
	}
	if pods, err := o.maxPods(); err != nil || pods != 3*12 {
		t.Errorf("%d pods (%v), want 36", pods, err)
	}
	if args := strings.Join(o.cloudArgs(), " "); !strings.Contains(args, "--catalogue "+table) {
		t.Errorf("the simulated cloud is started with %s", args)
	}
	for path, want := range map[string]string{table + ".none": "--catalogue: ", catalogtest.Table(t, known): "want a table with " + masterType} {
		o.Catalogue = path
		if err := o.Normalize(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("--catalogue %s: %v, want %q", path, err, want)
		}
	}
}

func TestParseZones(t *testing.T) {
	for _, tt := range []struct {
		in, want string
		err      string // part of the message
	}{
		{in: "1", want: "cn-hangzhou-i"},
		{in: "2", want: "cn-hangzhou-i cn-hangzhou-j"},
		{in: "cn-hangzhou-h,cn-hangzhou-b", want: "cn-hangzhou-h cn-hangzhou-b"},
		{in: "0", err: "must be 1 to 4"},
		{in: "5", err: "must be 1 to 4"},
		{in: "cn-beijing-a", err: `"cn-beijing-a" is no zone of cn-hangzhou`},
		{in: "cn-hangzhou-i,cn-hangzhou-i", err: "named twice"},
	} {
		got, err := ParseZones(tt.in)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("ParseZones(%q): error %v, want one with %q", tt.in, err, tt.err)
			}
			continue
		}
		if err != nil || strings.Join(got, " ") != tt.want {
			t.Errorf("ParseZones(%q) = %v, %v, want %s", tt.in, got, err, tt.want)
		}
	}
}

func TestNormalizeNamesTheField(t *testing.T) {
	good := options("cn-hangzhou-i")
	if err := good.Normalize(); err != nil || good.Dir != DefaultDir {
		t.Fatalf("good options: %v, dir %q", err, good.Dir)
	}
	for field, spoil := range map[string]func(*Options){
		"--nodes":         func(o *Options) { o.Nodes = 0 },
		"--instance-type": func(o *Options) { o.InstanceType = "ecs.nosuch" },
		"--zones":         func(o *Options) { o.Zones = nil },
		"--network":       func(o *Options) { o.Network = "weave" },
		`--datapath "fast": must be one of auto, route, ebpf, ipvlan, netkit`: func(o *Options) { o.Datapath = "fast" },
		`--mode "alone": must be one of shared, exclusive`:                    func(o *Options) { o.Mode = "alone" },
		"--datapath route with --mode exclusive":                              func(o *Options) { o.Datapath, o.Mode = "route", claims.ModeExclusive },
		"--datapath route: only with --network terway":                        func(o *Options) { o.Datapath, o.Network = "route", NetworkFlannel },
		"--mode exclusive: only with --network terway":                        func(o *Options) { o.Mode, o.Network = claims.ModeExclusive, NetworkNone },
		"--instance-type ecs.g6.large: in mode exclusive":                     func(o *Options) { o.InstanceType, o.Mode = "ecs.g6.large", claims.ModeExclusive },
	} {
		o := good
		o.Plan = nil
		spoil(&o)
		if err := o.Normalize(); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("spoiled %s: error %v does not name it", field, err)
		}
	}
}

func TestExclusive(t *testing.T) {
	o := options("cn-hangzhou-i")
	o.InstanceType, o.Mode = "", claims.ModeExclusive
	if err := o.Normalize(); err != nil {
		t.Fatal(err)
	}
	// Five of the six ENIs are for pods; the kubelet also counts agent and controller.
	pods, err := o.maxPods()
	if err != nil || pods != 7 || o.InstanceType != ExclusiveInstanceType || o.Plan.Mode != claims.ModeExclusive {
		t.Errorf("%d pods (%v) on %s, plan for mode %s", pods, err, o.InstanceType, o.Plan.Mode)
	}
	with := Options{Source: "/src"}
	with.UsePlan(o.Plan)
	if err := with.Normalize(); err != nil {
		t.Fatal(err)
	}
	config := (&State{Options: with}).chartValues()["eniConfig"].(map[string]any)
	if config["mode"] != claims.ModeExclusive || config["datapath"] != "auto" {
		t.Errorf("configuration of the plan: %v", config)
	}
}

// The user's values take the place of the lab's own, and leave the others. What flags say they must not.
func TestValues(t *testing.T) {
	o := Options{Source: ".", Nodes: 2, Network: NetworkTerway, Zones: []string{"cn-hangzhou-i"}, Policy: true,
		Values: map[string]any{"log": map[string]any{"level": "debug"}, "eniConfig": map[string]any{"min_pool_size": 1}}}
	if err := o.Normalize(); err != nil {
		t.Fatal(err)
	}
	values := (&State{Options: o}).chartValues()
	config := values["eniConfig"].(map[string]any)
	if got := fmt.Sprint(values["log"], config["min_pool_size"], config["max_pool_size"], values["policy"]); got != "map[level:debug] 1 8 map[enabled:true]" {
		t.Errorf("the chart's values: %s", got)
	}
	for section, key := range map[string]string{"eniConfig": "datapath", "policy": "enabled"} {
		o.Values = map[string]any{section: map[string]any{key: "x"}}
		if err := o.Normalize(); err == nil || !strings.Contains(err.Error(), section+"."+key) || !strings.Contains(err.Error(), "want --") {
			t.Errorf("%v: %v, want an error that names the value and the flag", o.Values, err)
		}
	}
	o.Network, o.Policy, o.Values = NetworkNone, false, map[string]any{"log": nil}
	if err := o.Normalize(); err == nil || !strings.Contains(err.Error(), "--values") {
		t.Errorf("values without the chart: %v, want an error that names --values", err)
	}
}
