// Command terway-lab is for developers and for trying Terway: it runs a cluster on a simulated VPC
// on this machine, checks and measurements on it, and the simulated VPC alone.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"terway.dev/terway/internal/cli/lab"
	"terway.dev/terway/internal/cli/version"
	"terway.dev/terway/internal/cli/vpcsim"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// Libraries' log messages are not for the user; errors say what is wrong.
	log.SetLogger(logr.Discard())
	root := lab.NewCommand()
	root.SilenceUsage, root.SilenceErrors = true, true
	root.AddCommand(vpcsim.NewCommand())
	version.Add(root)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "terway-lab:", err)
		os.Exit(1)
	}
}
