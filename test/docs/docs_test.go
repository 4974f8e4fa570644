package docs

import (
	"bufio"
	"encoding/json"
	"fmt"
	"go/scanner"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unicode"

	"golang.org/x/sys/unix"
)

const root = "../.."

func pages(t *testing.T) []Page {
	t.Helper()
	pages, err := Pages(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(pages) < 20 {
		t.Fatalf("only %d pages found", len(pages))
	}
	return pages
}

// TestLinks: relative links lead to files of the repository, and to headings that exist.
func TestLinks(t *testing.T) {
	all := pages(t)
	anchors := map[string]map[string]bool{}
	for i := range all {
		anchors[all[i].Path] = headings(&all[i])
	}
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	checked := 0
	for i := range all {
		p := &all[i]
		for n, line := range prose(p) {
			for _, m := range link.FindAllStringSubmatch(line, -1) {
				if strings.Contains(m[1], "://") {
					continue
				}
				checked++
				file, anchor, _ := strings.Cut(m[1], "#")
				target := p.Path
				if file != "" {
					target = path.Join(path.Dir(p.Path), file)
				}
				if _, err := os.Stat(filepath.Join(root, target)); err != nil {
					t.Errorf("%s:%d: %s: no such file", p.Path, n+1, m[1])
				} else if anchor != "" && !anchors[target][anchor] {
					t.Errorf("%s:%d: %s: %s has no such heading", p.Path, n+1, m[1], target)
				}
			}
		}
	}
	if checked < 100 {
		t.Errorf("only %d links were found", checked)
	}
}

// prose returns the page's lines with those of code empty.
func prose(p *Page) []string {
	lines := slices.Clone(p.Lines)
	for _, b := range p.Blocks {
		for i := range b.Code {
			lines[b.Line-1+i] = ""
		}
	}
	return lines
}

// headings returns the anchors that GitHub makes of a page's headings.
func headings(p *Page) map[string]bool {
	found := map[string]bool{}
	for _, line := range prose(p) {
		level := len(line) - len(strings.TrimLeft(line, "#"))
		if level == 0 || !strings.HasPrefix(line[level:], " ") {
			continue
		}
		anchor := strings.Map(func(r rune) rune {
			switch {
			case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
				return unicode.ToLower(r)
			case r == ' ':
				return '-'
			}
			return -1
		}, strings.TrimSpace(line[level:]))
		unique := anchor
		for i := 1; found[unique]; i++ {
			unique = fmt.Sprint(anchor, "-", i)
		}
		found[unique] = true
	}
	return found
}

// command is a line that a person would give to a shell.
var command = regexp.MustCompile(`^(\$ )?(sudo )?([A-Z_]+=\S+ )*(terwayctl|terwayd|(bin/)?terway-lab|kubectl|helm|make|curl|aliyun|kubeadm|export|eval|docker|systemctl|nft|bpftool|tc|ip|crictl)( |$)`)

// TestEveryCommandHasAMark: a command is in a block that says where it can be run. The output of a
// program may begin with a command, and planning.md's commands are run by internal/cli/plan.
func TestEveryCommandHasAMark(t *testing.T) {
	marked := 0
	for _, p := range pages(t) {
		for _, b := range p.Blocks {
			if mark, commands := b.Mark(); commands {
				marked++
				if !slices.Contains(Marks, mark) {
					t.Errorf("%s:%d: ```%s: want a mark, one of %q", p.Path, b.Line-1, b.Info, Marks)
				}
				continue
			}
			for i, line := range b.Code {
				elsewhere := p.Path == "docs/planning.md" && strings.HasPrefix(line, "$ terwayctl plan") || regexp.MustCompile(`^([A-Z_]+=\S+ )*make [a-z-]+, 20`).MatchString(line)
				if command.MatchString(line) && !elsewhere && !(p.Path == "docs/planning.md" && strings.HasPrefix(line, "terwayctl: ")) {
					t.Errorf("%s:%d: %q: want it in a block \"```sh MARK\" with one of the marks %q", p.Path, b.Line+i, line, Marks)
				}
			}
		}
	}
	if marked < 30 {
		t.Errorf("only %d blocks of commands were found", marked)
	}
}

// notRun are the blocks with the mark "cluster", by their first command, and why no test runs them.
var notRun = map[string]string{
	"nsenter -t PID -n tc -s class show dev tw-egress":                           "its pod has an exclusive ENI; the pods of the pages' commands share theirs",
	"ip netns exec POD tc filter show dev eth0 egress":                           "its pod has the datapath ipvlan, which the kernel under the lab may lack",
	"ip -d link show type netkit":                                                "its pod has the datapath netkit, which the kernel under the lab may lack",
	"kubectl -n kube-system get configmap kube-proxy -o yaml |":                  "TestKubeProxy runs it with a kubectl that has the ConfigMap of kubeadm; the lab's kube-proxy has none",
	"terwayctl migrate --terway-namespace terway-system --values my-values.yaml": "TestFlannel migrates with the same steps, in another namespace and with other flags",
	"helm -n kube-system uninstall terway --wait --no-hooks":                     "TestFlannel does the same with the lab's pod CIDR",
	"terwayctl vpc grow plan.yaml --zone cn-hangzhou-j --to 2 --bits 24":         "its output is that of another plan; TestGrow runs it with the lab's",
}

// TestNotRun: no block is left out of the tests but those of this list.
func TestNotRun(t *testing.T) {
	left := map[string]bool{}
	for first := range notRun {
		left[first] = true
	}
	for _, p := range pages(t) {
		for i := range p.Blocks {
			b := &p.Blocks[i]
			if mark, commands := b.Mark(); !commands || mark != "cluster" {
				continue
			}
			first, _, _ := strings.Cut(b.Commands()[0], " #")
			first = strings.TrimSpace(first)
			if notRun[first] == "" {
				t.Errorf("%s:%d: %q: want a mark of commands that a test runs, or %q", p.Path, b.Line, first, "cloud")
			}
			delete(left, first)
		}
	}
	for first := range left {
		t.Errorf("no page has %q", first)
	}
}

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

// bin has the programs.
var bin string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		// What a shell leaves in the background becomes this process's child, which can wait for its end.
		err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
		if err != nil {
			panic(err)
		}
		if bin, err = os.MkdirTemp("", "docs"); err != nil {
			panic(err)
		}
		defer os.RemoveAll(bin)
		build := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", bin+"/", "./cmd/terwayctl", "./cmd/terway-lab", "./cmd/terwayd", "./cmd/terway-controller")
		build.Dir = root
		if out, err := build.CombinedOutput(); err != nil {
			panic("build: " + string(out))
		}
		return m.Run()
	}())
}

// TestSimulatorCommands runs the blocks "sh simulator" of each page in one shell and an empty folder, with the files of
// testdata/PAGE in it, and a simulated cloud.
func TestSimulatorCommands(t *testing.T) {
	ran := 0
	for _, p := range pages(t) {
		script := p.Script("simulator")
		if script == nil || p.Translated() { // compared with the English page
			continue
		}
		ran++
		t.Run(p.Path, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			fixtures(t, "testdata/"+strings.TrimSuffix(path.Base(p.Path), ".md"), dir)
			for _, shared := range []string{"deploy", "docs"} {
				from, err := filepath.Abs(filepath.Join(root, shared))
				if err == nil {
					err = os.Symlink(from, filepath.Join(dir, shared))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			env := cloud(t)
			if out, err := shell(dir, env, script); err != nil {
				t.Errorf("%v\n%s", err, out)
			} else if len(out) == 0 {
				t.Error("the commands print nothing")
			}
		})
	}
	if ran < 5 {
		t.Errorf("only %d pages have commands for the simulator", ran)
	}
}

// shell runs a script whose first line is empty and returns its output. What the script leaves in the background is ended.
func shell(dir string, env, script []string) (string, error) {
	c := Bash("", script)
	c.Dir = dir
	c.Env = append([]string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + dir}, env...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := os.CreateTemp(dir, ".output")
	if err != nil {
		return "", err
	}
	defer out.Close()
	c.Stdout, c.Stderr = out, out
	err = c.Run()
	// An error means that nothing is left.
	_ = unix.Kill(-c.Process.Pid, unix.SIGKILL)
	for left := error(nil); left == nil || left == unix.EINTR; {
		_, left = unix.Wait4(-c.Process.Pid, nil, 0, nil)
	}
	text, readErr := os.ReadFile(out.Name())
	if err == nil {
		err = readErr
	}
	return string(text), err
}

// TestShellSaysWhere: a failed command is an error with its line, in a pipe too, and what runs on in the background is ended.
func TestShellSaysWhere(t *testing.T) {
	dir := t.TempDir()
	out, err := shell(dir, nil, []string{"", "", "false | cat"})
	if err == nil || !strings.Contains(out, "line 3: ") {
		t.Errorf("%v, %q", err, out)
	}
	if out, err = shell(dir, nil, []string{"", "sleep 1000 &", "echo $!"}); err != nil {
		t.Fatalf("%v, %q", err, out)
	}
	if _, err := os.Stat("/proc/" + strings.TrimSpace(out)); err == nil {
		t.Error("the process in the background still runs")
	}
}

// cloud runs a simulated cloud until the test ends, and returns the environment of its users.
func cloud(t *testing.T) []string {
	t.Helper()
	c := exec.Command(filepath.Join(bin, "terway-lab"), "vpcsim", "serve", "--listen", "127.0.0.1:0", "--no-fabric", "--timing", "zero", "-o", "json")
	c.Stderr = io.Discard
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var started struct{ Endpoint, AccessKeyID, AccessKeySecret string }
	if err := json.Unmarshal(line, &started); err != nil || started.Endpoint == "" || started.AccessKeyID == "" {
		t.Fatalf("%v: %s", err, line)
	}
	return []string{
		"ECS_ENDPOINT=" + started.Endpoint, "VPC_ENDPOINT=" + started.Endpoint,
		"ALIBABA_CLOUD_ACCESS_KEY_ID=" + started.AccessKeyID, "ALIBABA_CLOUD_ACCESS_KEY_SECRET=" + started.AccessKeySecret,
	}
}

// fixtures copies a folder, if it exists, into another.
func fixtures(t *testing.T, from, to string) {
	t.Helper()
	if _, err := os.Stat(from); err != nil {
		return
	}
	if err := os.CopyFS(to, os.DirFS(from).(fs.ReadDirFS)); err != nil {
		t.Fatal(err)
	}
}

// TestTranslations: a translated page has the English page's headings, tables and blocks; what is in a block differs at most in
// comments.
func TestTranslations(t *testing.T) {
	byPath := map[string]*Page{}
	all := pages(t)
	for i := range all {
		byPath[all[i].Path] = &all[i]
	}
	compared := 0
	for _, p := range all {
		if !p.Translated() {
			continue
		}
		compared++
		english := byPath[strings.Replace(strings.Replace(p.Path, "docs/zh/", "docs/", 1), ".zh-CN.md", ".md", 1)]
		if english == nil {
			t.Errorf("%s translates no page", p.Path)
			continue
		}
		wantNames, gotNames := named(english), named(&p)
		for i := range max(len(wantNames), len(gotNames)) {
			if w, g := at(wantNames, i), at(gotNames, i); w.text != g.text {
				t.Errorf("the section at %s:%d names %s, and that at %s:%d names %s", p.Path, g.line, g.text, english.Path, w.line, w.text)
				break
			}
		}
		want, got := outline(english), outline(&p)
		for i := range max(len(want), len(got)) {
			w, g := at(want, i), at(got, i)
			if w.text != g.text {
				t.Errorf("%s:%d has %q where %s:%d has %q", p.Path, g.line, g.text, english.Path, w.line, w.text)
				break
			}
		}
	}
	if compared < 3 {
		t.Errorf("only %d translated pages were found", compared)
	}
}

// names are those that are the same in both languages: what one needs, or meets.
var names = regexp.MustCompile(`\b(Helm|helm|kubectl|kubeadm|aliyun|Go|Debian|RRSA|Flannel|Calico|NAT|SNAT|CoreDNS|kube-proxy|Lease|RAM|ECS|NLB|CLB)\b`)

// named returns the names in each section of a page.
func named(p *Page) []part {
	parts, seen := []part{{line: 1}}, []string{}
	for i, line := range append(prose(p), "#") {
		if strings.HasPrefix(line, "#") {
			slices.Sort(seen)
			parts[len(parts)-1].text = fmt.Sprint(slices.Compact(seen))
			parts, seen = append(parts, part{line: i + 1}), nil
		}
		seen = append(seen, names.FindAllString(line, -1)...)
	}
	return parts
}

// part is what a translation has in common with its page.
type part struct {
	line int
	text string
}

func at(parts []part, i int) part {
	if i < len(parts) {
		return parts[i]
	}
	return part{}
}

// outline returns a page's headings (their levels), rows of tables (their number of columns), and blocks without comments.
func outline(p *Page) []part {
	var parts []part
	code := map[int]string{}
	for _, b := range p.Blocks {
		for i, line := range b.Code {
			line, _, _ = strings.Cut(line, " #")
			code[b.Line+i] = b.Info + ": " + strings.TrimRight(line, " ")
		}
	}
	for i, line := range prose(p) {
		if text, ok := code[i+1]; ok {
			parts = append(parts, part{i + 1, text})
		} else if level := len(line) - len(strings.TrimLeft(line, "#")); level > 0 {
			parts = append(parts, part{i + 1, line[:level]})
		} else if strings.HasPrefix(line, "|") {
			parts = append(parts, part{i + 1, fmt.Sprint("row of ", strings.Count(line, "|"))})
		}
	}
	return parts
}

// TestTrustPolicy: the RAM role of the installation page trusts the service account and the audience that the chart has.
func TestTrustPolicy(t *testing.T) {
	find := func(template, pattern string) string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(root, "deploy/chart/templates", template))
		if err != nil {
			t.Fatal(err)
		}
		m := regexp.MustCompile(pattern).FindSubmatch(text)
		if m == nil {
			t.Fatalf("%s has no %s", template, pattern)
		}
		return string(m[1])
	}
	audience, account := find("_helpers.tpl", `serviceAccountToken: {audience: ([a-z.]+)`), find("controller.yaml", `serviceAccountName: ([a-z-]+)`)
	found := 0
	for _, p := range pages(t) {
		for _, b := range p.Blocks {
			text := strings.Join(b.Code, "\n")
			if b.Info != "json" || !strings.Contains(text, "oidc:sub") {
				continue
			}
			found++
			var policy struct {
				Version   string
				Statement []struct {
					Effect, Action string
					Principal      struct{ Federated []string }
					Condition      struct{ StringEquals map[string][]string }
				}
			}
			if err := json.Unmarshal([]byte(text), &policy); err != nil || len(policy.Statement) != 1 {
				t.Fatalf("%s:%d: %v", p.Path, b.Line, err)
			}
			equals := policy.Statement[0].Condition.StringEquals
			if got, want := equals["oidc:sub"], []string{"system:serviceaccount:kube-system:" + account}; !slices.Equal(got, want) {
				t.Errorf("%s:%d: oidc:sub %q, want %q", p.Path, b.Line, got, want)
			}
			if got := equals["oidc:aud"]; !slices.Equal(got, []string{audience}) {
				t.Errorf("%s:%d: oidc:aud %q, want %q", p.Path, b.Line, got, audience)
			}
		}
	}
	if found == 0 {
		t.Error("no page has the trust policy for RRSA")
	}
}

// TestPlainEnglish: words that the pages and messages once used in meanings of their own do not come back, in examples of output neither.
func TestPlainEnglish(t *testing.T) {
	private := regexp.MustCompile(`(?i)\b(made anew|makes anew|any wish|cannot be had|ends first|that is known)\b`)
	check := func(path string, line int, text string) {
		if m := private.FindString(text); m != "" {
			t.Errorf("%s:%d: %q: say it in the field's usual words", path, line, m)
		}
	}
	for _, p := range pages(t) {
		for i, line := range p.Lines {
			if !p.Translated() {
				check(p.Path, i+1, line)
			}
		}
	}
	for _, dir := range []string{"cmd", "internal"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			// The texts of help are raw strings of many lines.
			var s scanner.Scanner
			file := token.NewFileSet().AddFile(path, -1, len(b))
			s.Init(file, b, nil, 0)
			for pos, tok, text := s.Scan(); tok != token.EOF; pos, tok, text = s.Scan() {
				if tok == token.STRING {
					check(path, file.Line(pos), strings.Join(strings.Fields(text), " "))
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

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

// TestFill: names are replaced where they are whole words, and one that no command has is an error.
func TestFill(t *testing.T) {
	got, err := Fill([]string{"", "kubectl get nn NODE -o name # NODE_IP, NODE", "sed s,POD_CIDR,172.20.0.0/16,"}, map[string]string{"NODE": "$1", "172.20.0.0/16": "10.0.0.0/8"})
	if want := []string{"", "kubectl get nn $1 -o name # NODE_IP, $1", "sed s,POD_CIDR,10.0.0.0/8,"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, want %q: %v", got, want, err)
	}
	if got, err := Fill([]string{"NODE_IP"}, map[string]string{"NODE": "x"}); err == nil {
		t.Errorf("%q, want an error: no command has NODE", got)
	}
}

// TestTables: headers of tables are found in the block itself and right below it.
func TestTables(t *testing.T) {
	lines := strings.Split("```sh lab\na\n```\n\n    TIME  VERDICT\n    1     x\n\ntext\n\n    NOT  THIS\n\n```console lab\n$ b\nNODE  MODE\n```\n\n```sh node\nc\n```\n\n    DEVICE  CLASS", "\n")
	found, err := blocks(lines)
	if err != nil {
		t.Fatal(err)
	}
	p := &Page{Lines: lines, Blocks: found}
	if got, want := p.Tables("lab"), []string{"TIME VERDICT", "NODE MODE"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
