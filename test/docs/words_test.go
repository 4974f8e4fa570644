package docs

import (
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

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
