package docs

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestCommandsExist: the subcommands, flags, variables of make, make's targets and files of this repository that commands name exist, also in
// those that no test runs.
func TestCommandsExist(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	help := helps{}
	variables := string(makefile)
	for _, dir := range []string{"test", "internal"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || filepath.Ext(path) != ".go" {
				return err
			}
			b, err := os.ReadFile(path)
			for _, m := range regexp.MustCompile(`"([A-Z_]+)"`).FindAllSubmatch(b, -1) {
				variables += " $(" + string(m[1]) + ")"
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	inline := regexp.MustCompile("`((?:bin/)?(?:terwayctl|terway-lab|terwayd|terway-controller) [^`]*)`")
	variable := regexp.MustCompile(`(?:^|\s)([A-Z_]+)=("[^"]*"|\S*)`)
	// variables that have flags of a program
	flagsOf := map[string]string{"LAB": "terway-lab up ", "COMPARE": "terway-lab compare ", "CONFORMANCE": "terway-lab conformance "}
	target := regexp.MustCompile(`(?:^|\s)make ((?:[A-Z]+=\S+ )*)([a-z-]+)`)
	file := regexp.MustCompile(`(?:^|[ =":])((?:deploy|docs|test|internal|hack)/[\w./-]+)`)
	checked := 0
	check := func(where, line string) {
		checked++
		for _, problem := range help.problems(line) {
			t.Errorf("%s: %s: %s", where, strings.TrimSpace(line), problem)
		}
	}
	for _, p := range pages(t) {
		for _, b := range p.Blocks {
			if _, commands := b.Mark(); !commands {
				continue
			}
			for i, line := range b.Commands() {
				where := fmt.Sprintf("%s:%d", p.Path, b.Line+i)
				line, _, _ = strings.Cut(line, " #")
				check(where, line)
				for _, m := range target.FindAllStringSubmatch(line, -1) {
					if !strings.Contains(string(makefile), "\n"+m[2]+":") {
						t.Errorf("%s: make has no target %s", where, m[2])
					}
				}
				if target.MatchString(line) {
					for _, m := range variable.FindAllStringSubmatch(line, -1) {
						if !strings.Contains(variables, "$("+m[1]+")") && !strings.Contains(variables, "\n"+m[1]+" ?=") {
							t.Errorf("%s: neither make nor a test reads %s", where, m[1])
						}
						if program := flagsOf[m[1]]; program != "" {
							check(where, program+strings.Trim(m[2], `"`))
						}
					}
				}
				for _, m := range file.FindAllStringSubmatch(line, -1) {
					if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
						t.Errorf("%s: no such file: %s", where, m[1])
					}
				}
			}
		}
		for n, line := range prose(&p) {
			for _, m := range inline.FindAllStringSubmatch(line, -1) {
				check(fmt.Sprintf("%s:%d", p.Path, n+1), m[1])
			}
		}
	}
	if checked < 100 {
		t.Errorf("only %d commands were found", checked)
	}
	// The check itself.
	for line, want := range map[string]string{
		"terwayctl plan --zone x | terwayctl vpc apply - --nosuch": "--nosuch",
		"terwayctl vpc aply plan.yaml":                             "aply",
		"eval $(bin/terway-lab env) && terway-lab verifi":          "verifi",
		"terway-lab status [-q json]":                              "-q",
		"kubectl exec POD -- terwayd log-levl debug":               "log-levl",
		"terway-controller uninstall --witout-cloud":               "--witout-cloud",
	} {
		if got := strings.Join(help.problems(line), "; "); !strings.Contains(got, want) {
			t.Errorf("%s: problems %q, want one with %s", line, got, want)
		}
	}
}

// helps has the programs' texts of --help by command line.
type helps map[string]string

func (h helps) text(words ...string) string {
	key := strings.Join(words, " ")
	if _, known := h[key]; !known {
		out, err := exec.Command(filepath.Join(bin, words[0]), append(slices.Clone(words[1:]), "--help")...).CombinedOutput()
		if err != nil {
			out = fmt.Appendf(nil, "%v: %s", err, out)
		}
		h[key] = string(out)
	}
	return h[key]
}

var (
	// The agent's and the controller's names are those of objects too.
	ours = regexp.MustCompile(`(?:(?:^|[\s(/"])((?:terwayctl|terway-lab)(?: [^|;&>)]*)?)|(?:^\s*|-- )((?:terwayd|terway-controller)(?: [^|;&>)]*)?))`)
	// subcommands are the lines below "Available Commands:".
	subcommand = regexp.MustCompile(`(?m)^  ([a-z][a-z-]*) +\S`)
	word       = regexp.MustCompile(`^[a-z][a-z-]*$`)
)

// problems returns what is wrong with our programs' names in a command line.
func (h helps) problems(line string) []string {
	var problems []string
	// Alternatives and optional parts of a synopsis.
	line = strings.NewReplacer("[", " ", "]", " ").Replace(line)
	for _, m := range ours.FindAllStringSubmatch(line, -1) {
		words := strings.Fields(m[1] + m[2])
		at := words[:1]
		flags := false
		for _, w := range words[1:] {
			if name, isFlag := strings.CutPrefix(w, "-"); isFlag && name != "" {
				flags = true
				name, _, _ = strings.Cut(w, "=")
				if !regexp.MustCompile(`(?m)(^|\s)` + regexp.QuoteMeta(name) + `($|[ ,])`).MatchString(h.text(at...)) {
					problems = append(problems, fmt.Sprintf("%q has no flag %s", strings.Join(at, " "), name))
				}
				continue
			}
			_, list, group := strings.Cut(h.text(at...), "\nAvailable Commands:\n")
			if flags || !group {
				continue
			}
			list, _, _ = strings.Cut(list, "\n\n")
			known := false
			for _, s := range subcommand.FindAllStringSubmatch(list, -1) {
				known = known || s[1] == w
			}
			if known {
				at = append(slices.Clone(at), w)
				if w == "shell" { // the rest is another program's
					break
				}
			} else if word.MatchString(w) {
				problems = append(problems, fmt.Sprintf("%q has no command %s", strings.Join(at, " "), w))
				break
			}
		}
	}
	return problems
}
