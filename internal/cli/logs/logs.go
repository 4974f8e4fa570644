// Package logs makes a program's log: its flags, and its level, which two signals change while the program runs.
//
// The level is no HTTP endpoint: whoever reaches a metrics or health port could slow the program down by its own log. A
// signal needs a shell in the pod, or the program itself there: its command log-level sends the signal, because the
// image has no kill.
package logs

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
)

// Flags are a program's flags for its log.
type Flags struct {
	Format  string
	Verbose bool
}

// The values of Format.
const (
	FormatText = "text"
	FormatJSON = "json"
)

// Register adds the flags to a set.
func (f *Flags) Register(fl *pflag.FlagSet) {
	fl.StringVar(&f.Format, "log-format", FormatText, "format of the log: text or json")
	fl.BoolVarP(&f.Verbose, "verbose", "v", false, "log every call (level debug); SIGUSR1 does the same, SIGUSR2 undoes it")
}

// signals are those that set a level.
var signals = map[os.Signal]slog.Level{syscall.SIGUSR1: slog.LevelDebug, syscall.SIGUSR2: slog.LevelInfo}

// Start makes the log. Until ctx is done, SIGUSR1 sets its level to debug, SIGUSR2 to info.
func (f Flags) Start(ctx context.Context, w io.Writer) (*slog.Logger, error) {
	level := &slog.LevelVar{}
	if f.Verbose {
		level.Set(slog.LevelDebug)
	}
	options := &slog.HandlerOptions{Level: level}
	var log *slog.Logger
	switch f.Format {
	case FormatText, "":
		log = slog.New(slog.NewTextHandler(w, options))
	case FormatJSON:
		log = slog.New(slog.NewJSONHandler(w, options))
	default:
		return nil, fmt.Errorf("--log-format %q: want %s or %s", f.Format, FormatText, FormatJSON)
	}
	klog.SetSlogLogger(log) // client-go's
	got := make(chan os.Signal, 1)
	signal.Notify(got, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		defer signal.Stop(got)
		for {
			select {
			case s := <-got:
				level.Set(signals[s])
				log.Info("the log's level has been set", "to", level.Level())
			case <-ctx.Done():
				return
			}
		}
	}()
	return log, nil
}

// Command is the command log-level of a program: it sets the level of the log of the process with the same program
// that is the first of its container.
func Command() *cobra.Command {
	pid := 1
	c := &cobra.Command{
		Use:   "log-level debug|info",
		Short: "Change the level of the running program's log",
		Long: `Changes the level of the running program's log, until it is changed again or the program starts anew. It is
to be run in the program's pod, whose first process the program is.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return setLevel(pid, args[0]) },
	}
	c.Flags().IntVar(&pid, "pid", pid, "process id of the running program")
	return c
}

func setLevel(pid int, level string) error {
	s, ok := map[string]syscall.Signal{"debug": syscall.SIGUSR1, "info": syscall.SIGUSR2}[level]
	if !ok {
		return fmt.Errorf("%q: want debug or info", level)
	}
	// The signal ends a process that does not expect it.
	mine, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	its, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/exe")
	if err != nil {
		return fmt.Errorf("--pid %d: %w", pid, err)
	}
	if its != mine {
		return fmt.Errorf("--pid %d: the process runs %s, want %s", pid, its, mine)
	}
	if err := syscall.Kill(pid, s); err != nil {
		return fmt.Errorf("--pid %d: %w", pid, err)
	}
	return nil
}
