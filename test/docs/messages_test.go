package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestMessages: what troubleshooting.md quotes of our messages, reasons and conditions is in the programs or the chart.
func TestMessages(t *testing.T) {
	var source strings.Builder
	for _, dir := range []string{"api", "cmd", "internal", "deploy"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || strings.HasSuffix(path, "_test.go") || !slices.Contains([]string{".go", ".yaml", ".tpl"}, filepath.Ext(path)) {
				return err
			}
			b, err := os.ReadFile(path)
			source.Write(b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	others := []string{
		"values don't meet the specifications of the schema", "conflict occurred while applying object", // Helm
		"ErrImagePull", "cni plugin not initialized", "FailedCreatePodSandBox", "Pending", // the kubelet, the scheduler
	}
	span := regexp.MustCompile("`([^`]*)`")
	varying := regexp.MustCompile(`…|[0-9]+`)
	checked := 0
	for _, p := range pages(t) {
		if p.Path != "docs/troubleshooting.md" {
			continue
		}
		for i, line := range prose(&p) {
			if line == "## How to look inside" {
				break
			}
			cell, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " | ")
			if !strings.HasPrefix(line, "| ") {
				continue
			}
			for _, m := range span.FindAllStringSubmatch(cell, -1) {
				if slices.Contains(others, m[1]) || strings.HasPrefix(m[1], "kubectl ") || strings.HasPrefix(m[1], "terwayctl ") {
					continue
				}
				for _, fragment := range varying.Split(m[1], -1) {
					if fragment = strings.Trim(fragment, " ()"); fragment == "" {
						continue
					}
					checked++
					if !strings.Contains(source.String(), fragment) {
						t.Errorf("%s:%d: %q is in no program", p.Path, i+1, fragment)
					}
				}
			}
		}
	}
	if checked < 30 {
		t.Errorf("only %d messages were found", checked)
	}
}
