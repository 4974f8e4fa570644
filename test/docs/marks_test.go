package docs

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

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
	"nsenter -t PID -n tc -s class show dev tw-egress":                   "its pod has an exclusive ENI; the pods of the pages' commands share theirs",
	"ip netns exec POD tc filter show dev eth0 egress":                   "its pod has the datapath ipvlan, which the kernel under the lab may lack",
	"ip -d link show type netkit":                                        "its pod has the datapath netkit, which the kernel under the lab may lack",
	"kubectl -n kube-system get configmap kube-proxy -o yaml |":          "TestKubeProxy runs it with a kubectl that has the ConfigMap of kubeadm; the lab's kube-proxy has none",
	"terwayctl vpc grow plan.yaml --zone cn-hangzhou-j --to 2 --bits 24": "its output is that of another plan; TestGrow runs it with the lab's",
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

// TestOnePage: test/e2e runs the blocks of some marks on one page only.
func TestOnePage(t *testing.T) {
	for mark, only := range map[string]string{"last": "docs/uninstall.md", "flannel": "docs/migrate.md"} {
		for _, p := range pages(t) {
			if has := p.Select(mark) != nil; has != (p.Path == only) && !p.Translated() {
				t.Errorf("%s has blocks with the mark %s: %t; want them in %s alone", p.Path, mark, has, only)
			}
		}
	}
}
