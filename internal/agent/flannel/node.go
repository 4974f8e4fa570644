package flannel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"
)

// Node keeps a node's CNI configuration in step with flanneld's file.
type Node struct {
	// SubnetFile is the file that flanneld writes.
	SubnetFile string
	// ConfDir and BinDir are where the runtime looks for configurations and plugins.
	ConfDir, BinDir string
	// PluginDir holds the plugins to install.
	PluginDir string
	// CNIVersion of the configuration.
	CNIVersion string
	// Write replaces a file in one step if its contents differ (agent.WriteFile).
	Write func(path string, data []byte, mode fs.FileMode) error
	// Publish writes into the cluster for which blocks the plugins are configured. It returns
	// ErrBlock if the Node has other blocks (package cluster).
	Publish func(ctx context.Context, blocks []netip.Prefix) error
	// Outdated is a file beside flanneld's. It exists while flanneld uses a block that is not the
	// node's: the kubelet then restarts flanneld, which reads the new block.
	Outdated string
	Now      func() time.Time
	Log      *slog.Logger

	// state is the result of the last check, empty if all is well: nil before the first.
	state atomic.Pointer[string]
	// published are the blocks that were last published, at publishedAt; publishErr is why the
	// cluster does not know them, failures the number of failed attempts in a row.
	published   []netip.Prefix
	publishedAt time.Time
	failures    int
	publishErr  error
}

// ErrBlock means that flanneld uses a block that is not the node's.
var ErrBlock = errors.New("flanneld's block is not the node's")

const (
	// lookAgain is how long a published block counts as current. A Node that is deleted and created
	// again may have other blocks.
	lookAgain = time.Minute
	// callTimeout bounds a call to the API server, which delays the next check of the files.
	callTimeout = 5 * time.Second
)

// Install copies the plugins to where the runtime looks for them. It replaces plugins of the same
// name: the configuration is tested with these versions.
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

// Run checks at every tick.
func (n *Node) Run(ctx context.Context, tick <-chan time.Time) {
	for {
		n.Look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
	}
}

// Look compares flanneld's file, the configuration and what is published. If the file is missing or
// invalid the configuration stays as it is: running pods need it to be deleted.
func (n *Node) Look(ctx context.Context) {
	s, err := n.Sync()
	if err == nil {
		err = n.publish(ctx, s.Blocks())
	}
	now := ""
	if err != nil {
		now = err.Error()
	}
	if was := n.state.Swap(&now); was != nil && *was == now {
		return
	}
	if err != nil {
		n.Log.Warn("new pods on this node have to wait", "reason", err)
		return
	}
	n.Log.Info("CNI configuration is there, and the cluster knows", "blocks", n.published, "file", filepath.Join(n.ConfDir, ConflistName))
}

// Waits returns why new pods on the node have to wait, as of the last check; empty if they do not.
func (n *Node) Waits() string {
	if s := n.state.Load(); s != nil {
		return *s
	}
	return "the configuration has not been checked yet"
}

// Sync writes the configuration if it differs from what flanneld's file asks for, and returns the
// contents of the file.
func (n *Node) Sync() (*Subnet, error) {
	data, err := os.ReadFile(n.SubnetFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s does not exist: flanneld has not written it yet", n.SubnetFile)
	}
	if err != nil {
		return nil, fmt.Errorf("read flanneld's file: %w", err)
	}
	s, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("flanneld's file %s:\n%w", n.SubnetFile, err)
	}
	conf, err := Conflist(s, n.CNIVersion)
	if err != nil {
		return nil, err
	}
	return s, n.Write(filepath.Join(n.ConfDir, ConflistName), conf, 0o644)
}

// publish publishes the blocks: when they change, every minute, and after a failure with growing
// pauses. When the API server cannot be reached, blocks that were published before count as
// published.
func (n *Node) publish(ctx context.Context, blocks []netip.Prefix) error {
	wait := lookAgain
	if n.failures > 0 {
		wait = min(wait, time.Second<<min(n.failures-1, 6))
	}
	now := n.Now()
	news := !slices.Equal(blocks, n.published)
	if !news && now.Sub(n.publishedAt) < wait {
		return n.publishErr
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := n.Publish(call, blocks)
	n.published, n.publishedAt, n.failures = blocks, now, n.failures+1
	switch {
	case err == nil:
		n.failures, n.publishErr = 0, n.outdated(false)
	case errors.Is(err, ErrBlock):
		n.publishErr = errors.Join(err, n.outdated(true))
	case news: // the blocks of another flanneld
		n.publishErr = errors.Join(err, n.outdated(false))
	case n.publishErr != nil:
		n.publishErr = err
	default:
		n.Log.Warn("cannot read the node's blocks from the cluster", "error", err)
	}
	return n.publishErr
}

// outdated creates the file that makes the kubelet restart flanneld, or removes it.
func (n *Node) outdated(yes bool) error {
	if yes {
		if err := n.Write(n.Outdated, nil, 0o644); err != nil {
			return fmt.Errorf("request a restart of flanneld: %w", err)
		}
		return nil
	}
	if err := os.Remove(n.Outdated); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("withdraw the request to restart flanneld: %w", err)
	}
	return nil
}
