package plan

import (
	"fmt"
	"strings"
)

// Problem is a mistake in a plan: the field, its value, and what would be right.
type Problem struct {
	Field string `json:"field"`
	Value string `json:"value"`
	Want  string `json:"want"`
}

func (p Problem) String() string {
	if p.Value == "" {
		return p.Field + ": want " + p.Want
	}
	return p.Field + " " + p.Value + ": want " + p.Want
}

// Problems is an error that lists all of them.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

func (ps *Problems) bad(field string, value any, want string, args ...any) {
	*ps = append(*ps, Problem{Field: field, Value: fmt.Sprint(value), Want: fmt.Sprintf(want, args...)})
}

// Details are the problems for programs.
func (ps Problems) Details() (name string, value any) { return "problems", []Problem(ps) }
