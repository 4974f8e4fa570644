//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// elsewhere are commands of the README that are not run here: other tests of this package run
// them, or they would take down the lab.
var elsewhere = map[string]bool{"terway-lab verify": true, "make lab-down": true}

// readme runs the commands of "What you see" and "How to look inside" as printed, each in a
// shell with the lab's environment and empty input.
func readme(t *testing.T, c *programs) {
	b, err := os.ReadFile(filepath.Join(c.source, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	for line := range strings.Lines(section(t, string(b), "What you see")) {
		if code, ok := strings.CutPrefix(line, "    "); ok {
			code, _, _ = strings.Cut(code, " #")
			commands = append(commands, strings.TrimSpace(code))
		}
	}
	command := regexp.MustCompile("`((?:kubectl|terwayctl|curl|terway-lab|bin/terway-lab) [^`]*)`")
	for line := range strings.Lines(section(t, string(b), "How to look inside")) {
		if strings.HasPrefix(line, "|") {
			for _, m := range command.FindAllStringSubmatch(line, -1) {
				commands = append(commands, m[1])
			}
		}
	}
	ran := 0
	for _, code := range commands {
		if elsewhere[code] {
			continue
		}
		ran++
		cmd := exec.Command("bash", "-eu", "-c", strings.ReplaceAll("eval $(bin/terway-lab env)\n"+code, "bin/terway-lab", c.path("terway-lab")))
		cmd.Dir = c.source
		out, err := cmd.CombinedOutput()
		if err != nil || len(out) == 0 && !strings.Contains(code, "terway-lab env") && !strings.HasSuffix(code, "terway-lab shell node1") {
			t.Errorf("%s: %v\n%s", code, err, out)
			continue
		}
		t.Logf("%s: %d bytes", code, len(out))
	}
	if ran < 9 {
		t.Errorf("only %d commands were found: %q", ran, commands)
	}
}

// section returns the text between a heading and the next.
func section(t *testing.T, text, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut(text, "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("README.md has no section %q", heading)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	return rest
}
