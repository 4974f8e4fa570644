package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// guest is the VM's first process: it makes the kernel ready, runs the job, tells the
// host how that ended, and ends the machine.
func guest() {
	// A Debian system has an init of its own, which comes back as service.
	if _, err := os.Stat(guestInit); err == nil {
		end(handOver())
	} else {
		end(work(prepare))
	}
}

// service is the job in a Debian system.
func service() { end(work(func() error { return nil })) }

// handOver makes systemd the first process.
func handOver() error {
	if err := errors.Join(mountAll(first), loadModules()); err != nil {
		return err
	}
	return fmt.Errorf("start %s: %w", guestInit, unix.Exec(guestInit, []string{guestInit}, os.Environ()))
}

// end ends the machine.
func end(err error) {
	if err != nil {
		// The console: there the host looks when it is told no exit code.
		fmt.Fprintln(os.Stderr, "vm:", err)
	}
	drain(os.Stderr)
	// With -no-reboot a reset ends QEMU, sooner than powering off would.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

func work(prepare func() error) error {
	out, err := serial("/dev/ttyS1")
	if err != nil {
		return err
	}
	defer drain(out)
	host, err := serial("/dev/ttyS2")
	if err != nil {
		return err
	}
	defer drain(host)
	if err := prepare(); err != nil {
		return err
	}
	cmd, err := program(out)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(host, lineStart+"\n"); err != nil {
		return fmt.Errorf("tell the host: %w", err)
	}
	start := time.Now()
	err = cmd.Run()
	code := 0
	if ended := (*exec.ExitError)(nil); errors.As(err, &ended) {
		if code = ended.ExitCode(); code < 0 {
			fmt.Fprintln(out, "vm: the program ended by", ended)
			code = exitTrouble
		}
	} else if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(host, lineEnd+"\n", time.Since(start), code); err != nil {
		return fmt.Errorf("tell the host: %w", err)
	}
	return nil
}

// prepare makes the kernel ready.
func prepare() error {
	if err := mountAll(slices.Concat(first, others)); err != nil {
		return err
	}
	if err := loadModules(); err != nil {
		return err
	}
	if err := exec.Command("/bin/busybox", "--install", "-s", "/bin").Run(); err != nil {
		return fmt.Errorf("install busybox: %w", err)
	}
	if err := os.Setenv("PATH", "/usr/bin:/bin"); err != nil {
		return err
	}
	if lo, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("set lo up: %w: %s", err, lo)
	}
	return nil
}

// program is the job's.
func program(out *os.File) (*exec.Cmd, error) {
	var j job
	text, err := os.ReadFile(guestJob)
	if err == nil {
		err = json.Unmarshal(text, &j)
	}
	if err != nil {
		return nil, fmt.Errorf("read the job: %w", err)
	}
	cmd := exec.Command(guestProgram, j.Args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = guestDir, out, out
	// busybox comes last: it has an ip and a tc of its own.
	cmd.Env = append([]string{"PATH=/usr/bin:/bin:/usr/sbin:/sbin", "HOME=/root", "TMPDIR=/tmp"}, j.Env...)
	return cmd, nil
}

type mount struct{ kind, at string }

// first are what modules and systemd need, others what systemd mounts itself.
var (
	first  = []mount{{"proc", "/proc"}, {"sysfs", "/sys"}}
	others = []mount{{"tmpfs", "/tmp"}, {"tmpfs", "/run"}, {"bpf", "/sys/fs/bpf"}, {"cgroup2", "/sys/fs/cgroup"}}
)

func mountAll(list []mount) error {
	for _, m := range list {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	return nil
}

func loadModules() error {
	order, err := os.ReadFile("/" + loadOrder)
	if err != nil {
		return fmt.Errorf("read the list of modules: %w", err)
	}
	for _, name := range strings.Fields(string(order)) {
		f, err := os.Open(filepath.Join("/"+moduleDir, name))
		if err != nil {
			return fmt.Errorf("open module: %w", err)
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		if closed := f.Close(); err == nil {
			err = closed
		}
		if err != nil {
			return fmt.Errorf("load module %s: %w", name, err)
		}
	}
	return nil
}

// serial opens a port that passes on what is written, byte by byte: "\n" stays "\n".
func serial(port string) (*os.File, error) {
	// devtmpfs may be there already: the kernel mounts it if configured so.
	if err := unix.Mount("devtmpfs", "/dev", "devtmpfs", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("mount /dev: %w", err)
	}
	f, err := os.OpenFile(port, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open serial port: %w", err)
	}
	fd := int(f.Fd())
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err == nil {
		t.Oflag &^= unix.OPOST
		t.Lflag &^= unix.ECHO
		err = unix.IoctlSetTermios(fd, unix.TCSETS, t)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up serial port %s: %w", port, err), f.Close())
	}
	return f, nil
}

// drain waits until all that was written has left the port.
func drain(f *os.File) { _ = unix.IoctlSetInt(int(f.Fd()), unix.TCSBRK, 1) }
