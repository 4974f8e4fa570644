// Package docs reads the project's pages and their commands. Its tests check links, run the commands that need
// only the simulated cloud, and compare the pages of other languages with the English ones; test/api and test/e2e run the
// commands that need an API server or the lab.
//
// A command for a shell is in a fenced block whose info string is "sh" and a mark, which says where it is run:
//
//	simulator  by this package's tests, in order, with the simulated cloud
//	api        by test/api, with an API server on which no pod runs
//	lab        by test/e2e, in order, in the lab
//	node       by test/e2e, after the page's blocks "lab", in a shell on a node of the lab
//	last       by test/e2e, after all else in the lab: Terway is to be uninstalled. uninstall.md alone has it
//	flannel    by test/e2e, in a lab with Flannel: a cluster is migrated. migrate.md alone has it
//	cloud      nowhere here: it needs an account, or machines of the real cloud
//	cluster    nowhere here, for a reason that TestNotRun has
//	slow       by people: it takes minutes or hours, or changes the machine
//	synopsis   it is not one command but a form of many: [optional], this|that, NAME…
//
// What stands for a reader's own things (NODE, my-values.yaml) the tests replace by what they have.
//
// A block "console" and a mark shows commands, each after "$ ", with their output; only the commands are run. A table that a page shows
// below a command has the header that the command prints.
package docs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Marks are the valid marks.
var Marks = []string{"simulator", "api", "lab", "node", "last", "flannel", "cloud", "cluster", "slow", "synopsis"}

// Page is a page of the documentation.
type Page struct {
	Path   string // from the root of the repository
	Lines  []string
	Blocks []Block
}

// Block is a block of code.
type Block struct {
	Line int // of its first line of code; the page's first line is 1
	// Info is the info string, "" for an indented block.
	Info     string
	Indented bool
	Code     []string
}

// Mark returns the mark of a block of commands, and whether it is one.
func (b *Block) Mark() (mark string, commands bool) {
	lang, mark, _ := strings.Cut(b.Info, " ")
	return mark, lang == "sh" || lang == "console"
}

// Commands returns the block's code without what programs print; their lines are empty.
func (b *Block) Commands() []string {
	code := slices.Clone(b.Code)
	if strings.HasPrefix(b.Info, "console") {
		for i, line := range code {
			code[i], _ = strings.CutPrefix(line, "$ ")
			if code[i] == line {
				code[i] = ""
			}
		}
	}
	return code
}

// Pages returns all pages of the repository in the folder root.
func Pages(root string) ([]Page, error) {
	var paths []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md", "deploy/*/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return nil, err
		}
		paths = append(paths, found...)
	}
	slices.Sort(paths)
	var pages []Page
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		short, err := filepath.Rel(root, path)
		if err != nil {
			return nil, err
		}
		p := Page{Path: filepath.ToSlash(short), Lines: strings.Split(string(text), "\n")}
		if p.Blocks, err = blocks(p.Lines); err != nil {
			return nil, fmt.Errorf("%s: %w", p.Path, err)
		}
		pages = append(pages, p)
	}
	return pages, nil
}

var fence = regexp.MustCompile("^ *```(.*)$")

// blocks finds fenced blocks and, outside lists, indented ones.
func blocks(lines []string) ([]Block, error) {
	var found []Block
	list := false // indented lines belong to an item
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		if m := fence.FindStringSubmatch(line); m != nil {
			b := Block{Line: i + 2, Info: strings.TrimSpace(m[1])}
			for i++; ; i++ {
				if i == len(lines) {
					return nil, fmt.Errorf("line %d: the block has no end", b.Line-1)
				}
				if strings.TrimSpace(lines[i]) == "```" {
					break
				}
				b.Code = append(b.Code, lines[i])
			}
			found = append(found, b)
			continue
		}
		switch code, indented := strings.CutPrefix(line, "    "); {
		case line == "":
		case indented && !list:
			if last := len(found) - 1; last >= 0 && found[last].Indented && found[last].Line+len(found[last].Code) == i+1 {
				found[last].Code = append(found[last].Code, code)
			} else {
				found = append(found, Block{Line: i + 1, Indented: true, Code: []string{code}})
			}
		case !strings.HasPrefix(line, " "):
			list = item.MatchString(line)
		}
	}
	return found, nil
}

var item = regexp.MustCompile(`^([-*]|[0-9]+\.) `)

// Script returns a shell script of the page's blocks with a mark. Its lines have the numbers of the page's, so that the
// shell's messages name the page's line; nil if there are no such blocks.
func (p *Page) Script(mark string) []string {
	var script []string
	for i := range p.Blocks {
		b := &p.Blocks[i]
		if where, commands := b.Mark(); commands && where == mark {
			if script == nil {
				script = make([]string, len(p.Lines))
			}
			copy(script[b.Line-1:], b.Commands())
		}
	}
	return script
}

// Select returns the commands of each of the page's blocks with a mark.
func (p *Page) Select(mark string) [][]string {
	var list [][]string
	for i := range p.Blocks {
		if where, commands := p.Blocks[i].Mark(); commands && where == mark {
			list = append(list, p.Blocks[i].Commands())
		}
	}
	return list
}

// Fill returns a script with names of the page replaced by others, as whole words. A name that is not in the script is an error.
func Fill(script []string, names map[string]string) ([]string, error) {
	text := strings.Join(script, "\n")
	for name, is := range names {
		whole := regexp.MustCompile(`(^|[^\w-])` + regexp.QuoteMeta(name) + `($|[^\w-])`)
		if !whole.MatchString(text) {
			return nil, fmt.Errorf("no command has %s", name)
		}
		text = whole.ReplaceAllString(text, "${1}"+strings.ReplaceAll(is, "$", "$$")+"${2}")
	}
	return strings.Split(text, "\n"), nil
}

// Bash returns a shell that runs a script, whose first line is a page's first: it ends with the first command that fails, in a pipe too,
// and says which line that is. begin is run before.
func Bash(begin string, script []string) *exec.Cmd {
	return exec.Command("bash", "-eEuo", "pipefail", "-c",
		`trap 'echo "line $LINENO: $BASH_COMMAND: exit status $?" >&2' ERR;`+begin+strings.Join(script, "\n"))
}

// Tables returns the headers of the tables that the page shows in or below blocks of commands with a mark, their columns separated by one space.
func (p *Page) Tables(mark string) []string {
	var headers []string
	add := func(line string) {
		if header.MatchString(line) {
			headers = append(headers, strings.Join(strings.Fields(line), " "))
		}
	}
	for i := range p.Blocks {
		b := &p.Blocks[i]
		if where, commands := b.Mark(); !commands || where != mark {
			continue
		}
		for _, line := range b.Code {
			add(line)
		}
		if next := i + 1; next < len(p.Blocks) && p.Blocks[next].Indented && p.Blocks[next].Line <= b.Line+len(b.Code)+2 {
			add(p.Blocks[next].Code[0])
		}
	}
	return headers
}

// header is a line of several words in capitals.
var header = regexp.MustCompile(`^[A-Z]+( +[A-Z]+)+$`)

// Translated reports whether the page is a translation, whose commands are those of the English page.
func (p *Page) Translated() bool {
	return strings.HasPrefix(p.Path, "docs/zh/") || strings.HasSuffix(p.Path, ".zh-CN.md")
}

// Section returns the lines between a heading of the second level and the next.
func (p *Page) Section(heading string) []string {
	start := slices.Index(p.Lines, "## "+heading)
	if start < 0 {
		return nil
	}
	section := p.Lines[start+1:]
	if end := slices.IndexFunc(section, func(line string) bool { return strings.HasPrefix(line, "## ") }); end >= 0 {
		section = section[:end]
	}
	return section
}
