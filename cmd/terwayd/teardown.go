package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/vishvananda/netns"

	"terway.dev/terway/internal/agent"
	"terway.dev/terway/internal/agent/flannel"
	"terway.dev/terway/internal/agent/flannel/teardown"
	"terway.dev/terway/internal/agent/journal"
	"terway.dev/terway/internal/datapath/kinds"
)

// teardownCommand removes what terwayd has made on a node, for uninstalling Terway.
func teardownCommand(f *flags) *cobra.Command {
	var force bool
	var podCIDR string
	files := flannel.Files{}
	cmd := &cobra.Command{
		Use:   "teardown",
		Short: "Remove everything of Terway, or of Flannel of its chart, from this node (the agent must not run)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if podCIDR != "" {
				files.ConfDir, files.BinDir = f.cniConfDir, f.cniBinDir
				return teardownFlannel(cmd.OutOrStdout(), files, podCIDR, force)
			}
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
	fl := cmd.Flags()
	fl.BoolVar(&force, "force", false, "cut off running pods")
	fl.StringVar(&podCIDR, "flannel", "", "the node has Flannel, with this `POD_CIDR` (eniConfig.pod_cidr of the chart): remove that")
	fl.StringVar(&files.PluginDir, "plugin-dir", pluginDir, "with --flannel: directory of the CNI plugins that were installed into --cni-bin-dir")
	fl.StringVar(&files.StateDir, "ipam-dir", "/var/lib/cni/networks", "with --flannel: directory in which host-local keeps the addresses of pods")
	return cmd
}

// teardownFlannel removes what Flannel has made on a node, and says what it has left to others. The bridge says whether pods use it:
// host-local's files may outlive a pod.
func teardownFlannel(out io.Writer, files flannel.Files, podCIDR string, force bool) error {
	p, err := netip.ParsePrefix(podCIDR)
	if err != nil {
		return fmt.Errorf("--flannel %q: want the pods' range, for example 172.20.0.0/16", podCIDR)
	}
	kernel := teardown.Kernel{NS: netns.None(), PodCIDR: p}
	pods, err := kernel.Pods()
	if err != nil {
		return err
	}
	if pods > 0 && !force {
		return fmt.Errorf("bridge %s connects %d pods: drain the node, or use --force to cut them off", flannel.Bridge, pods)
	}
	left, err := files.Remove() // first the configuration: from now on the runtime starts no pod with it
	more, other := kernel.Remove()
	for _, what := range append(left, more...) {
		fmt.Fprintln(out, "left:", what)
	}
	return errors.Join(err, other)
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
