package config

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the page's example anew")

const old = "../../config/testdata/old-configmap.yaml"

func run(t *testing.T, stdin string, args ...string) (out, report string, err error) {
	t.Helper()
	var o, r bytes.Buffer
	cmd := NewCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetOut(&o)
	cmd.SetErr(&r)
	err = cmd.Execute()
	return o.String(), r.String(), err
}

// check accepts what convert prints.
func TestConvertThenCheck(t *testing.T) {
	// A function that is lost is an error, after everything was printed.
	out, report, err := run(t, "", "convert", old, "--region", "cn-hangzhou")
	const lost = "in_cluster_loadbalance,enable_ip_prefix,ip_warm_up_size"
	if err == nil || err.Error() != "the cluster would lose what these keys do: --accept-lost "+lost+" accepts that" {
		t.Errorf("%v, want what is lost", err)
	}
	if again, _, err := run(t, "", "convert", old, "--region", "cn-hangzhou", "--accept-lost", lost); err != nil || again != out {
		t.Errorf("%v, and it prints\n%s\nwithout --accept-lost\n%s", err, again, out)
	}
	for _, want := range []string{"eniConfig:\n", "  cluster_id: c7d2\n", "  region: cn-hangzhou\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	for _, want := range []string{"FROM", "access_secret", "elsewhere", "not supported", "eniip_virtual_type"} {
		if !strings.Contains(report, want) {
			t.Errorf("no %q in\n%s", want, report)
		}
	}
	if strings.Contains(out+report, "the-secret") || strings.Contains(out+report, "LTAI") {
		t.Errorf("a secret is printed:\n%s\n%s", out, report)
	}
	values := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(values, []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, _, err := run(t, "", "check", values); err != nil || !strings.HasSuffix(out, "values.yaml: the chart's values: valid\n") {
		t.Errorf("%q, %v", out, err)
	}
	// A new version, compared with the current configuration.
	bigger := strings.Replace(out, "max_pool_size: 5", "max_pool_size: 9", 1)
	if out, _, err := run(t, bigger, "check", "-", "--running", values); err != nil || !strings.Contains(out, "max_pool_size: 5 → 9\n-: the chart's values: valid; changes 1 keys") {
		t.Errorf("%q, %v", out, err)
	}
	moved := strings.ReplaceAll(out, "cn-hangzhou", "cn-beijing")
	if _, _, err := run(t, moved, "check", "-", "--running", values); err == nil || !strings.Contains(err.Error(), "region cannot change") {
		t.Errorf("error %v", err)
	}
}

func TestConvertJSON(t *testing.T) {
	out, _, err := run(t, `{"max_pool_size": 5, "colour": 1}`, "convert", "-", "-o", "json")
	if err == nil || !strings.Contains(err.Error(), `cluster_id ""`) {
		t.Errorf("error %v, want one that says what is missing", err)
	}
	var got struct {
		Values struct {
			ENIConfig map[string]any `json:"eniConfig"`
		}
		Keys           []struct{ Key, Outcome, To string }
		Lost, Problems []string
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v in\n%s", err, out)
	}
	if got.Values.ENIConfig["max_pool_size"] != 5.0 || len(got.Lost) != 1 || got.Lost[0] != "colour" || len(got.Keys) != 2 || got.Keys[0].Outcome != "not supported" || len(got.Problems) < 3 {
		t.Errorf("%+v", got)
	}
}

// Policies that the old cluster enforces are enforced by the values, too.
func TestConvertPolicy(t *testing.T) {
	for said, want := range map[string]bool{"": true, `disable_network_policy: "false"`: true, `disable_network_policy: "true"`: false} {
		out, report, err := run(t, "data:\n  eni_conf: '{vswitches: {cn-hangzhou-i: [vsw-1]}, service_cidr: 172.21.0.0/20}'\n  "+said, "convert", "-", "--region", "cn-hangzhou", "--cluster-id", "c")
		if err != nil || strings.Contains(out, "policy:\n  enabled: true\n") != want || strings.Contains(report, "beside eniConfig") != want {
			t.Errorf("%s: %v\n%s\n%s", said, err, out, report)
		}
	}
}

// With -o the result of a check is an object, also if there are problems.
func TestCheckObject(t *testing.T) {
	for in, want := range map[string]string{
		chartValues:            `{"file":"-","what":"the chart's values","problems":[]}`,
		chartValues + "foo: 1": `{"file":"-","what":"the chart's values","problems":["the values: additional properties 'foo' not allowed"]}`,
		"{cluster_id: 'c d'}":  `"what":"the configuration"`,
	} {
		out, _, err := run(t, in, "check", "-", "-o", "json")
		var short bytes.Buffer
		if jsonErr := json.Compact(&short, []byte(out)); jsonErr != nil || !strings.Contains(short.String(), want) || (err == nil) != (in == chartValues) {
			t.Errorf("%s: %v, %v\n%s\nwant\n%s", in, err, jsonErr, out, want)
		}
	}
}

// chartValues are valid.
const chartValues = "eniConfig: {cluster_id: c, region: cn-hangzhou, service_cidr: 172.21.0.0/20, vswitches: {cn-hangzhou-i: [vsw-1]}}\n"

func TestErrors(t *testing.T) {
	for _, c := range []struct {
		args  string
		stdin string
		want  string
	}{
		{"check /nowhere/at-all", "", "no such file"},
		{"check -", "cluster_id: c\nmin_pol_size: 3", `did you mean "min_pool_size"`},
		{"check -", "cluster_id: c\nmin_pol_size: 3", "vswitches is empty"},
		{"check -", "data: {eni_conf: '{}'}", "terwayctl config convert"},
		{"check -", strings.Repeat("x", sizeLimit+1), "larger than 2 MiB"},
		{"convert -", "", "nothing in it"},
		{"convert - -o xml", "version: '1'", "want text, json or yaml"},
		{"convert - --accept-lost colour", "{version: '1', shape: round}", "--accept-lost colour: is not lost: want keys of shape"},
		{"check -", chartValues + "foo: 1", "-:\nthe values: additional properties 'foo' not allowed"},
		{"check -", chartValues + "credentials: {source: bogus}", "credentials.source: value must be one of"},
		{"check -", "eniConfig: {cluster_id: c}", "-:\nregion"},
	} {
		if _, _, err := run(t, c.stdin, strings.Fields(c.args)...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.args, err, c.want)
		}
	}
}

// The page's example is the output of the command.
func TestPage(t *testing.T) {
	const file = "../../../docs/configuration.md"
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	out, report, err := run(t, "", "convert", old, "--region", "cn-hangzhou")
	if err == nil {
		t.Fatal("nothing is lost")
	}
	var want strings.Builder
	for _, line := range strings.Split(out+"\n"+report+"terwayctl: "+err.Error(), "\n") {
		want.WriteString(strings.TrimRight("    "+line, " ") + "\n")
	}
	before, rest, ok := strings.Cut(string(page), "<!-- convert -->\n")
	got, after, end := strings.Cut(rest, "<!-- end -->\n")
	if !ok || !end {
		t.Fatal("the page has no place for the example")
	}
	if *update {
		if err := os.WriteFile(file, []byte(before+"<!-- convert -->\n"+want.String()+"<!-- end -->\n"+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got != want.String() {
		t.Errorf("docs/configuration.md has\n%s\nthe command prints\n%s\n(go test -update writes it)", got, want.String())
	}
}
