package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type machine struct {
	arch   string
	memory int
	limit  time.Duration
	keep   bool
	// system is the archive of a Debian system (fetchSystem); empty for none.
	system string
}

// kernelArguments: a panic or an oops ends the VM at once; no time is spent on what an
// emulated machine of a few seconds need not have.
const kernelArguments = "console=ttyS0 loglevel=5 panic=-1 oops=panic mitigations=off random.trust_cpu=on audit=0 cryptomgr.notests"

// architecture is what differs between machines of different processors.
type architecture struct {
	qemu []string
	// serial is QEMU's arguments for the three serial ports: the kernel's log, which is a file, standard output, and
	// file descriptor 3.
	serial func(log string) []string
	// arguments are more ones of the kernel.
	arguments func() string
	// kernels are the packages by series.
	kernels map[string]source
	// triplet names the folders of shared libraries.
	triplet string
}

var architectures = map[string]architecture{
	"amd64": {
		qemu: []string{"qemu-system-x86_64", "-cpu", "max,la57=off"},
		serial: func(log string) []string {
			return []string{"-serial", "file:" + log, "-serial", "stdio", "-serial", "file:/proc/self/fd/3"}
		},
		arguments: func() string {
			more := " reboot=t tsc=reliable no_timer_check"
			if khz := counterKHz(); khz > 0 {
				more += " tsc_early_khz=" + strconv.Itoa(khz)
			}
			return more
		},
		kernels: map[string]source{
			"5.10": {"linux-image-cloud-amd64", []string{"bullseye-security", "bullseye"}}, // Debian 11: no tcx, no netkit, slow filters
			"6.1":  {"linux-image-cloud-amd64", nil},                                       // Debian 12: no tcx, no netkit
			"6.12": {"linux-image-6.12-cloud-amd64", nil},                                  // Debian 12's security updates: both
		},
		triplet: "x86_64-linux-gnu",
	},
	// The processor is that of instance family c6r. Its clock is QEMU's own: there is nothing to measure. The
	// serial ports are on the PCI bus, since the board has only one, of another kind.
	"arm64": {
		qemu: []string{"qemu-system-aarch64", "-machine", "virt", "-cpu", "neoverse-n1"},
		serial: func(log string) []string {
			var out []string
			for i, to := range []string{"file,path=" + log, "stdio", "file,path=/proc/self/fd/3"} {
				id := "port" + strconv.Itoa(i)
				out = append(out, "-chardev", to+",id="+id, "-device", "pci-serial,chardev="+id)
			}
			return out
		},
		arguments: func() string { return "" },
		kernels: map[string]source{
			"6.12": {"linux-image-6.12-cloud-arm64", []string{"bookworm-security"}},
		},
		triplet: "aarch64-linux-gnu",
	},
}

// boot runs the program in a VM of one processor (a second one makes the tests no faster, and
// an emulated kernel that changes its own code under the other once died of it) and returns its exit code; an error means that there
// is none. The guest's serial ports: the kernel's log, the program's output, and what
// listen reads.
func boot(ctx context.Context, k kernel, m machine, program string, args []string) (code int, err error) {
	work, err := os.MkdirTemp("", "vm-")
	if err != nil {
		return 0, fmt.Errorf("make a folder for the VM: %w", err)
	}
	if m.keep {
		fmt.Fprintln(os.Stderr, "vm: the kernel's log is in", work)
	} else {
		defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	}
	initrd, log := filepath.Join(work, "initrd"), filepath.Join(work, "kernel.log")
	if err := writeInitrd(initrd, m.arch, k, m.system, program, newJob(args)); err != nil {
		return 0, fmt.Errorf("make the guest's file system: %w", err)
	}

	says, port, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("make a pipe to the VM: %w", err)
	}
	defer says.Close()
	limited, cancel := context.WithTimeout(ctx, m.limit)
	defer cancel()
	a := architectures[m.arch]
	arguments, devices := kernelArguments+a.arguments(), a.serial(log)
	if m.system != "" {
		arguments += " " + systemArguments
		devices = append(devices, systemDevices(filepath.Join(work, "monitor"))...)
	}
	qemu := exec.CommandContext(limited, a.qemu[0], slices.Concat(a.qemu[1:], []string{
		"-accel", "tcg", "-m", strconv.Itoa(m.memory),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", k.image, "-initrd", initrd, "-append", arguments}, devices)...)
	qemu.Stdout, qemu.Stderr, qemu.ExtraFiles = os.Stdout, os.Stderr, []*os.File{port}
	qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = qemu.Start()
	if closed := port.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return 0, fmt.Errorf("start qemu: %w", err)
	}
	said := listen(says)
	ended := qemu.Wait()

	if said.ended {
		return said.code, clockError(said.guest, said.here)
	}
	why := "the VM ended before the program did"
	switch {
	case ctx.Err() != nil:
		return 0, errors.New("interrupted")
	case limited.Err() != nil:
		why = fmt.Sprintf("the program did not end within %s", m.limit)
	case ended != nil:
		why = fmt.Sprintf("qemu: %v", ended)
	}
	return 0, fmt.Errorf("%s; the end of the kernel's log (%s):\n%s", why, k.pkg, tail(log, 40))
}

// heard is what the guest said of its program.
type heard struct {
	ended bool
	code  int
	// guest is how long the program ran by the guest's clock, here by this machine's.
	guest, here time.Duration
}

// The guest says when the program starts, and when it has ended: how many nanoseconds it
// ran by the guest's clock, and its exit code.
const (
	lineStart = "start"
	lineEnd   = "end %d %d"
)

// listen reads what the guest says until the VM ends.
func listen(r io.Reader) (h heard) {
	var start time.Time
	for lines := bufio.NewScanner(r); lines.Scan(); {
		var guest time.Duration
		var code int
		if lines.Text() == lineStart {
			start = time.Now()
		} else if n, _ := fmt.Sscanf(lines.Text(), lineEnd, &guest, &code); n == 2 {
			h = heard{ended: true, code: code, guest: guest, here: time.Since(start)}
		}
	}
	return h
}

// newJob leaves out what would write to this machine's files.
func newJob(args []string) job {
	var j job
	for _, a := range args {
		if !strings.HasPrefix(a, "-test.testlogfile=") {
			j.Args = append(j.Args, a)
		}
	}
	for _, v := range os.Environ() {
		if forwarded.MatchString(v) {
			j.Env = append(j.Env, v)
		}
	}
	return j
}

func tail(file string, lines int) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return strings.Join(all, "\n")
}
