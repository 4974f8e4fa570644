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
	"terway.dev/terway/internal/catalog/catalogtest"
	"terway.dev/terway/internal/plan"
)

var update = flag.Bool("update", false, "write the output in docs/planning.md anew")

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

// TestDocs: docs/planning.md shows the output of its commands. -update rewrites it.
func TestDocs(t *testing.T) {
	file, err := filepath.Abs("../../../docs/planning.md")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir("testdata") // the files that the commands read
	var got []string
	shown := 0
	lines := strings.Split(string(doc), "\n")
	for i := 0; i < len(lines); {
		got = append(got, lines[i])
		command, ok := strings.CutPrefix(lines[i], "    $ terwayctl plan")
		i++
		if !ok {
			continue
		}
		shown++
		for i < len(lines) && (lines[i] == "" || strings.HasPrefix(lines[i], "    ")) && !strings.HasPrefix(lines[i], "    $ ") {
			i++
		}
		out, err := run(strings.Fields(command)...)
		if err != nil {
			out += "terwayctl: " + err.Error() + "\n"
		}
		for line := range strings.Lines(out) {
			got = append(got, strings.TrimRight("    "+line, " \n"))
		}
		got = append(got, "")
	}
	if shown < 7 {
		t.Errorf("%d commands with their output found, want 7 or more", shown)
	}
	text := strings.Join(got, "\n")
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for i, line := range got {
		if i >= len(lines) || lines[i] != line {
			t.Fatalf("docs/planning.md, line %d: want %q (go test ./internal/cli/plan -update writes it anew)", i+1, line)
		}
	}
	if text != string(doc) {
		t.Error("docs/planning.md has more lines than its commands print")
	}
}

// TestFile: the file that --out writes is the plan, is valid, and is not overwritten.
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
	for _, force := range []string{"--force", "--force=false"} {
		if _, err := run("--out", filepath.Dir(file), force); err == nil || !strings.Contains(err.Error(), "is a directory") {
			t.Errorf("%s into a directory: %v, want that it is one", force, err)
		}
	}
	if left, _ := os.ReadDir(filepath.Dir(file)); len(left) != 1 {
		t.Errorf("files are left over: %v", left)
	}
}

// TestOutput: json and yaml print the plan file.
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

// TestWishes: errors name the flag.
func TestWishes(t *testing.T) {
	for args, want := range map[string][]string{
		"--max-nodes 5000": {"--max-nodes 5000: want at most 2114"},
		"--network calico --nodes 0 --zone cn-hangzhou-i,cn-beijing-a": {
			"--network \"calico\": want terway or flannel", "--nodes 0: want 1 or more", "--zone \"cn-beijing-a\": want a zone of cn-hangzhou",
		},
		"--vpc-cidr 10.0.0.0/40 --avoid x": {`--vpc-cidr "10.0.0.0/40": want a range`, `--avoid "x": want a range`},
		"--region cn-beijing":              {"--region cn-beijing: want --zone, too: which zones of cn-beijing the nodes are in"},
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
		// Field names of the plan file mean nothing to a user who has not written one.
		if err != nil && regexp.MustCompile(`nodes\.|vpc\.|\[|CIDR`).MatchString(err.Error()) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

// TestCheck: all problems are in the output for programs, and the command fails. The docs show
// the output for people.
func TestCheck(t *testing.T) {
	out, err := run("check", "-o", "json", filepath.Join("testdata", "wrong.yaml"))
	var got checked
	if jsonErr := json.Unmarshal([]byte(out), &got); err == nil || jsonErr != nil || len(got.Problems) != 6 || got.Plan != nil {
		t.Errorf("check -o json: %v, %v\n%s", err, jsonErr, out)
	}
	if _, err := run("check", filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that is not there passes")
	}
}

// TestCheckedForPrograms: the fields that docs/planning.md names exist.
func TestCheckedForPrograms(t *testing.T) {
	file := filepath.Join(t.TempDir(), "plan.yaml")
	if _, err := run("--out", file); err != nil {
		t.Fatal(err)
	}
	out, err := run("check", "-o", "json", file)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Problems []plan.Problem
		Plan     struct{ Name string }
		Capacity struct {
			PodsPerNode, AddressesPerNode, LargestNodes, LargestPods int
			LimitedBy                                                string
			Types                                                    []struct {
				Name                                        string
				Shared, SharedWithPrefixes, Exclusive, Here int
			}
			VSwitches []struct {
				Zone, Name, CIDR string
				Pods             bool
				Usable, Now, Max int
			}
			Limits []struct {
				Name, What         string
				Holds, Each, Nodes int
				Quota              bool
			}
		}
	}
	d := json.NewDecoder(strings.NewReader(out))
	if err := d.Decode(&got); err != nil {
		t.Fatal(err)
	}
	c := got.Capacity
	if got.Problems == nil || got.Plan.Name != "vpc_192_168_0_0_16" || c.PodsPerNode != 30 || c.AddressesPerNode != 31 || c.LargestNodes != 64 ||
		c.LargestPods != 1920 || c.LimitedBy != "security group, normal" || len(c.Types) != 1 || c.Types[0].SharedWithPrefixes != 432 ||
		len(c.VSwitches) != 2 || c.VSwitches[1].Usable != 8188 || c.VSwitches[1].Now != 90 || !c.VSwitches[1].Pods ||
		len(c.Limits) != 5 || c.Limits[1].Each != 30 || c.Limits[1].Nodes != 272 || !c.Limits[3].Quota {
		t.Errorf("%s\nread as %+v", out, got)
	}
}

// TestCatalogue: a refreshed table has types that the built-in one lacks.
func TestCatalogue(t *testing.T) {
	table := catalogtest.Table(t, append(catalog.Default().All(), catalog.Type{Name: "ecs.g10.large", Family: "ecs.g10", ENIs: catalog.Of(3), IPv4PerENI: catalog.Of(20)})...)
	file := filepath.Join(t.TempDir(), "plan.yaml")
	ask := []string{"--instance-type", "ecs.g10.large", "--out", file}
	if _, err := run(ask...); err == nil || !strings.Contains(err.Error(), "--instance-type ecs.g10.large: want a type of the catalogue") || !strings.Contains(err.Error(), "--pods-per-node") {
		t.Errorf("a type that the table does not have: %v", err)
	}
	if out, err := run(append(ask, "--catalogue", table)...); err != nil || !strings.Contains(out, "ecs.g10.large  40") {
		t.Errorf("%v\n%s", err, out)
	}
	for args, want := range map[string]string{"--catalogue " + table: "Largest cluster: 48 nodes, 1920 pods", "": "Largest cluster: unknown"} {
		if out, err := run(append(strings.Fields(args), "check", file)...); err != nil || !strings.Contains(out, want) {
			t.Errorf("%s check: %v, want %s\n%s", args, err, want, out)
		}
	}
	for _, args := range []string{"--catalogue none.csv", "check --catalogue none.csv " + file} {
		if _, err := run(strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), "--catalogue") {
			t.Errorf("%s: %v", args, err)
		}
	}
}
