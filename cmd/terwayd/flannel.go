package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"terway.dev/terway/internal/agent"
	"terway.dev/terway/internal/agent/flannel"
	"terway.dev/terway/internal/agent/flannel/cluster"
)

// pluginDir has upstream's CNI plugins in the image.
const pluginDir = "/usr/lib/cni"

// flannelCommand runs beside upstream's flanneld on nodes whose pods use Flannel.
func flannelCommand(f *flags) *cobra.Command {
	var subnetFile, plugins, cniVersion, healthAddress string
	var period time.Duration
	cmd := &cobra.Command{
		Use:   "flannel-cni",
		Short: "Write the CNI configuration of a node that runs Flannel, from flanneld's file, and publish its block in the Node",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if period <= 0 {
				return fmt.Errorf("--period %s: want more than zero", period)
			}
			node, log, err := flannelNode(cmd.Context(), f)
			if err != nil {
				return err
			}
			n := &flannel.Node{
				SubnetFile: subnetFile, ConfDir: f.cniConfDir, BinDir: f.cniBinDir, PluginDir: plugins, CNIVersion: cniVersion,
				Publish:  node.Publish,
				Outdated: filepath.Join(filepath.Dir(subnetFile), "outdated"), Now: time.Now,
				Write: agent.WriteFile, Log: log,
			}
			if err := flannel.CheckVersion(cniVersion); err != nil {
				return fmt.Errorf("--cni-version: %w", err)
			}
			if err := n.Install(); err != nil {
				return err
			}
			l, err := net.Listen("tcp", healthAddress)
			if err != nil {
				return fmt.Errorf("--health-address: %w", err)
			}
			mux := http.NewServeMux()
			mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
			mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
				if why := n.Waits(); why != "" {
					http.Error(w, why, http.StatusServiceUnavailable)
				}
			})
			tick := time.NewTicker(period)
			defer tick.Stop()
			ctx, cancel := context.WithCancelCause(cmd.Context())
			defer cancel(nil)
			go func() { cancel(agent.ServeHTTP(ctx, l, mux)) }()
			n.Run(ctx, tick.C)
			if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&subnetFile, "subnet-file", "/run/flannel/subnet.env", "the file that flanneld writes; a file \"outdated\" beside it requests a restart of flanneld")
	fl.StringVar(&plugins, "plugin-dir", pluginDir, "directory of the CNI plugins to install into --cni-bin-dir")
	fl.StringVar(&cniVersion, "cni-version", "1.1.0", "CNI version of the configuration that is written (1.0.0 for a runtime that does not know 1.1.0)")
	fl.StringVar(&healthAddress, "health-address", "127.0.0.1:10362", "address of /healthz and /readyz")
	fl.DurationVar(&period, "period", time.Second, "how often the file is read")
	return cmd
}

// waitForBlockCommand runs before upstream's flanneld.
func waitForBlockCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use:   "flannel-wait",
		Short: "Wait until the Node has a block (spec.podCIDRs), which flanneld looks for once",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			node, log, err := flannelNode(cmd.Context(), f)
			if err != nil {
				return err
			}
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			return node.WaitForBlock(cmd.Context(), tick.C, func(why error) { log.Info("waiting", "reason", why) })
		},
	}
}

// flannelNode is the Node that the flags name, and the log.
func flannelNode(ctx context.Context, f *flags) (n cluster.Node, log *slog.Logger, err error) {
	if f.nodeName == "" {
		return n, nil, fmt.Errorf("--node-name is empty: want the node's name in Kubernetes")
	}
	cfg, err := restConfig(f.kubeconfig)
	if err != nil {
		return n, nil, err
	}
	client, err := agent.NodeClient(cfg)
	if err != nil {
		return n, nil, err
	}
	if log, err = f.log.Start(ctx, os.Stderr); err != nil {
		return n, nil, err
	}
	ctrllog.SetLogger(logr.FromSlogHandler(log.Handler()))
	return cluster.Node{Client: client, Name: f.nodeName}, log, nil
}
