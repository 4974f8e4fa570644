// Command terwayctl is the operator's tool: it plans networks, creates them in the cloud, checks
// configurations and shows the state of a cluster.
package main

import (
	"time"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/cli/config"
	"terway.dev/terway/internal/cli/connectivity"
	"terway.dev/terway/internal/cli/install"
	"terway.dev/terway/internal/cli/instancetypes"
	"terway.dev/terway/internal/cli/migrate"
	"terway.dev/terway/internal/cli/plan"
	"terway.dev/terway/internal/cli/pods"
	"terway.dev/terway/internal/cli/policy"
	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/cli/status"
	"terway.dev/terway/internal/cli/supportbundle"
	"terway.dev/terway/internal/cli/version"
	"terway.dev/terway/internal/cli/vpc"
)

func main() {
	// All that a command does may be cut off and done again.
	program.Program{Root: newCommand(), Grace: time.Second}.Main()
}

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "terwayctl",
		Short: "Operate Terway, the VPC network plugin for Kubernetes",
		Long: `Operate Terway, the VPC network plugin for Kubernetes.

The exit status is 0 if all is well, 1 if there is a problem or the command is
refused or fails, 2 if a flag or an argument is wrong, and 130 after an interrupt.
-o json and -o yaml print the result as an object; an error is then the last line
on standard error, as JSON: {"error": {"message": …, "reason": …, "exitStatus": …}}.`,
	}
	root.AddCommand(
		config.NewCommand(),
		connectivity.NewCommand(),
		install.NewCommand(),
		instancetypes.NewCommand(),
		migrate.NewCommand(),
		plan.NewCommand(),
		pods.NewCommand(),
		policy.NewCommand(),
		status.NewCommand(),
		supportbundle.NewCommand(),
		vpc.NewCommand(),
		moved("lab"),
		moved("vpcsim", "vpcsim"),
	)
	version.Add(root)
	return root
}
