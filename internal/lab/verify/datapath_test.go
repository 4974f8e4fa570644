package verify

import (
	"errors"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
)

func TestCheckDatapaths(t *testing.T) {
	for names, want := range map[string]string{
		"":                     "",
		"all":                  "",
		"route,ebpf,exclusive": "",
		"auto":                 `--datapath "auto": must be route, ebpf, ipvlan, netkit, exclusive, or all`,
		"fast":                 `--datapath "fast": must be route`,
		"route,all":            "give it alone",
		"route,ebpf,route":     "route is named twice",
	} {
		var list []string
		if names != "" {
			list = strings.Split(names, ",")
		}
		err := CheckDatapaths(lab.NetworkTerway, list)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", names, err, want)
		}
		if err := CheckDatapaths(lab.NetworkFlannel, list); (err == nil) != (names == "") {
			t.Errorf("%q with flannel: %v", names, err)
		}
	}
}

// From any setting, the way back restores the former configuration.
func TestSettingThereAndBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := map[string]any{"cluster_id": "c", "region": "cn-hangzhou", "service_cidr": "172.21.0.0/20", "min_pool_size": 3.0,
			"vswitches": map[string]any{"cn-hangzhou-i": []any{"vsw-1"}}}
		switch rapid.SampledFrom([]string{"none", "shared", "exclusive"}).Draw(t, "mode") {
		case "shared":
			raw["mode"], raw["datapath"] = "shared", rapid.SampledFrom([]string{"auto", "route", "ebpf", "netkit"}).Draw(t, "datapath")
		case "exclusive":
			raw["mode"] = "exclusive"
		}
		b, err := yaml.Marshal(raw)
		if err != nil {
			t.Fatal(err)
		}
		text, before := string(b), setting{}
		for i, to := range rapid.SliceOfN(rapid.SampledFrom(Datapaths()), 1, 4).Draw(t, "to") {
			next, was, err := settingOf(to).put(text)
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				before = was
			}
			if mode := map[bool]string{true: "mode: exclusive", false: "mode: shared"}[to == instruments.Exclusive]; !strings.Contains(next, mode) {
				t.Fatalf("moved to %s:\n%s", to, next)
			}
			text = next
		}
		if back, _, err := before.put(text); err != nil || back != string(b) {
			t.Fatalf("back: %v\n%s\nwant\n%s", err, back, b)
		}
	})
}

func TestAwaits(t *testing.T) {
	node := func(spec, mode, runs, status, reason string, observed int64) *v1alpha1.NodeNetwork {
		nn := &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: "node1", Generation: 2}}
		nn.Spec.Datapath, nn.Spec.Mode = spec, mode
		nn.Status.Datapath = runs
		nn.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionDatapathReady, Status: metav1.ConditionStatus(status), Reason: reason,
			Message: "the node's word", ObservedGeneration: observed}}
		return nn
	}
	for name, c := range map[string]struct {
		nn      *v1alpha1.NodeNetwork
		to      string
		want    string
		refused bool
	}{
		"runs":              {node("route", "shared", "route", "True", "Configured", 2), "route", "", false},
		"runs exclusive":    {node("auto", "exclusive", instruments.Exclusive, "True", "ModeExclusive", 2), instruments.Exclusive, "", false},
		"not configured":    {node("auto", "shared", "ebpf", "True", "Auto", 2), "route", "is configured with datapath auto", false},
		"not acted":         {node("route", "shared", "ebpf", "True", "Auto", 1), "route", "has not acted on it", false},
		"another runs":      {node("auto", "exclusive", "ebpf", "True", "Auto", 2), instruments.Exclusive, "runs ebpf", false},
		"not programmed":    {node("route", "shared", "route", "False", "NotProgrammed", 2), "route", "the node's word", false},
		"refused":           {node("netkit", "shared", "", "False", v1alpha1.ReasonDatapathRefused, 2), "netkit", "", true},
		"kept the old one":  {node("netkit", "shared", "ebpf", "True", v1alpha1.ReasonDatapathKept, 2), "netkit", "", true},
		"refused before it": {node("netkit", "shared", "ebpf", "True", v1alpha1.ReasonDatapathKept, 2), "route", "is configured with datapath netkit", false},
	} {
		got, err := awaits(c.nn, settingOf(c.to))
		refused := (*refusedError)(nil)
		if errors.As(err, &refused) != c.refused || !strings.Contains(got, c.want) || (c.want == "") != (got == "") {
			t.Errorf("%s: %q, %v, want %q, refused %t", name, got, err, c.want, c.refused)
		}
		if c.refused && err.Error() != "node1: the node's word" {
			t.Errorf("%s: %v", name, err)
		}
	}
}
