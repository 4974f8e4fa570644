package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	cniv1 "terway.dev/terway/api/cni/v1"
)

// Listen opens the socket: mode 0600 in a directory of mode 0700, so that root
// alone can ask for addresses. A socket that a killed agent left is replaced.
func Listen(path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("socket directory: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("socket directory: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	old := unix.Umask(0o177)
	l, err := net.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

// Serve answers the plugin until ctx is done; calls at work are let finish.
func Serve(ctx context.Context, l net.Listener, a *Agent) error {
	s := grpc.NewServer()
	cniv1.RegisterCNIServer(s, &Service{Agent: a})
	stop := context.AfterFunc(ctx, s.GracefulStop)
	defer stop()
	return s.Serve(l)
}

// RepairLoop repairs at once when asked, and every period in any case. Requests
// within pause of each other are one repair. ready is called after each.
func (a *Agent) RepairLoop(ctx context.Context, period, pause time.Duration, ready func(ok bool) error) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		if err := a.Repair(ctx); err != nil && ctx.Err() == nil {
			a.Log.Error("repair", "error", err)
		}
		ok, _ := a.Ready()
		if err := ready(ok); err != nil {
			a.Log.Error("publish readiness", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-a.Repairs():
		}
	}
}
