package alibaba

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/provision"
)

//go:generate go test -run TestRAMPolicy -update .

var update = flag.Bool("update", false, "write deploy/ram-policy.json instead of comparing it")

const policyDoc = "../../../docs/ram-policy.md"

// policies are the files with the minimal policy of each caller.
var policies = map[string]caller{
	"../../../deploy/ram-policy.json":     byController,
	"../../../deploy/ram-policy-vpc.json": byOperator,
}

type ramPolicy struct {
	Version   string
	Statement []ramStatement
}

type ramStatement struct {
	Effect   string
	Action   []string
	Resource []string
}

// ramActions returns a caller's actions as in a RAM policy.
func ramActions(by caller) []string {
	var list []string
	for name, a := range actions {
		if a.by&by != 0 {
			_, action, ok := strings.Cut(name, ":")
			if !ok {
				action = name
			}
			list = append(list, strings.ToLower(a.product)+":"+action)
		}
	}
	slices.Sort(list)
	return list
}

// TestRAMPolicy: each policy has exactly the actions that its caller uses.
func TestRAMPolicy(t *testing.T) {
	for file, by := range policies {
		want := ramPolicy{"1", []ramStatement{{"Allow", ramActions(by), []string{"*"}}}}
		if *update {
			b, err := json.MarshalIndent(want, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var got ramPolicy
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s allows %v, the caller calls %v; run: go generate ./internal/cloud/alibaba", file, got, want)
		}
	}
	doc, err := os.ReadFile(policyDoc)
	if err != nil {
		t.Fatal(err)
	}
	controller, operator, ok := strings.Cut(string(doc), "## What the operator may do")
	if !ok {
		t.Fatal("docs/ram-policy.md has no section \"What the operator may do\"")
	}
	for _, part := range []struct {
		text string
		by   caller
	}{{controller, byController}, {operator, byOperator}} {
		var named []string
		for _, m := range regexp.MustCompile("`((?:ecs|vpc|slb|nlb):[A-Za-z]+)`").FindAllStringSubmatch(part.text, -1) {
			named = append(named, m[1])
		}
		slices.Sort(named)
		if want := ramActions(part.by); !slices.Equal(named, want) {
			t.Errorf("docs/ram-policy.md explains %v, the caller calls %v", named, want)
		}
	}
}

// The table has exactly the actions for which the package makes requests.
func TestActionsAreThoseCalled(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	called := map[string]string{}
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`call\(ctx, c, (ecs|vpc)\.Create([A-Za-z]+)Request,`).FindAllStringSubmatch(string(src), -1) {
			called[m[2]] = m[1]
		}
		// The calls by name. Those of jobs.go are NLB's.
		service := strings.TrimSuffix(strings.Replace(strings.Replace(f, "clb.go", "slb.go", 1), "jobs.go", "nlb.go", 1), ".go")
		for _, m := range regexp.MustCompile(`(?:(?:do|tokens|id)\(ctx, |set\()"([A-Za-z]+)"`).FindAllStringSubmatch(string(src), -1) {
			called[service+":"+m[1]] = service
		}
	}
	table := map[string]string{}
	for name, a := range actions {
		table[name] = strings.ToLower(a.product)
	}
	if !maps.Equal(called, table) {
		t.Errorf("the source calls %v, the table has %v", called, table)
	}
	typed := slices.DeleteFunc(ramActions(byController), func(a string) bool {
		return strings.HasPrefix(a, "slb:") || strings.HasPrefix(a, "nlb:") || strings.Contains(a, "SecurityGroup") // those of cloud.BalancerAPI
	})
	if n, want := reflect.TypeFor[cloud.API]().NumMethod()+reflect.TypeFor[cloud.RouteAPI]().NumMethod(), len(typed); n != want {
		t.Errorf("cloud.API and cloud.RouteAPI have %d methods for %d actions: is one without a test or an action without a use?", n, want)
	}
	operators := slices.DeleteFunc(ramActions(byOperator), func(a string) bool { return a == "ecs:DescribeInstances" }) // of "terwayctl install"
	if n, want := reflect.TypeFor[provision.Cloud]().NumMethod(), len(operators); n != want {
		t.Errorf("provision.Cloud has %d methods for %d actions: is one without a test or an action without a use?", n, want)
	}
}
