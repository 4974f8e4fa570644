// Package program is what the programs for people (terwayctl, terway-lab) have in common: how they
// end, what -o prints, and how they report wrong usage. It must not know what a command does.
package program

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

// The exit statuses of a program.
const (
	OK = 0
	// Problem: the command has found a problem, was refused, or has failed.
	Problem = 1
	// WrongUsage: a flag or an argument is wrong; nothing was done.
	WrongUsage = 2
	// Interrupted is that of programs which SIGINT ends (128 + 2); SIGTERM ends with it too.
	Interrupted = 130
)

// AnnotationUsage is on a command that uses exit status 2 for a result: wrong usage of it is a Problem.
const AnnotationUsage = "usage-is-a-problem"

// Program is a root command and how it is run.
type Program struct {
	Root *cobra.Command
	// Grace is how long a command may go on after an interrupt, to say what it has done. Then the
	// program ends, whatever the command waits for. 0: until it has ended.
	Grace time.Duration
}

// Main runs the program, and ends the process.
func (p Program) Main() {
	quiet()
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt, syscall.SIGTERM)
	os.Exit(p.run(os.Args[1:], interrupts))
}

// quiet discards libraries' log messages, which are not for people: errors say what is wrong. client-go has a logger of its own, which would
// write to standard error, for example when an interrupt ends what it does.
func quiet() {
	log.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
}

// ended is how a command has ended.
type ended struct {
	cmd *cobra.Command
	err error
}

// run returns the exit status.
func (p Program) run(args []string, interrupts <-chan os.Signal) int {
	prepare(p.Root)
	p.Root.SetArgs(args)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ending := make(chan ended, 1)
	go func() {
		cmd, err := p.Root.ExecuteContextC(ctx)
		ending <- ended{cmd, err}
	}()
	end, interrupted := ended{p.Root, errors.New("it has not ended in time")}, false
	select {
	case end = <-ending:
	case <-interrupts:
		interrupted = true
		cancel()
		var late <-chan time.Time
		if p.Grace > 0 {
			late = time.After(p.Grace)
		}
		select {
		case end = <-ending:
		case <-late:
		}
	}
	if end.err == nil {
		return OK // also if interrupted: commands that go on until then
	}
	f := failureOf(end, interrupted)
	if machine(end.cmd, args) {
		_ = json.NewEncoder(p.Root.ErrOrStderr()).Encode(map[string]failure{"error": f}) // nobody is left to be told
	} else {
		f.write(p.Root.ErrOrStderr(), p.Root.Name())
	}
	return f.ExitStatus
}

// prepare gives all commands the same behaviour.
func prepare(root *cobra.Command) {
	root.SilenceUsage, root.SilenceErrors = true, true
	root.SetFlagErrorFunc(flagError)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	each(root, func(c *cobra.Command) {
		c.SuggestionsMinimumDistance = 2 // letters; cobra's own default
		if c.DisableFlagParsing {
			return // another program's
		}
		if !c.Runnable() { // a group of commands
			c.Args, c.RunE = arbitrary, group
			return
		}
		check := c.Args
		c.Args = func(c *cobra.Command, args []string) error {
			if check != nil {
				if err := check(c, args); err != nil {
					return Usage(err)
				}
			}
			return Usage(c.ValidateRequiredFlags())
		}
	})
}

func each(c *cobra.Command, f func(*cobra.Command)) {
	f(c)
	for _, sub := range c.Commands() {
		each(sub, f)
	}
}

func arbitrary(*cobra.Command, []string) error { return nil }

// group is what a command does that has only commands.
func group(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return c.Help()
	}
	near := ""
	if like := c.SuggestionsFor(args[0]); len(like) > 0 {
		near = fmt.Sprintf("; did you mean %q?", like[0])
	}
	return Usagef("%q is not a command of %q%s", args[0], c.CommandPath(), near)
}

// A failure is the error of a program. With -o json or yaml it is the last line on standard error:
// {"error": …}.
type failure struct {
	Message string `json:"message"`
	// Reason is "Usage", "Interrupted" or "Problem".
	Reason     string `json:"reason"`
	ExitStatus int    `json:"exitStatus"`
	// Hint is what to do next.
	Hint string `json:"hint,omitempty"`
	// Details are what errors in the chain say of themselves: "cloud" is the cloud's answer,
	// "problems" are the fields of a plan that are wrong.
	Details map[string]any `json:"details,omitempty"`
}

// details adds what an error and its causes say.
func details(err error, to map[string]any) {
	if d, ok := err.(interface{ Details() (string, any) }); ok {
		name, value := d.Details()
		to[name] = value
	}
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		if cause := e.Unwrap(); cause != nil {
			details(cause, to)
		}
	case interface{ Unwrap() []error }:
		for _, cause := range e.Unwrap() {
			details(cause, to)
		}
	}
}

func failureOf(end ended, interrupted bool) failure {
	f := failure{Message: end.err.Error(), Reason: "Problem", ExitStatus: Problem}
	var usage *usageError
	var with interface{ ExitStatus() int }
	switch {
	case interrupted:
		f.Message, f.Reason, f.ExitStatus = "interrupted: "+f.Message, "Interrupted", Interrupted
	case errors.As(end.err, &usage):
		f.Reason, f.ExitStatus, f.Hint = "Usage", WrongUsage, fmt.Sprintf("see %q", end.cmd.CommandPath()+" --help")
		if _, ok := end.cmd.Annotations[AnnotationUsage]; ok {
			f.ExitStatus = Problem
		}
	case errors.As(end.err, &with): // a problem that the command tells from others
		f.ExitStatus = with.ExitStatus()
	}
	f.Details = map[string]any{}
	details(end.err, f.Details)
	return f
}

func (f failure) write(w io.Writer, program string) {
	fmt.Fprintf(w, "%s: %s\n", program, f.Message)
	if f.Hint != "" {
		fmt.Fprintln(w, f.Hint)
	}
}

// machine says whether the error is for a program. If parsing has failed before -o, the flag does
// not say it.
func machine(cmd *cobra.Command, args []string) bool {
	format := ""
	if f := cmd.Flag(flagOutput); f != nil {
		format = f.Value.String()
	}
	for i, a := range args {
		for _, name := range []string{"--" + flagOutput, "-o"} {
			switch value, ok := strings.CutPrefix(a, name); {
			case a == "--":
				return isMachine(format)
			case ok && value == "" && i+1 < len(args):
				format = args[i+1]
			case ok:
				format = strings.TrimPrefix(value, "=")
			}
		}
	}
	return isMachine(format)
}

func isMachine(format string) bool { return format == JSON || format == YAML }
