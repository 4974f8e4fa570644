// Package netlinkx is how the project uses netlink: it opens sockets and namespaces, sends several
// requests at once, repeats dumps that a change interrupted, and distinguishes an object that is
// gone from other errors.
//
// It knows nothing of pods, ENIs or clusters, and must never change anything in the kernel but by a
// caller's request.
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

// Open opens one route netlink socket in a namespace; netns.None() is the caller's
// own. The other families that the library would open need modules that some
// kernels lack.
func Open(ns netns.NsHandle) (*netlink.Handle, error) {
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open route netlink socket: %w", err)
	}
	return h, nil
}

// Namespace is an open network namespace, which Close lets go of with the sockets in it. Entering
// it takes a thread there and back, so each of its sockets is opened when it is first asked for.
// It is not safe for concurrent use.
type Namespace struct {
	NS netns.NsHandle

	path   string
	handle *netlink.Handle
	batch  *Batch
}

// Enter opens the network namespace at a path. The error is Gone if nothing is there, or
// only the file that the namespace was mounted on, and for an empty path.
func Enter(path string) (*Namespace, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	var at unix.Statfs_t
	if err := unix.Fstatfs(int(ns), &at); err != nil {
		ns.Close() // only read: nothing is lost if it fails
		return nil, fmt.Errorf("look at network namespace %s: %w", path, err)
	}
	if at.Type != unix.NSFS_MAGIC {
		ns.Close()
		return nil, fmt.Errorf("open network namespace %s: a file without a namespace mounted on it: %w", path, fs.ErrNotExist)
	}
	return &Namespace{NS: ns, path: path}, nil
}

// Handle is a route netlink socket in the namespace, the same one each time.
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

// Batch is Handle for several requests at once.
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

// Close lets go of the sockets and the namespace.
func (n *Namespace) Close() {
	if n.handle != nil {
		n.handle.Close()
	}
	if n.batch != nil {
		n.batch.Close()
	}
	n.NS.Close() // only read
}

// Is reports whether n and other are one namespace; netns.None() stands for the caller's own.
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

// tries bounds how often a dump is begun. One of a node full of pods takes some
// milliseconds, so that many take seconds: longer than a burst of pods changes its links.
const tries = 1000

// Retry repeats a dump until nothing changed while it ran, the context ends or
// it was interrupted 1000 times.
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

// List is Retry for a dump that gives a list. The error says what was listed.
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

// Gone reports whether a request failed because its object, or what that is part of, is not
// there.
func Gone(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound) || errors.Is(err, unix.ESRCH) || errors.Is(err, fs.ErrNotExist) ||
		errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EADDRNOTAVAIL)
}
