package program

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

const flagOutput = "output"

// The formats of every command with a result.
const (
	Text = "text"
	JSON = "json"
	YAML = "yaml"
)

// Output is the flag -o. The zero value is text.
type Output struct {
	format string
	more   []string
}

// Add defines the flag; more are formats that only this command has, with what they print:
// "values: the chart's values alone".
func (o *Output) Add(set *pflag.FlagSet, more ...string) {
	help := "text, json or yaml"
	if len(more) > 0 {
		help = "text, json, yaml or " + strings.Join(more, ", or ")
	}
	for _, m := range more {
		name, _, _ := strings.Cut(m, ":")
		o.more = append(o.more, name)
	}
	o.format = Text
	set.VarP(o, flagOutput, "o", help)
}

// String, Set and Type make it a flag.
func (o *Output) String() string { return o.format }

// Set refuses what the command cannot print.
func (o *Output) Set(format string) error {
	known := append([]string{Text, JSON, YAML}, o.more...)
	if !slices.Contains(known, format) {
		last := len(known) - 1
		return fmt.Errorf("want %s or %s", strings.Join(known[:last], ", "), known[last])
	}
	o.format = format
	return nil
}

// Type is in the help.
func (o *Output) Type() string { return "FORMAT" }

// Is says whether this format was chosen.
func (o *Output) Is(format string) bool { return o.format == format }

// Machine says whether the result is for a program: standard output has one object.
func (o *Output) Machine() bool { return isMachine(o.format) }

// Write prints a result: v for programs, or what text prints.
func (o *Output) Write(w io.Writer, v any, text func(io.Writer) error) error {
	if !o.Machine() {
		return text(w)
	}
	return o.Encode(w, v)
}

// Encode prints v in a format for programs.
func (o *Output) Encode(w io.Writer, v any) error {
	if o.Is(YAML) {
		b, err := yaml.Marshal(v)
		if err != nil {
			return fmt.Errorf("encode as YAML: %w", err)
		}
		_, err = w.Write(b)
		return err
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// Timeout is the value of --timeout: how long one answer may take; 0 is no limit.
type Timeout time.Duration

// Add defines the flag; of is who answers.
func (t *Timeout) Add(set *pflag.FlagSet, of string, standard time.Duration) {
	*t = Timeout(standard)
	set.Var(t, "timeout", "how long an answer of "+of+" may take, with all repetitions of the call; 0: no limit")
}

// String, Set and Type make it a flag.
func (t *Timeout) String() string { return time.Duration(*t).String() }

// Set refuses what is no limit.
func (t *Timeout) Set(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return fmt.Errorf("want a duration such as 30s, or 0 for no limit")
	}
	*t = Timeout(d)
	return nil
}

// Type is in the help.
func (t *Timeout) Type() string { return "DURATION" }
