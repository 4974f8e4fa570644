package flannel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// Node keeps a node's CNI configuration as flanneld's file says.
type Node struct {
	// SubnetFile is flanneld's.
	SubnetFile string
	// ConfDir and BinDir are where the runtime looks for configurations and plugins.
	ConfDir, BinDir string
	// PluginDir has the plugins to install.
	PluginDir string
	// CNIVersion of the configuration.
	CNIVersion string
	// Write replaces a file in one step, if it has other contents (agent.WriteFile).
	Write func(path string, data []byte, mode fs.FileMode) error
	Log   *slog.Logger

	ready atomic.Bool
	said  string
}

// Install puts the plugins where the runtime looks for them. Those of the same name that
// are there already are replaced: the configuration is known to work with these.
func (n *Node) Install() error {
	for _, name := range plugins {
		data, err := os.ReadFile(filepath.Join(n.PluginDir, name))
		if err != nil {
			return fmt.Errorf("read CNI plugin %s: %w", name, err)
		}
		if err := n.Write(filepath.Join(n.BinDir, name), data, 0o755); err != nil {
			return fmt.Errorf("install CNI plugin %s: %w", name, err)
		}
	}
	return nil
}

// Run compares file and configuration at every tick. A file that is missing or wrong
// leaves the configuration as it is: pods that are there must still be taken down with it.
func (n *Node) Run(ctx context.Context, tick <-chan time.Time) {
	for {
		err := n.Sync()
		n.ready.Store(err == nil)
		n.say(err)
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
	}
}

// Ready says whether the configuration was as it should be when Run last looked.
func (n *Node) Ready() bool { return n.ready.Load() }

// Sync writes the configuration, if flanneld's file asks for another one than is there.
func (n *Node) Sync() error {
	data, err := os.ReadFile(n.SubnetFile)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is not there: flanneld has not written it yet", n.SubnetFile)
	}
	if err != nil {
		return fmt.Errorf("read flanneld's file: %w", err)
	}
	s, err := Parse(data)
	if err != nil {
		return fmt.Errorf("flanneld's file %s:\n%w", n.SubnetFile, err)
	}
	conf, err := Conflist(s, n.CNIVersion)
	if err != nil {
		return err
	}
	return n.Write(filepath.Join(n.ConfDir, ConflistName), conf, 0o644)
}

// say logs what has changed, not the same at every tick.
func (n *Node) say(err error) {
	now := "ready"
	if err != nil {
		now = err.Error()
	}
	if now == n.said {
		return
	}
	n.said = now
	if err != nil {
		n.Log.Warn("no CNI configuration for this node yet", "reason", err)
		return
	}
	n.Log.Info("CNI configuration is there", "file", filepath.Join(n.ConfDir, ConflistName))
}
