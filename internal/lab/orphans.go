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

// orphanRetries is how often the kernel repeats the end of a connection whose process has
// ended and whose other end does not answer (ip-sysctl, tcp_orphan_retries). Its default
// of 8 keeps the connection, and with it the network namespace, its devices and their
// programs, for 102 seconds: 200 ms, doubled each time.
const orphanRetries = "1"

// hurryOrphans makes connections of the lab end soon after their processes: the two ends
// of many never see each other's end, because the network between them goes too.
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
			continue // its process ended while we looked
		}
		done[ns] = true
		errs = append(errs, hurry(p))
	}
	return errors.Join(errs...)
}

// hurry sets orphanRetries in a namespace. One that is gone has no connections, and
// neither has a file whose namespace is not mounted yet, or not any more (EINVAL).
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
