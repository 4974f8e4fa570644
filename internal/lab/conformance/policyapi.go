package conformance

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"terway.dev/terway/internal/lab"
)

// policyReport is the name of the report that network-policy-api's suite writes.
const policyReport = "report.yaml"

// policyAPI runs network-policy-api's conformance suite.
func policyAPI(ctx context.Context, r *run) ([]Spec, error) {
	const test = "TestConformanceProfiles"
	pattern := "^" + test + "$"
	if r.only != nil {
		pattern += "/^" + oneOf(r.only) + "$"
	}
	err := r.execute(ctx, r.lab.Options.Bin(lab.ProgramPolicyAPI),
		"-test.v", "-test.run="+pattern, "-test.timeout="+suiteTimeout.String(),
		"--conformance-profiles=ClusterNetworkPolicy", "--all-features", "--report-output="+filepath.Join(r.dir, policyReport),
		"--organization=terway.dev", "--project=terway", "--url=https://terway.dev/terway", "--version=main", "--contact=@terway.dev",
		// The suite wants to know by what the report was made.
		"--additional-info=make test-conformance")
	specs, failure := readGoTest(r.output(), test)
	if failure != nil || len(specs) == 0 {
		return nil, errors.Join(err, failure)
	}
	return specs, nil
}

// result is a line of "go test -v" on a test that has ended.
var result = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): (\S+) \((\d+\.\d+)s\)$`)

// readGoTest reads the tests below one from the output of "go test -v". Those that failed name what failed in them.
func readGoTest(path, above string) ([]Spec, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the suite's output: %w", err)
	}
	defer f.Close()
	states := map[string]State{"PASS": Passed, "FAIL": Failed, "SKIP": Skipped}
	var specs []Spec
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		m := result.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		name, ok := strings.CutPrefix(m[2], above+"/")
		if !ok {
			continue
		}
		// A test comes before the parts of it.
		name, part, isPart := strings.Cut(name, "/")
		if isPart {
			if i := len(specs) - 1; i >= 0 && specs[i].Name == name && m[1] == "FAIL" {
				specs[i].Why = strings.TrimPrefix(specs[i].Why+"; "+strings.ReplaceAll(part, "_", " "), "; ")
			}
			continue
		}
		seconds, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			return nil, fmt.Errorf("the suite's output: %q: %w", m[0], err)
		}
		specs = append(specs, Spec{Name: name, State: states[m[1]], Seconds: seconds})
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the suite's output: %w", err)
	}
	slices.SortFunc(specs, func(a, b Spec) int { return strings.Compare(a.Name, b.Name) })
	return specs, nil
}
