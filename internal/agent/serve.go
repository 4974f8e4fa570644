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

	"terway.dev/terway/internal/cnicall/server"
)

// Listen opens the socket with mode 0600 in a directory of mode 0700, so that only root can request
// addresses. It replaces a socket that a killed agent left.
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

// finish is how long running calls may continue when the agent stops.
const finish = 5 * time.Second

// Serve answers the plugin until ctx is done. Then calls that wait for an address fail at once (the
// runtime tries again); calls that wire a pod finish.
func Serve(ctx context.Context, l net.Listener, a *Agent) error {
	defer context.AfterFunc(ctx, a.Close)()
	return server.Serve(ctx, l, finish, a.Answer)
}
