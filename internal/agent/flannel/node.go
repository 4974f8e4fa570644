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
	// Tell says in the cluster for which blocks the plugins are configured; ErrBlock if
	// the cluster gave the node others (package cluster).
	Tell func(ctx context.Context, blocks []netip.Prefix) error
	// Outdated is a file beside flanneld's that is there while flanneld works with a block
	// that is not the node's: the kubelet starts it anew then, and it reads the new one.
	Outdated string
	Now      func() time.Time
	Log      *slog.Logger

	// state is what the last look found: nil before it.
	state atomic.Pointer[string]
	// asked are the blocks that the cluster was last asked about, at askedAt; untold is why
	// it does not know of them, failures how often in a row it was not told.
	asked    []netip.Prefix
	askedAt  time.Time
	failures int
	untold   error
}

// ErrBlock says that flanneld works with a block that is not the node's.
var ErrBlock = errors.New("flanneld's block is not the node's")

const (
	// lookAgain is how long the cluster's word about the node's blocks is good. A Node
	// object that is deleted and made again may have others.
	lookAgain = time.Minute
	// callTimeout is how long a call to the API server may keep the files from being
	// looked at.
	callTimeout = 5 * time.Second
)

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

// Run looks at every tick.
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

// Look compares file, configuration and what the cluster knows. A file that is missing or
// wrong leaves the configuration as it is: pods that are there must still be taken down
// with it.
func (n *Node) Look(ctx context.Context) {
	s, err := n.Sync()
	if err == nil {
		err = n.tell(ctx, s.Blocks())
	}
	now := ""
	if err != nil {
		now = err.Error()
	}
	if was := n.state.Swap(&now); was != nil && *was == now {
		return
	}
	if err != nil {
		n.Log.Warn("pods that start on this node have to wait", "reason", err)
		return
	}
	n.Log.Info("CNI configuration is there, and the cluster knows", "blocks", n.asked, "file", filepath.Join(n.ConfDir, ConflistName))
}

// Waits says why pods that start on the node have to wait, or nothing, as the last look
// found it.
func (n *Node) Waits() string {
	if s := n.state.Load(); s != nil {
		return *s
	}
	return "nothing has been looked at yet"
}

// Sync writes the configuration, if flanneld's file asks for another one than is there,
// and returns what the file says.
func (n *Node) Sync() (*Subnet, error) {
	data, err := os.ReadFile(n.SubnetFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is not there: flanneld has not written it yet", n.SubnetFile)
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

// tell tells the cluster what the plugins are configured for: when that is news, every
// minute, and after a failure ever less often. What the cluster knows it still knows when
// it cannot be asked.
func (n *Node) tell(ctx context.Context, blocks []netip.Prefix) error {
	wait := lookAgain
	if n.failures > 0 {
		wait = min(wait, time.Second<<min(n.failures-1, 6))
	}
	now := n.Now()
	news := !slices.Equal(blocks, n.asked)
	if !news && now.Sub(n.askedAt) < wait {
		return n.untold
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := n.Tell(call, blocks)
	n.asked, n.askedAt, n.failures = blocks, now, n.failures+1
	switch {
	case err == nil:
		n.failures, n.untold = 0, n.outdated(false)
	case errors.Is(err, ErrBlock):
		n.untold = errors.Join(err, n.outdated(true))
	case news: // another flanneld's
		n.untold = errors.Join(err, n.outdated(false))
	case n.untold != nil:
		n.untold = err
	default:
		n.Log.Warn("the cluster could not be asked for the node's blocks", "error", err)
	}
	return n.untold
}

// outdated has flanneld started anew, or not.
func (n *Node) outdated(yes bool) error {
	if yes {
		if err := n.Write(n.Outdated, nil, 0o644); err != nil {
			return fmt.Errorf("have flanneld started anew: %w", err)
		}
		return nil
	}
	if err := os.Remove(n.Outdated); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("keep flanneld from being started anew: %w", err)
	}
	return nil
}
