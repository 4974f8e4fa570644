package program

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/plan"
)

// status is an error with a status of its own.
type status struct{ error }

func (status) ExitStatus() int { return 3 }

// newRoot returns commands that end in every way.
func newRoot(began chan<- struct{}) *cobra.Command {
	root := &cobra.Command{Use: "tool"}
	net := &cobra.Command{Use: "net"}
	add := func(use string, args cobra.PositionalArgs, run func(context.Context) error) *cobra.Command {
		c := &cobra.Command{Use: use, Args: args, RunE: func(c *cobra.Command, _ []string) error { return run(c.Context()) }}
		var o Output
		var wait Timeout
		o.Add(c.Flags(), "values: the values alone")
		wait.Add(c.Flags(), "the cluster", time.Second)
		c.Flags().Int("n", 1, "a number")
		net.AddCommand(c)
		return c
	}
	none := func(context.Context) error { return nil }
	add("fine FILE [NAME]", Args("FILE", "[NAME]"), none)
	add("run NODE", Args("NODE", "[COMMAND…]"), none)
	add("alone", Args(), none)
	need := add("need", Args(), none)
	need.Flags().String("zone", "", "a zone")
	if err := need.MarkFlagRequired("zone"); err != nil {
		panic(err)
	}
	add("bad", Args(), func(context.Context) error { return errors.New("2 problems") })
	add("wrong", Args(), func(context.Context) error {
		return fmt.Errorf("more: %w", Usagef("--zone %q: want a zone", "x"))
	})
	add("differ", Args(), func(context.Context) error { return status{errors.New("it differs")} })
	add("preview", Args(), func(context.Context) error { return Usagef("want -f") }).Annotations = map[string]string{AnnotationUsage: ""}
	add("cloud", Args(), func(context.Context) error {
		return fmt.Errorf("%w", errors.Join(&cloud.Error{Action: "CreateVpc", Code: "QuotaExceeded", Class: cloud.Quota, RequestID: "R1", Message: "no"},
			plan.Problems{{Field: "vpc.cidr", Value: "x", Want: "a range"}}))
	})
	add("heeds", Args(), func(ctx context.Context) error {
		close(began)
		<-ctx.Done()
		return fmt.Errorf("wait for the VPC: %w", ctx.Err())
	})
	add("ends", Args(), func(ctx context.Context) error {
		close(began)
		<-ctx.Done()
		return nil
	})
	add("stuck", Args(), func(context.Context) error {
		close(began)
		select {}
	})
	root.AddCommand(net)
	return root
}

// run returns the exit status of "tool ARGS" and what it prints. An interrupt comes when the command
// says that it has begun.
func run(t *testing.T, args string) (int, string, string) {
	t.Helper()
	began := make(chan struct{})
	interrupts := make(chan os.Signal, 1)
	go func() {
		select {
		case <-began:
			interrupts <- os.Interrupt
		case <-t.Context().Done():
		}
	}()
	var out, errs bytes.Buffer
	root := newRoot(began)
	root.SetOut(&out)
	root.SetErr(&errs)
	p := Program{Root: root}
	if strings.Contains(args, "stuck") {
		p.Grace = time.Millisecond
	}
	code := p.run(strings.Fields(args), interrupts)
	return code, out.String(), errs.String()
}

// TestExitStatus: each kind of end has its status, and its line.
func TestExitStatus(t *testing.T) {
	for args, want := range map[string]struct {
		status int
		said   string
	}{
		"net fine f":               {OK, ""},
		"net fine f n -o values":   {OK, ""},
		"net fine --help":          {OK, ""},
		"net run n1 ls -- -l":      {OK, ""},
		"net":                      {OK, ""},
		"net bad":                  {Problem, "tool: 2 problems\n"},
		"net differ":               {3, "tool: it differs\n"},
		"net preview":              {Problem, "tool: want -f\nsee \"tool net preview --help\"\n"},
		"net preview --nodez":      {Problem, "tool: --nodez: \"tool net preview\" has no such flag\nsee \"tool net preview --help\"\n"},
		"net wrong":                {WrongUsage, "tool: more: --zone \"x\": want a zone\nsee \"tool net wrong --help\"\n"},
		"net fine":                 {WrongUsage, "tool: FILE is missing: want \"tool net fine FILE [NAME]\"\nsee \"tool net fine --help\"\n"},
		"net fine f n x":           {WrongUsage, "tool: \"x\" is one argument too many: want \"tool net fine FILE [NAME]\"\nsee \"tool net fine --help\"\n"},
		"net run":                  {WrongUsage, "tool: NODE is missing: want \"tool net run NODE [COMMAND…]\"\nsee \"tool net run --help\"\n"},
		"net alone extra args":     {WrongUsage, "tool: \"tool net alone\" takes no arguments, and got [\"extra\" \"args\"]\nsee \"tool net alone --help\"\n"},
		"net need":                 {WrongUsage, "tool: required flag(s) \"zone\" not set\nsee \"tool net need --help\"\n"},
		"net fine f --nodez 3":     {WrongUsage, "tool: --nodez: \"tool net fine\" has no such flag\nsee \"tool net fine --help\"\n"},
		"net fine f -z":            {WrongUsage, "tool: -z: \"tool net fine\" has no such flag\nsee \"tool net fine --help\"\n"},
		"net fine f --n many":      {WrongUsage, "tool: --n \"many\": want a number\nsee \"tool net fine --help\"\n"},
		"net fine f -o xml":        {WrongUsage, "tool: --output \"xml\": want text, json, yaml or values\nsee \"tool net fine --help\"\n"},
		"net fine f --timeout -5s": {WrongUsage, "tool: --timeout \"-5s\": want a duration such as 30s, or 0 for no limit\nsee \"tool net fine --help\"\n"},
		"net fine f --timeout 0":   {OK, ""},
		"net fien f":               {WrongUsage, "tool: \"fien\" is not a command of \"tool net\"; did you mean \"fine\"?\nsee \"tool net --help\"\n"},
		"nett":                     {WrongUsage, "tool: \"nett\" is not a command of \"tool\"; did you mean \"net\"?\nsee \"tool --help\"\n"},
		"net heeds":                {Interrupted, "tool: interrupted: wait for the VPC: context canceled\n"},
		"net ends":                 {OK, ""},
		"net stuck":                {Interrupted, "tool: interrupted: it has not ended in time\n"},
	} {
		if code, _, said := run(t, args); code != want.status || said != want.said {
			t.Errorf("tool %s: exit status %d, want %d; it says\n%s\nwant\n%s", args, code, want.status, said, want.said)
		}
	}
}

// TestErrorObject: with -o json or yaml an error is an object, also if -o comes after what is wrong.
func TestErrorObject(t *testing.T) {
	for args, want := range map[string]string{
		"net bad -o json":           `{"error":{"message":"2 problems","reason":"Problem","exitStatus":1}}`,
		"net bad -oyaml":            `{"error":{"message":"2 problems","reason":"Problem","exitStatus":1}}`,
		"net alone x --output=json": `{"error":{"message":"\"tool net alone\" takes no arguments, and got [\"x\"]","reason":"Usage","exitStatus":2,"hint":"see \"tool net alone --help\""}}`,
		"net alone --nodez -o json": `{"error":{"message":"--nodez: \"tool net alone\" has no such flag","reason":"Usage","exitStatus":2,"hint":"see \"tool net alone --help\""}}`,
		"net heeds -o json":         `{"error":{"message":"interrupted: wait for the VPC: context canceled","reason":"Interrupted","exitStatus":130}}`,
		"net cloud -o json": `{"error":{"message":"CreateVpc: QuotaExceeded: no (request R1)\nvpc.cidr x: want a range","reason":"Problem","exitStatus":1,` +
			`"details":{"cloud":{"action":"CreateVpc","class":"Quota","code":"QuotaExceeded","requestId":"R1"},"problems":[{"field":"vpc.cidr","value":"x","want":"a range"}]}}}`,
	} {
		if _, out, said := run(t, args); said != want+"\n" || out != "" {
			t.Errorf("tool %s: it says\n%s\nwant\n%s", args, said, want)
		}
	}
	for _, args := range []string{"net bad", "net bad -o text", "net run n1 -o values", "net alone x"} {
		if _, _, said := run(t, args); json.Valid([]byte(said)) && said != "" {
			t.Errorf("tool %s: %s: want text", args, said)
		}
	}
}

// TestOutput: a result is the same in all formats.
func TestOutput(t *testing.T) {
	result := struct {
		Nodes []string `json:"nodeNames"`
	}{[]string{"n1"}}
	for format, want := range map[string]string{
		Text: "n1\n", JSON: "{\n  \"nodeNames\": [\n    \"n1\"\n  ]\n}\n", YAML: "nodeNames:\n- n1\n",
	} {
		var o Output
		c := &cobra.Command{}
		o.Add(c.Flags())
		if err := c.ParseFlags([]string{"-o", format}); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := o.Write(&out, result, func(w io.Writer) error { _, err := fmt.Fprintln(w, "n1"); return err }); err != nil || out.String() != want {
			t.Errorf("-o %s: %v\n%s\nwant\n%s", format, err, out.String(), want)
		}
	}
}
