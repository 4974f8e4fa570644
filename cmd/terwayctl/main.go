// Command terwayctl is the operator's tool: it plans networks, creates them in the cloud, checks
// configurations and shows the state of a cluster.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"terway.dev/terway/internal/cli/config"
	"terway.dev/terway/internal/cli/instancetypes"
	"terway.dev/terway/internal/cli/plan"
	"terway.dev/terway/internal/cli/policy"
	"terway.dev/terway/internal/cli/status"
	"terway.dev/terway/internal/cli/version"
	"terway.dev/terway/internal/cli/vpc"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// Libraries' log messages are not for the operator; errors say what is wrong.
	log.SetLogger(logr.Discard())
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "terwayctl:", err)
		status := 1
		if with := (interface{ ExitStatus() int })(nil); errors.As(err, &with) {
			status = with.ExitStatus()
		}
		os.Exit(status)
	}
}

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "terwayctl",
		Short:         "Operate Terway, the VPC network plugin for Kubernetes",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(
		config.NewCommand(),
		instancetypes.NewCommand(),
		plan.NewCommand(),
		policy.NewCommand(),
		status.NewCommand(),
		vpc.NewCommand(),
		moved("lab"),
		moved("vpcsim", "vpcsim"),
	)
	version.Add(root)
	return root
}
