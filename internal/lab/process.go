package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/kernel"
)

// Process identifies a process uniquely: a pid alone may have been used again.
type Process struct {
	Name string `json:"name"`
	PID  int    `json:"pid"`
	// Start is the start time of the process in the kernel, in clock ticks since boot.
	Start uint64 `json:"start"`
}

// command is a long-running program of the lab.
type command struct {
	name string
	// netns is the path of the network namespace to start in; empty: the caller's.
	netns string
	args  []string
	env   []string
	// files are passed as descriptors 3, 4, …
	files []*os.File
	// log receives the output of the program; default <dir>/log/<name>.log.
	log string
}

// start runs a program that outlives this one: in a new session, with the marker, its output in
// the log, its identity on disk.
func (o *Options) start(c command) (Process, error) {
	logPath := c.log
	if logPath == "" {
		logPath = o.path("log", c.name+".log")
	}
	if err := os.MkdirAll(filepath.Dir(logPath), 0o755); err != nil {
		return Process{}, fmt.Errorf("start %s: %w", c.name, err)
	}
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return Process{}, fmt.Errorf("start %s: %w", c.name, err)
	}
	defer log.Close()
	if err := keepDescriptors(); err != nil {
		return Process{}, fmt.Errorf("start %s: %w", c.name, err)
	}
	cmd := exec.Command(c.args[0], c.args[1:]...)
	cmd.Env = append(os.Environ(), Marker+"="+o.Dir)
	cmd.Env = append(cmd.Env, c.env...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, "/"
	cmd.ExtraFiles = c.files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := startIn(c.netns, cmd); err != nil {
		return Process{}, fmt.Errorf("start %s (%s): %w", c.name, c.args[0], err)
	}
	pid := cmd.Process.Pid
	// A process that ends before this one is reaped here; later, by init.
	go cmd.Wait() // its log has the exit status, and whoever waits for its service reports it
	start, err := startTime(pid)
	if err != nil {
		return Process{}, fmt.Errorf("start %s: it ended at once, see %s: %w", c.name, logPath, err)
	}
	p := Process{Name: c.name, PID: pid, Start: start}
	return p, o.write(p)
}

// keepDescriptors keeps inherited descriptors out of the programs that this process starts:
// otherwise a caller with a lock file, such as flock(1), would get the lock back only when the
// lab is taken down.
func keepDescriptors() error {
	fds, err := os.ReadDir("/proc/self/fd") // close_range(2) can set the flag since Linux 5.11
	if err != nil {
		return fmt.Errorf("list inherited descriptors: %w", err)
	}
	for _, f := range fds {
		if fd, err := strconv.Atoi(f.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

func (o *Options) write(p Process) error {
	b, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("record process %s: %w", p.Name, err)
	}
	return writeFile(o.record(p.Name), b, 0o644)
}

// record returns the file that records a process of the lab.
func (o *Options) record(name string) string { return o.path("procs", name+".json") }

// startIn starts cmd in a network namespace.
func startIn(netns string, cmd *exec.Cmd) error {
	if netns == "" {
		return cmd.Start()
	}
	return kernel.InNSAt(netns, cmd.Start)
}

// startTime returns when a process started (proc_pid_stat(5), field 22).
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is the name in parentheses, which may contain any characters.
	_, rest, ok := strings.Cut(string(b[bytes.LastIndexByte(b, ')')+1:]), " ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0, fmt.Errorf("read /proc/%d/stat: unexpected content %q", pid, b)
	}
	if fields[0] == "Z" {
		return 0, fmt.Errorf("process %d has ended", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// Alive reports whether this process still runs.
func (p Process) Alive() bool {
	start, err := startTime(p.PID)
	return err == nil && start == p.Start
}

// end signals the process and waits until it has ended.
func (p Process) end(ctx context.Context, sig syscall.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		if errors.Is(err, unix.ESRCH) {
			return nil
		}
		return fmt.Errorf("end %s (pid %d): %w", p.Name, p.PID, err)
	}
	defer unix.Close(fd)
	// The descriptor refers to one process; only now can its identity be checked.
	if !p.Alive() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal %s (pid %d): %w", p.Name, p.PID, err)
	}
	return Poll(ctx, 10*time.Millisecond, func() (bool, error) { return !p.Alive(), nil })
}

// processes lists the recorded processes, the newest last.
func (o *Options) processes() ([]Process, error) {
	files, err := filepath.Glob(o.path("procs", "*.json"))
	if err != nil {
		return nil, fmt.Errorf("list recorded processes: %w", err)
	}
	var ps []Process
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("read recorded process: %w", err)
		}
		var p Process
		if err := json.Unmarshal(b, &p); err != nil {
			return nil, fmt.Errorf("read recorded process %s: %w", f, err)
		}
		ps = append(ps, p)
	}
	slices.SortFunc(ps, func(a, b Process) int { return strings.Compare(a.Name, b.Name) })
	return ps, nil
}

// process returns one recorded process.
func (o *Options) process(name string) (Process, error) {
	b, err := os.ReadFile(o.record(name))
	if err != nil {
		return Process{}, fmt.Errorf("find process %s of the lab: %w", name, err)
	}
	var p Process
	if err := json.Unmarshal(b, &p); err != nil {
		return Process{}, fmt.Errorf("read recorded process %s: %w", name, err)
	}
	return p, nil
}

// Strays finds processes of any lab on this machine that have the marker or are in a network
// namespace of the lab, except this one and its ancestors.
func Strays() ([]Process, error) {
	ours := map[uint64]bool{}
	nss, err := labNamespaces()
	if err != nil {
		return nil, err
	}
	for _, ns := range nss {
		var st unix.Stat_t
		if err := unix.Stat(ns, &st); err == nil {
			ours[st.Ino] = true
		}
	}
	family := ancestors(os.Getpid())
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var found []Process
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil || family[pid] || !ofLab(pid, ours) {
			continue
		}
		start, err := startTime(pid)
		if err != nil {
			continue // it ended meanwhile
		}
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			continue
		}
		found = append(found, Process{Name: strings.TrimSpace(string(name)), PID: pid, Start: start})
	}
	return found, nil
}

func ofLab(pid int, namespaces map[uint64]bool) bool {
	var st unix.Stat_t
	if unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st) == nil && namespaces[st.Ino] {
		return true
	}
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false
	}
	for v := range bytes.SplitSeq(env, []byte{0}) {
		if bytes.HasPrefix(v, []byte(Marker+"=")) {
			return true
		}
	}
	return false
}

// ancestors returns a process and all its parents.
func ancestors(pid int) map[int]bool {
	set := map[int]bool{}
	for pid > 0 && !set[pid] {
		set[pid] = true
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			break
		}
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if len(fields) < 2 {
			break
		}
		if pid, err = strconv.Atoi(fields[1]); err != nil {
			break
		}
	}
	return set
}

// netnsDir is the directory of named network namespaces (ip-netns(8)).
const netnsDir = "/run/netns"

// labNamespaces lists the paths of the lab's network namespaces.
func labNamespaces() ([]string, error) {
	entries, err := os.ReadDir(netnsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	var paths []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), Prefix) {
			paths = append(paths, filepath.Join(netnsDir, e.Name()))
		}
	}
	return paths, nil
}

// Poll calls f until it returns true, fails or the context ends; the error is the last one of f
// or the context's.
func Poll(ctx context.Context, every time.Duration, f func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		done, err := f()
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// eventually calls f until it returns no error. While a cluster starts, some calls fail; if the
// context ends, the error includes the last one.
func eventually(ctx context.Context, every time.Duration, f func() error) error {
	var wrong error
	err := Poll(ctx, every, func() (bool, error) {
		wrong = f()
		return wrong == nil, nil
	})
	if err != nil {
		return fmt.Errorf("%w: %w", err, wrong)
	}
	return nil
}
