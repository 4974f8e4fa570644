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
	// Restart ends flanneld, so that it reads the node's block anew when it is started
	// again.
	Restart func() error
	Now     func() time.Time
	Log     *slog.Logger

	ready atomic.Bool
	said  string
	// told are the blocks that the cluster knows of; toldAt is when it was asked last,
	// failures how often in a row it was not told, restarted when flanneld was last ended.
	told              []netip.Prefix
	toldAt, restarted time.Time
	failures          int
	untold            error
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
		err = n.tell(ctx, s)
	}
	n.ready.Store(err == nil)
	n.say(err)
}

// Ready says whether all was as it should be at the last look.
func (n *Node) Ready() bool { return n.ready.Load() }

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
// minute, and after a failure ever less often. flanneld is ended, at most once in a
// minute, when its block is not the node's any more: it reads it only when it starts.
func (n *Node) tell(ctx context.Context, s *Subnet) error {
	blocks := s.Blocks()
	wait := lookAgain
	if n.failures > 0 {
		wait = min(wait, time.Second<<min(n.failures-1, 6))
	}
	now := n.Now()
	if slices.Equal(blocks, n.told) && now.Sub(n.toldAt) < wait {
		return n.untold
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	n.told, n.toldAt, n.failures = blocks, now, n.failures+1
	n.untold = n.Tell(call, blocks)
	switch {
	case n.untold == nil:
		n.failures = 0
	case errors.Is(n.untold, ErrBlock) && now.Sub(n.restarted) >= lookAgain:
		n.restarted = now
		n.Log.Warn("flanneld is ended, so that it reads the node's block when it starts", "reason", n.untold)
		n.untold = errors.Join(n.untold, n.Restart())
	}
	return n.untold
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
		n.Log.Warn("pods of this node cannot have a network yet", "reason", err)
		return
	}
	n.Log.Info("CNI configuration is there, and the cluster knows", "blocks", n.told, "file", filepath.Join(n.ConfDir, ConflistName))
}
