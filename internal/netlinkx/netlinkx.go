// Package netlinkx wraps netlink: it opens sockets and namespaces, sends several requests at
// once, repeats dumps that a change interrupted, and distinguishes a missing object from other
// errors.
//
// It knows nothing of pods, ENIs or clusters, and must change the kernel's state only by
// requests of its caller.
package netlinkx

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Open opens a route netlink socket in a namespace; netns.None() means the caller's own. The
// library would also open other families, whose modules some kernels lack.
func Open(ns netns.NsHandle) (*netlink.Handle, error) {
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open route netlink socket: %w", err)
	}
	return h, nil
}

// Namespace is an open network namespace. Close closes it with the sockets in it. Entering it
// moves a thread there and back, so each of its sockets is opened on first use. It is not safe
// for concurrent use.
type Namespace struct {
	NS netns.NsHandle

	path   string
	handle *netlink.Handle
	batch  *Batch
}

// Enter opens the network namespace at a path. The error is Gone if the path is empty or does
// not exist, or if no namespace is mounted on the file.
func Enter(path string) (*Namespace, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	var at unix.Statfs_t
	if err := unix.Fstatfs(int(ns), &at); err != nil {
		ns.Close() // only read: an error loses nothing
		return nil, fmt.Errorf("look at network namespace %s: %w", path, err)
	}
	if at.Type != unix.NSFS_MAGIC {
		ns.Close()
		return nil, fmt.Errorf("open network namespace %s: a file without a namespace mounted on it: %w", path, fs.ErrNotExist)
	}
	return &Namespace{NS: ns, path: path}, nil
}

// Handle returns the route netlink socket in the namespace.
func (n *Namespace) Handle() (*netlink.Handle, error) {
	if n.handle != nil {
		return n.handle, nil
	}
	h, err := Open(n.NS)
	if err != nil {
		return nil, fmt.Errorf("network namespace %s: %w", n.path, err)
	}
	n.handle = h
	return h, nil
}

// Batch returns the Batch in the namespace.
func (n *Namespace) Batch() (*Batch, error) {
	if n.batch != nil {
		return n.batch, nil
	}
	b, err := NewBatch(n.NS)
	if err != nil {
		return nil, fmt.Errorf("network namespace %s: %w", n.path, err)
	}
	n.batch = b
	return b, nil
}

// Close closes the sockets and the namespace.
func (n *Namespace) Close() {
	if n.handle != nil {
		n.handle.Close()
	}
	if n.batch != nil {
		n.batch.Close()
	}
	n.NS.Close() // only read
}

// Is reports whether n and other are the same namespace; netns.None() means the caller's own.
func (n *Namespace) Is(other netns.NsHandle) (bool, error) {
	if !other.IsOpen() {
		own, err := netns.Get()
		if err != nil {
			return false, fmt.Errorf("open own network namespace: %w", err)
		}
		defer own.Close()
		other = own
	}
	return n.NS.Equal(other), nil
}

// tries limits how often a dump is repeated. A dump on a node with many pods takes some
// milliseconds, so the limit takes seconds: longer than links change during a burst of pods.
const tries = 1000

// Retry repeats a dump until it was not interrupted by a change, the context ends, or it was
// interrupted 1000 times.
func Retry(ctx context.Context, dump func() error) error {
	var err error
	for range tries {
		if err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return err
}

// List is Retry for a dump that returns a list. what names the list in errors.
func List[T any](ctx context.Context, what string, dump func() ([]T, error)) (list []T, err error) {
	err = Retry(ctx, func() error {
		list, err = dump()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", what, err)
	}
	return list, nil
}

// Gone reports whether a request failed because its object, or a parent of it, does not exist.
func Gone(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound) || errors.Is(err, unix.ESRCH) || errors.Is(err, fs.ErrNotExist) ||
		errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EADDRNOTAVAIL)
}
