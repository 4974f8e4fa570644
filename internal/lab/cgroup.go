package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const cgroupRoot = "/sys/fs/cgroup"

// hierarchy is a mounted cgroup hierarchy with controllers that nodes need.
type hierarchy struct {
	path string
	// options are the mount options of version 1 ("cpu", "cpu,cpuacct"); empty is version 2.
	options string
}

// hierarchies lists the cgroup hierarchies of this machine. If version 1 has the controllers, a
// version 2 beside it ("hybrid") has none and is not used.
func hierarchies() ([]hierarchy, error) {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, fmt.Errorf("list cgroup hierarchies: %w", err)
	}
	var v1, v2 []hierarchy
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasPrefix(f[1], cgroupRoot) {
			continue
		}
		switch f[2] {
		case "cgroup":
			opts := slices.DeleteFunc(strings.Split(f[3], ","), func(o string) bool {
				return slices.Contains([]string{"rw", "ro", "relatime", "nosuid", "nodev", "noexec", "xattr", "clone_children"}, o) ||
					strings.HasPrefix(o, "release_agent=")
			})
			v1 = append(v1, hierarchy{path: f[1], options: strings.Join(opts, ",")})
		case "cgroup2":
			v2 = append(v2, hierarchy{path: f[1]})
		}
	}
	if len(v1) > 0 {
		return v1, nil
	}
	if len(v2) == 0 {
		return nil, fmt.Errorf("no cgroup hierarchy is mounted below %s", cgroupRoot)
	}
	return v2, nil
}

// enterCgroup makes a cgroup in each hierarchy and moves this process into it. A cgroup
// namespace made afterwards has it as root. Version 2 requires this root to be empty before it
// delegates controllers: leave moves this process out again.
func enterCgroup(name string) (leave func() error, err error) {
	hs, err := hierarchies()
	if err != nil {
		return nil, err
	}
	leave = func() error { return nil }
	for _, h := range hs {
		dir := filepath.Join(h.path, name)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make cgroup %s: %w", dir, err)
		}
		if strings.Contains(","+h.options+",", ",cpuset,") {
			if err := inheritCpuset(h.path, dir); err != nil {
				return nil, err
			}
		}
		if h.options == "" {
			from, err := ownCgroup2(h.path)
			if err != nil {
				return nil, err
			}
			leave = func() error { return joinCgroup(from) }
		}
		if err := joinCgroup(dir); err != nil {
			return nil, err
		}
	}
	return leave, nil
}

func joinCgroup(dir string) error {
	err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
	if err != nil {
		return fmt.Errorf("enter cgroup %s: %w", dir, err)
	}
	return nil
}

// ownCgroup2 returns the directory of this process's version 2 cgroup.
func ownCgroup2(root string) (string, error) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("find this process's cgroup: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "0::"); ok {
			return filepath.Join(root, strings.TrimSpace(rest)), nil
		}
	}
	return "", fmt.Errorf("find this process's cgroup: no line 0:: in /proc/self/cgroup")
}

// inheritCpuset sets what a new version 1 cpuset lacks, for its children too.
func inheritCpuset(from, to string) error {
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		b, err := os.ReadFile(filepath.Join(from, f))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, f), bytes.TrimSpace(b), 0)
		}
		if err != nil {
			return fmt.Errorf("set %s of cgroup %s: %w", f, to, err)
		}
	}
	if err := os.WriteFile(filepath.Join(to, "cgroup.clone_children"), []byte("1"), 0); err != nil {
		return fmt.Errorf("set cgroup.clone_children of cgroup %s: %w", to, err)
	}
	return nil
}

// labCgroups lists the lab's cgroups in all hierarchies, including the unused version 2.
func labCgroups() ([]string, error) {
	var found []string
	for _, pattern := range []string{cgroupRoot + "/" + Prefix + "*", cgroupRoot + "/*/" + Prefix + "*"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return nil, fmt.Errorf("list cgroups: %w", err)
		}
		found = append(found, paths...)
	}
	return found, nil
}

// removeCgroup removes a cgroup and all below it. It must have no processes.
func removeCgroup(ctx context.Context, path string) error {
	var dirs []string
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, p)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list cgroup %s: %w", path, err)
	}
	for _, d := range slices.Backward(dirs) {
		// A process that has just ended keeps its cgroup busy for a moment.
		var last error
		err := Poll(ctx, 10*time.Millisecond, func() (bool, error) {
			last = os.Remove(d)
			return last == nil || errors.Is(last, fs.ErrNotExist), nil
		})
		if err != nil {
			return fmt.Errorf("remove cgroup %s: %w (%w)", d, last, err)
		}
	}
	return nil
}
