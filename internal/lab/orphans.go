package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/kernel"
)

// orphanRetries is how often the kernel retries to close a connection whose process has ended
// and whose peer does not answer (ip-sysctl, tcp_orphan_retries). The default of 8 keeps the
// connection, and with it the network namespace and its devices, for 102 seconds: 200 ms,
// doubled each time.
const orphanRetries = "1"

// hurryOrphans makes the lab's connections end soon after their processes: often neither end
// receives the other's FIN, because the network between them is removed too.
func hurryOrphans() error {
	paths, err := labNamespaces()
	if err != nil {
		return err
	}
	own, err := inode("/proc/self/ns/net")
	if err != nil {
		return fmt.Errorf("look at the own network namespace: %w", err)
	}
	pods, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	for _, p := range pods {
		cgroup, err := os.ReadFile(strings.TrimSuffix(p, "ns/net") + "cgroup")
		if err == nil && bytes.Contains(cgroup, []byte("/"+Prefix)) {
			paths = append(paths, p)
		}
	}
	done := map[uint64]bool{own: true}
	var errs []error
	for _, p := range paths {
		ns, err := inode(p)
		if err != nil || done[ns] {
			continue // the process ended meanwhile
		}
		done[ns] = true
		errs = append(errs, hurry(p))
	}
	return errors.Join(errs...)
}

// hurry sets orphanRetries in a namespace. It ignores a namespace that is gone, and a file
// without a mounted namespace (EINVAL): neither has connections.
func hurry(path string) error {
	err := kernel.InNSAt(path, func() error {
		return os.WriteFile("/proc/sys/net/ipv4/tcp_orphan_retries", []byte(orphanRetries), 0)
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("set tcp_orphan_retries in %s: %w", path, err)
	}
	return nil
}

func inode(path string) (uint64, error) {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	return st.Ino, err
}
