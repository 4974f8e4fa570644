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
)

//go:generate go test -run TestRAMPolicy -update .

var update = flag.Bool("update", false, "write deploy/ram-policy.json instead of comparing it")

const (
	policyFile = "../../../deploy/ram-policy.json"
	policyDoc  = "../../../docs/ram-policy.md"
)

type ramPolicy struct {
	Version   string
	Statement []ramStatement
}

type ramStatement struct {
	Effect   string
	Action   []string
	Resource []string
}

// ramActions are the client's actions as a RAM policy names them.
func ramActions() []string {
	var list []string
	for name, a := range actions {
		list = append(list, strings.ToLower(a.product)+":"+name)
	}
	slices.Sort(list)
	return list
}

// TestRAMPolicy keeps deploy/ram-policy.json to exactly what the client calls.
func TestRAMPolicy(t *testing.T) {
	want := ramPolicy{"1", []ramStatement{{"Allow", ramActions(), []string{"*"}}}}
	if *update {
		b, err := json.MarshalIndent(want, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(policyFile, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(policyFile)
	if err != nil {
		t.Fatal(err)
	}
	var got ramPolicy
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("deploy/ram-policy.json allows %v, the client calls %v; run: go generate ./internal/cloud/alibaba", got, want)
	}
	doc, err := os.ReadFile(policyDoc)
	if err != nil {
		t.Fatal(err)
	}
	var named []string
	for _, m := range regexp.MustCompile("`((?:ecs|vpc):[A-Za-z]+)`").FindAllStringSubmatch(string(doc), -1) {
		named = append(named, m[1])
	}
	slices.Sort(named)
	if !slices.Equal(named, ramActions()) {
		t.Errorf("docs/ram-policy.md explains %v, the client calls %v", named, ramActions())
	}
}

// The table of actions has those that the package's source makes requests for, no others.
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
	}
	table := map[string]string{}
	for name, a := range actions {
		table[name] = strings.ToLower(a.product)
	}
	if !maps.Equal(called, table) {
		t.Errorf("the source calls %v, the table has %v", called, table)
	}
	if n := reflect.TypeFor[cloud.API]().NumMethod() + reflect.TypeFor[cloud.RouteAPI]().NumMethod(); n != len(actions) {
		t.Errorf("cloud.API and cloud.RouteAPI have %d methods for %d actions: is one without a test or an action without a use?", n, len(actions))
	}
}
