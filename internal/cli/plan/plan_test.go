package plan

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/plan"
)

var update = flag.Bool("update", false, "write the golden files anew")

// run runs "terwayctl plan" with the arguments.
func run(args ...string) (string, error) {
	var out bytes.Buffer
	cmd := NewCommand()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	err := cmd.Execute()
	return out.String(), err
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

// TestText: what a user sees, and what docs/planning.md shows.
func TestText(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/planning.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, command := range map[string]string{
		"user-guide.txt": "",
		"flannel.txt":    "--network flannel",
		"grown.txt":      "--zone cn-hangzhou-i,cn-hangzhou-j --nodes 20 --max-nodes 1000 --avoid 192.168.0.0/16,10.0.0.0/12",
		"secondary.txt":  "--vpc-cidr 10.9.0.0/22 --nodes 10 --max-nodes 60",
	} {
		out, err := run(strings.Fields(command)...)
		if err != nil {
			t.Errorf("%s: %v", command, err)
			continue
		}
		golden(t, name, out)
		shown := strings.TrimSpace("    $ terwayctl plan "+command) + "\n" + indent(out)
		if !strings.Contains(string(doc), strings.TrimLeft(shown, " ")) {
			t.Errorf("docs/planning.md does not show what terwayctl plan %s prints", command)
		}
	}
}

func indent(s string) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	for i, l := range lines {
		if l != "" {
			lines[i] = "    " + l
		}
	}
	return strings.Join(lines, "\n")
}

// TestFile: the file that --out writes is the plan, is right, and is not overwritten.
func TestFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "plan.yaml")
	out, err := run("--nodes", "20", "--out", file)
	if err != nil || !strings.Contains(out, "terwayctl vpc apply "+file) {
		t.Fatalf("%v\n%s", err, out)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Read(data, catalog.Default())
	if err != nil || p.Nodes.Count != 20 {
		t.Fatalf("%v, %+v", err, p)
	}
	if out, err := run("check", file); err != nil || !strings.Contains(out, "Largest cluster: 64 nodes, 1920 pods") {
		t.Errorf("check: %v\n%s", err, out)
	}

	if _, err := run("--nodes", "30", "--out", file); err == nil || !strings.Contains(err.Error(), "--force") {
		t.Errorf("the file is overwritten: %v", err)
	}
	if again, _ := os.ReadFile(file); !bytes.Equal(again, data) {
		t.Error("the file has changed")
	}
	if _, err := run("--nodes", "30", "--out", file, "--force"); err != nil {
		t.Errorf("--force: %v", err)
	}
	if again, _ := os.ReadFile(file); !strings.Contains(string(again), "count: 30") {
		t.Errorf("--force wrote\n%s", again)
	}
	if left, _ := os.ReadDir(filepath.Dir(file)); len(left) != 1 {
		t.Errorf("files are left over: %v", left)
	}
}

// TestOutput: json and yaml are the plan file.
func TestOutput(t *testing.T) {
	for _, format := range []string{"json", "yaml"} {
		out, err := run("-o", format)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := plan.Read([]byte(out), catalog.Default()); err != nil {
			t.Errorf("-o %s: %v\n%s", format, err, out)
		}
	}
	if _, err := run("-o", "xml"); err == nil {
		t.Error("-o xml does not fail")
	}
}

// TestWishes: what is wrong is said by the flag.
func TestWishes(t *testing.T) {
	for args, want := range map[string][]string{
		"--max-nodes 5000": {"--max-nodes 5000: want at most 2114"},
		"--network calico --nodes 0 --zone cn-hangzhou-i,cn-beijing-a": {
			"--network \"calico\": want terway or flannel", "--nodes 0: want 1 or more", "--zone \"cn-beijing-a\": want a zone of cn-hangzhou",
		},
		"--vpc-cidr 10.0.0.0/40 --avoid x": {`--vpc-cidr "10.0.0.0/40": want a range`, `--avoid "x": want a range`},
		"--nodes 20000":                    {"--nodes 20000: want at most 2114"},
		"--nodes 0":                        {"--nodes 0: want 1 or more"},
		"--max-nodes 1":                    {"--max-nodes 1: want --nodes (3) or more"},
		"--zone cn-hangzhou":               {`--zone "cn-hangzhou": want a zone such as cn-hangzhou-i`},
		"--vpc-cidr 192.168.0.0/16 --avoid 192.168.0.0/17": {"want a range that does not overlap 192.168.0.0/17, which --avoid names"},
		"--vpc-cidr 100.64.0.0/16":                         {"--vpc-cidr 100.64.0.0/16: want a range inside 10.0.0.0/8"},
		"--instance-type ecs.g6.2xlarge,m5.large":          {`--instance-type "m5.large": want an ECS instance type`},
	} {
		_, err := run(strings.Fields(args)...)
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v, want %s", args, err, w)
			}
		}
		// The plan's own words mean nothing to who has written none.
		if err != nil && regexp.MustCompile(`nodes\.|vpc\.|\[|CIDR`).MatchString(err.Error()) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

// TestCheck: all that is wrong in a table, and a failure.
func TestCheck(t *testing.T) {
	file := filepath.Join("testdata", "wrong.yaml")
	out, err := run("check", file)
	if err == nil || !strings.Contains(err.Error(), "6 problems") {
		t.Errorf("check: %v", err)
	}
	golden(t, "wrong.txt", out)

	out, err = run("check", "-o", "json", file)
	var got checked
	if jsonErr := json.Unmarshal([]byte(out), &got); err == nil || jsonErr != nil || len(got.Problems) != 6 || got.Plan != nil {
		t.Errorf("check -o json: %v, %v\n%s", err, jsonErr, out)
	}
	if _, err := run("check", filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that is not there passes")
	}
}
