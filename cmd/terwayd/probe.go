package main

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/connectivity"
	"terway.dev/terway/internal/connectivity/probe"
)

// probeCommand is what "terwayctl connectivity" runs in its own pods, and in the agents' pods for what
// nodes send. It has nothing to do with the agent: terwayd is a program of the image that every node has.
func probeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "probe", Short: "Send and answer probes of a network (for terwayctl connectivity)", Hidden: true}
	var port int
	cmd.PersistentFlags().IntVar(&port, "port", 8080, "the port of the server, TCP and UDP")
	cmd.AddCommand(
		&cobra.Command{Use: "serve", Short: "Answer probes", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			return probe.Serve(cmd.Context(), ":"+strconv.Itoa(port))
		}},
		&cobra.Command{Use: "seen", Short: "Print the marks of datagrams that have come here", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			return probe.Seen(cmd.Context(), "127.0.0.1:"+strconv.Itoa(port), cmd.OutOrStdout())
		}},
		&cobra.Command{Use: "run RUN TASKS", Short: "Send probes", Args: cobra.ExactArgs(2), RunE: func(cmd *cobra.Command, args []string) error {
			var tasks []connectivity.Task
			if err := json.Unmarshal([]byte(args[1]), &tasks); err != nil {
				return fmt.Errorf("TASKS %.80q: want a list in JSON: %w", args[1], err)
			}
			return probe.Run(cmd.Context(), args[0], tasks, probe.Standard, cmd.OutOrStdout())
		}},
	)
	return cmd
}
