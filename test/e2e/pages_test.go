//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"terway.dev/terway/test/docs"
)

// pages runs the commands of all pages' blocks "sh lab", one shell for each page, and those of "How to look inside" in
// troubleshooting.md, each in a shell with the lab's environment; input is empty.
func pages(t *testing.T, c *programs) {
	all, err := docs.Pages(c.source)
	if err != nil {
		t.Fatal(err)
	}
	run := func(name string, script []string) {
		dir := t.TempDir()
		if err := os.Symlink(c.dir, filepath.Join(dir, "bin")); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("bash", "-eEuo", "pipefail", "-c",
			`trap 'echo "line $LINENO: $BASH_COMMAND: exit status $?" >&2' ERR; eval $(bin/terway-lab env);`+strings.Join(script, "\n"))
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil || len(out) == 0 && !strings.HasSuffix(name, "terway-lab shell node1") {
			t.Errorf("%s: %v\n%s", name, err, out)
			return
		}
		t.Logf("%s: %d bytes", name, len(out))
	}
	scripts, commands := 0, 0
	command := regexp.MustCompile("`((?:kubectl|terwayctl|curl|terway-lab) [^`]*)`")
	for _, p := range all {
		if p.Translated() { // compared with the English page
			continue
		}
		if script := p.Script("lab"); script != nil {
			scripts++
			run(p.Path, script)
		}
		if p.Path != "docs/troubleshooting.md" {
			continue
		}
		for _, line := range p.Section("How to look inside") {
			if strings.HasPrefix(line, "|") {
				for _, m := range command.FindAllStringSubmatch(line, -1) {
					commands++
					run(fmt.Sprint(p.Path, ": ", m[1]), []string{m[1]})
				}
			}
		}
	}
	if scripts < 5 || commands < 8 {
		t.Errorf("only %d pages with commands for the lab and %d commands to look inside were found", scripts, commands)
	}
}
