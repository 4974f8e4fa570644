package cloudflags

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/cloud/alibaba"
)

func TestSlow(t *testing.T) {
	for want, p := range map[string]alibaba.Pause{
		"waiting 3s to repeat DescribeVpcs: Throttling: too fast": {Action: "DescribeVpcs", For: 3 * time.Second,
			Err: &cloud.Error{Action: "DescribeVpcs", Code: "Throttling", Message: "too fast", RequestID: "R"}},
		"waiting 2s: DescribeVpcs may not be called more often": {Action: "DescribeVpcs", For: 2 * time.Second},
		"waiting up to 15s more for the answer to DescribeVpcs": {Action: "DescribeVpcs", For: 15 * time.Second, Unanswered: true},
	} {
		if got := slow(p); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// A command that takes no plan does not ask for one.
func TestNoPlan(t *testing.T) {
	t.Setenv("ALIBABA_CLOUD_REGION_ID", "")
	var f Flags
	set := pflag.NewFlagSet("test", pflag.ContinueOnError)
	f.AddWithoutPlan(set)
	if _, _, err := f.Connect("", nil); err == nil || err.Error() != "no region: give --region, for example cn-hangzhou" {
		t.Errorf("%v, want advice without a plan", err)
	}
	if strings.Contains(set.Lookup("region").Usage, "plan") {
		t.Errorf("--region: %s: want no plan in it", set.Lookup("region").Usage)
	}
}

func TestWhichRegion(t *testing.T) {
	for _, tt := range []struct {
		name, flag, planned, environment, want, wrong string
	}{
		{"nobody says", "", "", "", "", "no region"},
		{"the flag", "cn-beijing", "", "cn-hangzhou", "cn-beijing", ""},
		{"the plan", "", "cn-beijing", "cn-hangzhou", "cn-beijing", ""},
		{"the environment", "", "", "cn-hangzhou", "cn-hangzhou", ""},
		{"both the same", "cn-beijing", "cn-beijing", "", "cn-beijing", ""},
		{"flag and plan differ", "cn-beijing", "cn-hangzhou", "", "", "--region cn-beijing: the plan says region cn-hangzhou"},
		{"no region id", "Hangzhou", "", "", "", `"Hangzhou"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("ALIBABA_CLOUD_REGION_ID", tt.environment)
			var f Flags
			set := pflag.NewFlagSet("test", pflag.ContinueOnError)
			f.Add(set)
			if err := set.Parse([]string{"--region", tt.flag}); err != nil {
				t.Fatal(err)
			}
			client, region, err := f.Connect(tt.planned, nil)
			if tt.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wrong) {
					t.Errorf("got %v, want %q", err, tt.wrong)
				}
				return
			}
			if err != nil || client == nil || region != tt.want {
				t.Errorf("region %q, %v; want %q", region, err, tt.want)
			}
		})
	}
}
