package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// containerdSocket is the socket of containerd in a node.
const containerdSocket = "/run/containerd/containerd.sock"

// NodeOuter is the process of a node that this machine sees. It enters the node's cgroups and
// starts NodeInit in new namespaces. When it ends for any reason, everything in the node ends
// too.
func NodeOuter(configFile string) error {
	c, err := readNodeConfig(configFile)
	if err != nil {
		return err
	}
	// The parent-death signal depends on the thread that starts the child.
	runtime.LockOSThread()
	leaveCgroup, err := enterCgroup(Prefix + c.Machine.Name)
	if err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", "node-init", "--inner", "--config", configFile)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the first process of %s: %w", c.Machine.Name, err)
	}
	if err := leaveCgroup(); err != nil {
		return err
	}
	if err := writeFile(c.Options.nodeDir(c.Machine.Name, "pid"), fmt.Appendln(nil, cmd.Process.Pid), 0o644); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("first process of %s: %w", c.Machine.Name, err)
	}
	return nil
}

func readNodeConfig(path string) (*nodeConfig, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the node's configuration: %w", err)
	}
	var c nodeConfig
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("read the node's configuration %s: %w", path, err)
	}
	return &c, nil
}

// NodeInit is process 1 of a node: it makes the node's file system, starts its services, and
// restarts them when they end, like an init system.
func NodeInit(ctx context.Context, configFile string) error {
	c, err := readNodeConfig(configFile)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := unix.Sethostname([]byte(c.Machine.Name)); err != nil {
		return fmt.Errorf("set the node's name: %w", err)
	}
	if err := c.makeRoot(); err != nil {
		return fmt.Errorf("make the root of %s: %w", c.Machine.Name, err)
	}
	if err := os.Setenv("PATH", c.Options.binPath()+":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"); err != nil {
		return fmt.Errorf("set PATH: %w", err)
	}
	slog.Info("file system made", "after", time.Since(began))

	sv := supervisor{running: map[int]service{}, reaped: make(chan int, 64)}
	if err := sv.start(service{name: "containerd", args: []string{"containerd", "-c", c.Options.nodeDir(c.Machine.Name, "containerd.toml")}}); err != nil {
		return err
	}
	if err := c.importImages(ctx); err != nil {
		return err
	}
	slog.Info("images imported", "after", time.Since(began))
	if err := sv.start(service{name: "kubelet", args: append([]string{"kubelet"}, c.kubeletArgs()...)}); err != nil {
		return err
	}
	if err := sv.start(service{name: "kube-proxy", args: []string{"kube-proxy", "--config=" + c.Options.nodeDir(c.Machine.Name, "kube-proxy.yaml")}}); err != nil {
		return err
	}
	return sv.run(ctx)
}

// importImages waits for containerd and loads the images into it.
func (c *nodeConfig) importImages(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("containerd does not answer, see containerd.log"))
	defer cancel()
	err := Poll(ctx, 20*time.Millisecond, func() (bool, error) {
		conn, err := net.Dial("unix", containerdSocket)
		if err != nil {
			return false, nil // not yet
		}
		return true, conn.Close()
	})
	if err != nil {
		return fmt.Errorf("wait for containerd: %w", err)
	}
	archives, err := c.Options.imageArchives()
	if err != nil {
		return err
	}
	var g errgroup.Group
	for _, a := range archives {
		g.Go(func() error {
			// The supervisor, which would reap this process, does not run yet.
			cmd := exec.CommandContext(ctx, "ctr", "-n", "k8s.io", "images", "import", "--local", a)
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("import image archive %s: %w: %s", a, err, out)
			}
			return nil
		})
	}
	return g.Wait()
}

// service is a program that the node keeps running.
type service struct {
	name string
	args []string
}

// supervisor restarts services and reaps orphans. It waits for any child, so nothing else in
// this process may wait for a child while it runs.
type supervisor struct {
	running map[int]service
	reaped  chan int
}

// restartDelay limits the restarts of a service that ends immediately.
const restartDelay = time.Second

func (sv *supervisor) start(s service) error {
	path, err := exec.LookPath(s.args[0])
	if err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	log, err := os.OpenFile("/var/log/"+s.name+".log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	defer log.Close()
	p, err := os.StartProcess(path, s.args, &os.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []*os.File{nil, log, log}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	sv.running[p.Pid] = s
	return p.Release()
}

func (sv *supervisor) run(ctx context.Context) error {
	go func() {
		for {
			var status unix.WaitStatus
			pid, err := unix.Wait4(-1, &status, 0, nil)
			switch {
			case err == nil:
				sv.reaped <- pid
			case errors.Is(err, unix.EINTR):
			default: // no child has ended
				sv.reaped <- 0
				return
			}
		}
	}()
	restart := make(chan service, len(sv.running))
	for {
		select {
		case <-ctx.Done():
			return nil // the kernel ends all others in the namespace
		case s := <-restart:
			if err := sv.start(s); err != nil {
				return err
			}
		case pid := <-sv.reaped:
			if pid == 0 {
				return errors.New("every process of the node has ended")
			}
			if s, ok := sv.running[pid]; ok {
				delete(sv.running, pid)
				slog.Warn("service ended; restarting it", "service", s.name, "pid", pid)
				time.AfterFunc(restartDelay, func() { restart <- s })
			}
		}
	}
}

// mountSpec is one mount(2).
type mountSpec struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

func (m mountSpec) do() error {
	if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s (%s) at %s: %w", m.source, m.fstype, m.target, err)
	}
	return nil
}

func mountAll(specs ...mountSpec) error {
	for _, m := range specs {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return fmt.Errorf("make mount point: %w", err)
		}
		if err := m.do(); err != nil {
			return err
		}
	}
	return nil
}

// diskFolders are directories of a node on disk. The rest of the node's root is in memory and
// is lost when the node ends.
var diskFolders = map[string]string{
	"/var/lib/kubelet":    "kubelet",
	"/var/lib/containerd": "containerd",
	"/var/log":            "log",
}

// makeRoot gives the node its own root: an overlay over the machine's root, with the upper
// layer in memory. Mount points, CNI configuration and other files on a node's root never
// change the machine's.
func (c *nodeConfig) makeRoot() error {
	o, name := &c.Options, c.Machine.Name
	cgroups, err := hierarchies()
	if err != nil {
		return err
	}
	lowers, err := realMounts()
	if err != nil {
		return err
	}
	base := o.nodeDir(name, "root")
	err = mountAll(
		mountSpec{target: "/", flags: unix.MS_REC | unix.MS_PRIVATE},
		mountSpec{source: "tmpfs", target: base, fstype: "tmpfs", data: "mode=755"},
	)
	if err != nil {
		return err
	}
	root := filepath.Join(base, "merged")
	for i, lower := range lowers {
		layer := filepath.Join(base, fmt.Sprint(i))
		for _, d := range []string{"upper", "work"} {
			if err := os.MkdirAll(filepath.Join(layer, d), 0o755); err != nil {
				return err
			}
		}
		opts := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, layer, layer)
		if err := mountAll(mountSpec{source: "overlay", target: filepath.Join(root, lower), fstype: "overlay", data: opts}); err != nil {
			return err
		}
	}
	specs := []mountSpec{
		{source: "/dev", target: root + "/dev", flags: unix.MS_BIND | unix.MS_REC},
		{source: "proc", target: root + "/proc", fstype: "proc", flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		// A new sysfs mount shows the devices of the node's network namespace.
		{source: "sysfs", target: root + "/sys", fstype: "sysfs", flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{source: "bpf", target: root + "/sys/fs/bpf", fstype: "bpf"},
		{source: "tmpfs", target: root + "/run", fstype: "tmpfs", data: "mode=755"},
		{source: "tmpfs", target: root + "/tmp", fstype: "tmpfs", data: "mode=1777"},
		{source: o.Dir, target: root + o.Dir, flags: unix.MS_BIND},
		{source: o.Cache, target: root + o.Cache, flags: unix.MS_BIND},
	}
	for at, d := range diskFolders {
		from := o.nodeDir(name, d)
		if err := os.MkdirAll(from, 0o755); err != nil {
			return err
		}
		specs = append(specs, mountSpec{source: from, target: root + at, flags: unix.MS_BIND})
	}
	if err := mountAll(specs...); err != nil {
		return err
	}
	if err := mountCgroups(root, cgroups); err != nil {
		return err
	}
	if err := pivot(root); err != nil {
		return err
	}
	for _, d := range []string{"/run/netns", "/run/lock", "/etc/cni/net.d", "/opt/cni/bin", "/var/log/pods", "/var/log/containers"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	// Another user's, as some installers of Kubernetes leave it: Terway must write it anyway.
	if err := os.Chown("/opt/cni/bin", 65534, 0); err != nil {
		return fmt.Errorf("owner of /opt/cni/bin: %w", err)
	}
	if err := c.linkPlugins(); err != nil {
		return err
	}
	return shieldSysctls()
}

// realMounts lists "/" and the other file systems of this machine with files of their own, such
// as a separate /var, parents first.
func realMounts() ([]string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	virtual := map[string]bool{"tmpfs": true, "proc": true, "sysfs": true, "devtmpfs": true, "devpts": true, "cgroup": true, "cgroup2": true,
		"mqueue": true, "bpf": true, "securityfs": true, "debugfs": true, "tracefs": true, "pstore": true, "configfs": true, "fusectl": true,
		"hugetlbfs": true, "autofs": true, "binfmt_misc": true, "nsfs": true, "ramfs": true, "efivarfs": true, "rpc_pipefs": true, "squashfs": true}
	mounts := []string{"/"}
	for line := range strings.Lines(string(b)) {
		before, after, ok := strings.Cut(line, " - ")
		f := strings.Fields(before)
		if !ok || len(f) < 5 || virtual[strings.Fields(after)[0]] {
			continue
		}
		at := f[4]
		st, err := os.Stat(at)
		if at == "/" || err != nil || !st.IsDir() || strings.ContainsAny(at, `,:\`) {
			continue // a file, or a name that overlay options cannot contain
		}
		mounts = append(mounts, at)
	}
	return mounts, nil
}

// mountCgroups mounts the node's part of each hierarchy in the node.
func mountCgroups(root string, cgroups []hierarchy) error {
	if len(cgroups) == 1 && cgroups[0].options == "" {
		err := mountAll(mountSpec{source: "cgroup2", target: root + cgroupRoot, fstype: "cgroup2"})
		if err != nil {
			return err
		}
		return delegate(root + cgroupRoot)
	}
	if err := mountAll(mountSpec{source: "tmpfs", target: root + cgroupRoot, fstype: "tmpfs", data: "mode=755"}); err != nil {
		return err
	}
	for _, h := range cgroups {
		if strings.Contains(h.options, "name=") {
			continue // systemd's own
		}
		if err := mountAll(mountSpec{source: "cgroup", target: root + h.path, fstype: "cgroup", data: h.options}); err != nil {
			return err
		}
	}
	return nil
}

// delegate enables controllers for children of the node's version 2 cgroup: a cgroup that
// delegates controllers must have no processes of its own.
func delegate(dir string) error {
	leaf := filepath.Join(dir, "init")
	if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make cgroup %s: %w", leaf, err)
	}
	// This process is the only one here after the outer one has left (leaveCgroup).
	if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0); err != nil {
		return fmt.Errorf("move to cgroup %s: %w", leaf, err)
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), 10*time.Second, errors.New("processes stay in the node's cgroup"))
	defer cancel()
	err := Poll(ctx, 5*time.Millisecond, func() (bool, error) {
		procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		return len(procs) == 0, err
	})
	if err != nil {
		return fmt.Errorf("empty cgroup %s: %w", dir, err)
	}
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("read cgroup %s: %w", dir, err)
	}
	for ctl := range strings.FieldsSeq(string(have)) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+ctl), 0); err != nil {
			return fmt.Errorf("hand controller %s down from cgroup %s: %w", ctl, dir, err)
		}
	}
	return nil
}

// pivot makes root the root of this mount namespace and unmounts the old one.
func pivot(root string) error {
	if err := os.Chdir(root); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	// pivot_root(2) mounts the old root on top of the new one, from where it is unmounted.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change the root to %s: %w", root, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the old root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	// Kubelet and runtime propagate mounts to pods.
	return mountSpec{target: "/", flags: unix.MS_REC | unix.MS_SHARED}.do()
}

// linkPlugins makes the standard CNI plugins available, as a node's packages would. With
// Flannel the chart installs those that it needs.
func (c *nodeConfig) linkPlugins() error {
	if c.Options.Network == NetworkFlannel {
		return nil
	}
	plugins, err := filepath.Glob(c.Options.cached("cni", "*"))
	if err != nil {
		return err
	}
	for _, p := range plugins {
		if err := os.Symlink(p, filepath.Join("/opt/cni/bin", filepath.Base(p))); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("link CNI plugin: %w", err)
		}
	}
	return nil
}

// shieldSysctls mounts files over the machine-wide sysctls that the kubelet sets, with the
// values that it wants, so that it does not change the machine's.
func shieldSysctls() error {
	for name, value := range map[string]string{
		"vm/overcommit_memory": "1", "vm/panic_on_oom": "0",
		"kernel/panic": "10", "kernel/panic_on_oops": "1",
		"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
	} {
		file := filepath.Join("/run/sysctl", strings.ReplaceAll(name, "/", "-"))
		if err := writeFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := (mountSpec{source: file, target: "/proc/sys/" + name, flags: unix.MS_BIND}).do(); err != nil {
			return err
		}
	}
	return nil
}
