package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/lab"
)

// ginkgo runs the specs of e2e.test whose text matches a regular expression.
func ginkgo(all string) func(context.Context, *run) ([]Spec, error) {
	return func(ctx context.Context, r *run) ([]Spec, error) {
		focus := all
		if r.only != nil {
			focus = `\[sig-network\] ` + oneOf(r.only) + labels + "$"
		}
		const report = "report.json"
		o := &r.lab.Options
		err := r.execute(ctx, o.Bin(lab.ProgramGinkgo),
			"run", "--procs="+strconv.Itoa(r.procs), "--focus="+focus, "--timeout="+suiteTimeout.String(),
			"--no-color", "-v", "--silence-skips", "--output-dir="+r.dir, "--json-report="+report,
			o.Bin(lab.ProgramE2E), "--",
			"--kubeconfig="+o.Kubeconfig(), "--kubectl-path="+o.Bin("kubectl"),
			// The lab is no cloud that e2e.test knows.
			"--provider=skeleton", "--disable-log-dump",
			// e2e.test counts nodes only for clouds that it knows, and skips specs that need two.
			"--num-nodes="+strconv.Itoa(len(r.lab.Machines)))
		specs, failure := readGinkgo(filepath.Join(r.dir, report))
		if failure != nil {
			return nil, errors.Join(err, failure)
		}
		return specs, nil
	}
}

// labels is what e2e.test writes behind a spec's text.
const labels = `( \[[^\]]*\])*`

// execute runs a suite's program with its output in a file. A spec that fails is no error.
func (r *run) execute(ctx context.Context, program string, args ...string) error {
	out, err := os.Create(r.output())
	if err != nil {
		return fmt.Errorf("keep the suite's output: %w", err)
	}
	defer out.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, suiteTimeout, fmt.Errorf("the suite took more than %s", suiteTimeout))
	defer cancel()
	command := append([]string{program}, args...)
	if r.netns != "" {
		command = append([]string{"unshare", "--mount", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, r.resolvConf}, command...)
	}
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	// An interrupted suite removes what it made.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	cmd.Dir, cmd.Stdout, cmd.Stderr = r.dir, out, out
	cmd.Env = append(os.Environ(), "KUBECONFIG="+r.lab.Options.Kubeconfig())
	if r.netns == "" {
		err = cmd.Run()
	} else if err = kernel.InNSAt(r.netns, cmd.Start); err == nil {
		err = cmd.Wait()
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("%s: %w; its output is in %s", filepath.Base(program), err, out.Name())
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", program, err)
	}
	return nil
}

func (r *run) output() string { return filepath.Join(r.dir, "output.log") }

// ginkgoSpec is a spec in a report of ginkgo, which also has those that were not to run.
type ginkgoSpec struct {
	ContainerHierarchyTexts []string
	LeafNodeType            string
	LeafNodeText            string
	State                   string
	RunTime                 time.Duration
	Failure                 struct{ Message string }
}

// readGinkgo reads ginkgo's report, without the specs that were not to run.
func readGinkgo(path string) ([]Spec, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read ginkgo's report: %w", err)
	}
	var reports []struct {
		SpecReports                []ginkgoSpec
		SpecialSuiteFailureReasons []string
	}
	if err := json.Unmarshal(b, &reports); err != nil {
		return nil, fmt.Errorf("ginkgo's report %s: %w", path, err)
	}
	var specs []Spec
	for _, r := range reports {
		for _, s := range r.SpecReports {
			if s.LeafNodeType != "It" {
				if s.Failure.Message != "" {
					return nil, fmt.Errorf("e2e.test, %s: %s", s.LeafNodeType, firstLine(s.Failure.Message))
				}
				continue
			}
			spec := Spec{Name: s.name(), Seconds: s.RunTime.Seconds(), Why: firstLine(s.Failure.Message)}
			switch s.State {
			case "passed":
				spec.State = Passed
			case "skipped", "pending":
				if s.Failure.Message == "" {
					continue // out of focus
				}
				spec.State = Skipped
			default: // failed, panicked, timedout, interrupted, aborted
				spec.State = Failed
			}
			specs = append(specs, spec)
		}
	}
	slices.SortFunc(specs, func(a, b Spec) int { return strings.Compare(a.Name, b.Name) })
	return specs, nil
}

// name returns a spec's text without the group, which all have, and the labels behind it.
func (s *ginkgoSpec) name() string {
	text := strings.Join(append(slices.Clone(s.ContainerHierarchyTexts), s.LeafNodeText), " ")
	text = strings.TrimPrefix(text, "[sig-network] ")
	for strings.HasSuffix(text, "]") {
		at := strings.LastIndex(text, " [")
		if at < 0 {
			break
		}
		text = text[:at]
	}
	return text
}

// firstLine shortens a message to what a table can show.
func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	const most = 200
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + " …"
	}
	return s
}
