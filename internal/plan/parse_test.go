package plan_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/plan"
)

// TestForm: every mistake of form is reported, and the broken rules that can be found
// nevertheless.
func TestForm(t *testing.T) {
	_, err := plan.Read([]byte(`
version: 1
name: 5
region: cn-hangzhou
netwrok: terway
mode: shared
vpc: {cidr: 192.168.0.0/33, extra: 1}
nodes: {count: 1.5, max: many, instanceTypes: ecs.g6.large}
zones:
- id: cn-hangzhou-i
  node: [192.168.0.0/19]
  pods: [{name: p, cidr: 192.168.32.0/30}]
serviceCIDR: 172.21.0.0/20
prefixes: "yes"
securityGroup: normal
`), catalog.Default())
	var got plan.Problems
	if !errors.As(err, &got) {
		t.Fatal(err)
	}
	want := plan.Problems{
		{"name", "5", "text (in quotes when it looks like a number or is a word such as no)"},
		{"netwrok", "is not a key", "network"},
		{"nodes.count", "1.5", "a whole number"},
		{"nodes.instanceTypes", `"ecs.g6.large"`, "a list"},
		{"nodes.max", `"many"`, "a whole number"},
		{"prefixes", `"yes"`, "true or false"},
		{"vpc.cidr", `"192.168.0.0/33"`, "a range such as 192.168.0.0/16"},
		{"vpc.extra", "is not a key", "one of cidr, secondary"},
		{"zones[0].node", "a list", "keys with values below it"},
		{"zones[0].pods[0].cidr", "192.168.32.0/30", "a mask from /16 to /29"},
	}
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Fatalf("problem %d: got\n%v\nwant\n%v", i, got, want)
		}
	}
}

func TestNotAPlan(t *testing.T) {
	for text, want := range map[string]string{
		"":                        "plan nothing: want the keys of a plan: version, name, region, …",
		"[1]":                     "plan a list: want the keys of a plan: version, name, region, …",
		"version: 2\nsubnets: []": "version 2: want 1, the form that this terwayctl reads",
	} {
		if _, err := plan.Parse([]byte(text)); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	for _, text := range []string{"{", "name: a\nname: b"} {
		if _, err := plan.Parse([]byte(text)); err == nil {
			t.Errorf("%q is accepted as YAML", text)
		}
	}
}

// TestRoundTrip: a plan that is written is read back unchanged, from YAML and from JSON.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, err := plan.Propose(drawRequest(t))
		if err != nil {
			return
		}
		data, err := p.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := plan.Read(data, catalog.Default())
		if err != nil {
			t.Fatalf("%v\n%s", err, data)
		}
		if !reflect.DeepEqual(p, again) {
			t.Fatalf("got %+v, want %+v", again, p)
		}
		asJSON, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if again, err = plan.Parse(asJSON); err != nil || !reflect.DeepEqual(p, again) {
			t.Fatalf("from JSON: %v, %+v, want %+v", err, again, p)
		}
	})
}

// FuzzParse: no input makes Read panic; an accepted plan is valid, and stable when written and
// read again.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		f.Fatal("no plans in testdata", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("version: 1\nnodeMask: -40\nnetwork: flannel\nzones: [{}]\nvpc: {secondary: ['']}\navoid: ['::/0', '']"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := plan.Read(data, catalog.Default())
		if err != nil {
			// Check alone must accept any content too.
			if p, err := plan.Parse(data); err == nil && len(plan.Check(p, catalog.Default())) == 0 {
				t.Fatalf("Check finds nothing, Read does")
			}
			return
		}
		plan.Measure(p, catalog.Default())
		once, err := p.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := plan.Read(once, catalog.Default())
		if err != nil {
			t.Fatalf("not read back: %v\n%s", err, once)
		}
		if twice, _ := again.Marshal(); !bytes.Equal(once, twice) {
			t.Fatalf("not stable:\n%s\n%s", once, twice)
		}
	})
}
