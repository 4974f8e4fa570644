package fabric

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/netlinkx"
)

// ownerAlias is the mark on the lo of our namespaces: another program, or a fabric whose prefix
// starts with ours, may have similar names.
func (f *Fabric) ownerAlias(instance string) string {
	return "vpcsim " + f.opts.Prefix + " " + instance
}

// switchOwner replaces the instance in the mark of the switch's namespace.
const switchOwner = "(switch)"

func isNS(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// createNS makes a namespace with lo up, marked with alias, and mounts it at path.
func createNS(path, alias string, inside func() error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make the folder of namespaces: %w", err)
	}
	done := make(chan error, 1)
	go func() {
		// The thread stays locked: it ends with the goroutine, and with it its reference to the
		// namespace.
		runtime.LockOSThread()
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("unshare: %w", err)
			}
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return fmt.Errorf("find lo: %w", err)
			}
			if err := netlink.LinkSetUp(lo); err != nil {
				return fmt.Errorf("set lo up: %w", err)
			}
			if err := netlink.LinkSetAlias(lo, alias); err != nil {
				return fmt.Errorf("mark lo: %w", err)
			}
			if inside != nil {
				if err := inside(); err != nil {
					return err
				}
			}
			file, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
			if err != nil {
				return err
			}
			if err := file.Close(); err != nil {
				return err
			}
			if err := unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, ""); err != nil {
				return errors.Join(fmt.Errorf("mount: %w", err), os.Remove(path))
			}
			return nil
		}()
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("make the network namespace %s: %w", path, err)
	}
	return nil
}

// withHandle calls fn with a netlink socket in the namespace. fn must not keep the socket,
// which keeps the namespace alive.
func withHandle(path string, fn func(*netlink.Handle, netns.NsHandle) error) error {
	ns, err := netlinkx.Enter(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	h, err := ns.Handle()
	if err != nil {
		return err
	}
	return fn(h, ns.NS)
}

// ownedNamespaces returns the instances' namespaces of this prefix: paths by instance id.
func (f *Fabric) ownedNamespaces() (map[string]string, error) {
	paths, err := filepath.Glob(filepath.Join(f.opts.Dir, f.opts.Prefix+"*"))
	if err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	found := map[string]string{}
	for _, path := range paths {
		if !isNS(path) {
			continue
		}
		var alias string
		err := withHandle(path, func(h *netlink.Handle, _ netns.NsHandle) error {
			lo, err := h.LinkByName("lo")
			if err == nil {
				alias = lo.Attrs().Alias
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("look whose the network namespace %s is: %w", path, err)
		}
		if instance, ok := strings.CutPrefix(alias, f.ownerAlias("")); ok && instance != switchOwner {
			found[instance] = path
		}
	}
	return found, nil
}

// makeNS creates a namespace. A file at the path that is no namespace is left over from a
// crash.
func makeNS(path, alias string, inside func() error) error {
	if _, err := os.Lstat(path); err == nil {
		if isNS(path) {
			return fmt.Errorf("make the network namespace %s: one of that name exists and is not this fabric's", path)
		}
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("remove the leftover %s: %w", path, err)
		}
	}
	return createNS(path, alias, inside)
}
