package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/agent"
	"terway.dev/terway/internal/agent/journal"
	"terway.dev/terway/internal/datapath/kinds"
)

// teardownCommand removes what terwayd has made on a node, for uninstalling Terway.
func teardownCommand(f *flags) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "teardown",
		Short: "Remove everything of Terway from this node (the agent must not run)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			j, err := journal.Open(f.stateDir) // fails while an agent runs
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, j.Close()) }()
			entries, _, err := j.Load()
			if err != nil && !force {
				return err
			}
			if len(entries) > 0 && !force {
				return fmt.Errorf("%d pods of this node have addresses, the first is %s: drain the node, or use --force to cut them off", len(entries), entries[0].Pod())
			}
			// The configuration first: from now on the runtime starts no pod with Terway.
			errs := []error{
				remove(filepath.Join(f.cniConfDir, agent.ConflistName)),
				remove(filepath.Join(f.cniBinDir, "terway")),
				remove(filepath.Join(f.policyDir, stateFile)),
				remove(f.socket), // of an agent that was killed
				remove(f.askSocket),
			}
			if f.hostRoot != "" {
				_, err := hostOf(f.hostRoot).Remove()
				errs = append(errs, err)
			}
			lacking, err := kinds.Probe()
			if err != nil {
				return errors.Join(append(errs, err)...)
			}
			node, _, err := kinds.New(kinds.Options{ProcSys: f.procSys, Log: slog.Default(), Lacking: lacking})
			if err != nil {
				return errors.Join(append(errs, err)...)
			}
			// Exclusive ENIs are moved back to the node.
			for i := range entries {
				if entries[i].Exclusive != nil {
					errs = append(errs, node.DelPod(cmd.Context(), agent.PodOf(&entries[i])))
				}
			}
			errs = append(errs, node.Teardown(cmd.Context()), node.Close(cmd.Context()))
			if err := errors.Join(errs...); err != nil {
				return err
			}
			return remove(filepath.Join(f.stateDir, journal.FileName))
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "cut off running pods")
	return cmd
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
